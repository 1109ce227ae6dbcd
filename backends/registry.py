"""Components by name: built in, installed by others as entry points, or given as ``module:attribute`` or ``FILE.py:attribute``.

A component registers itself where it is defined::

    @OPTIMIZERS.register("spsa")
    class Spsa(GradientEstimator): ...

A registry imports the files of its package, and the entry points of its group, when a name is first looked up.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from backends.base import InputError

__all__ = ["Registry", "about"]

T = TypeVar("T")
C = TypeVar("C")


class Registry(Generic[T], Mapping[str, T]):
    """The components of one ``kind``, such as ``optimizer``; iterating gives their names in alphabetical order.

    Built-in ones are in the modules of ``package`` and its subpackages; installed ones are entry points of ``group``. `name_of`
    returns the name of a component.
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._package = package
        self._found: dict[str, T] = {}
        self._names: dict[int, str] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[C], C]:
        """A decorator: what it decorates is the component called ``name``.

        Raises:
            ValueError: another component has that name.
        """

        def decorate(component: C) -> C:
            self._add(name, component)  # type: ignore[arg-type]
            return component

        return decorate

    def __getitem__(self, name: str) -> T:
        """The component called ``name``: a registered name, ``module:attribute`` or ``FILE.py:attribute``.

        Raises:
            InputError: there is none; the message names similar ones.
        """
        self._complete_by_import()
        if name in self._found:
            return self._found[name]
        if ":" in name:
            component: T = _attribute(self.kind, name)
            self._names[id(component)] = name.rpartition(":")[2]
            return component
        close = difflib.get_close_matches(name, self._found, 1, 0.6)
        hint = f", did you mean {close[0]}?" if close else ""
        raise InputError(f"`{self.kind}` must be one of {', '.join(self)}, or module:attribute, got {name}{hint}")

    def __contains__(self, name: object) -> bool:
        self._complete_by_import()
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        self._complete_by_import()
        return iter(sorted(self._found, key=str.lower))

    def __len__(self) -> int:
        self._complete_by_import()
        return len(self._found)

    def name_of(self, component: T) -> str:
        """The name under which ``component`` was registered; that of the attribute if it was given as ``module:attribute``."""
        for name, found in self._found.items():
            if found is component:
                return name
        return self._names[id(component)]

    def _add(self, name: str, component: T) -> None:
        there = self._found.get(name)
        if there is not None and _origin(there) != _origin(component):  # a file that is imported again replaces its component
            raise ValueError(f"there is another {self.kind} called {name}: {_origin(there)}")
        self._found[name] = component

    def _complete_by_import(self) -> None:
        if self._complete:
            return
        self._complete = True
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(package.__path__, f"{self._package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        for point in entry_points(group=self.group):
            if point.name not in self._found:
                self._add(point.name, point.load())


def about(component: object) -> str:
    """The first paragraph of the component's docstring without its full stop, for help and documentation."""
    text = (component.__doc__ or "").strip()
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


def _origin(component: object) -> str:
    return f"{getattr(component, '__module__', '')}:{getattr(component, '__qualname__', repr(component))}"


def _attribute(kind: str, place: str) -> T:  # type: ignore[type-var]
    where, _, attribute = place.rpartition(":")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:  # a foreign module may raise anything
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"`{kind}` {place} cannot be imported: {words}") from error
    if not hasattr(module, attribute):
        raise InputError(f"`{kind}` {place}: {where} has no attribute {attribute}")
    found: T = getattr(module, attribute)
    return found


def _from_file(path: Path) -> ModuleType:
    """The module in ``path``, imported once in a process."""
    name = f"bbfuse_file_{path.resolve().as_posix().replace('/', '_').removesuffix('.py')}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise FileNotFoundError(f"no such file {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
