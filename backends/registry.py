"""Components by name: built in, installed by others as entry points, given as ``module:attribute`` or ``FILE.py:attribute``, or
given as an object in Python.

A component registers itself where it is defined::

    @OPTIMIZERS.register("spsa")
    class Spsa(GradientEstimator): ...

A registry imports the files of its package, and the entry points of its group, when a name is first looked up.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import itertools
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from backends.base import InputError

__all__ = ["GIVEN", "Registry", "about", "executes_code", "objects_in", "restore"]

T = TypeVar("T")
C = TypeVar("C")

GIVEN = "object:"
"""The names of objects that were given in Python begin with this."""

_FILE = "bbfuse_file_"
"""The names of modules that were imported from a file begin with this."""

_given: dict[str, object] = {}


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
            component: T = self._object(name) if name.startswith(GIVEN) else _attribute(self.kind, name)
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

    def adopt(self, component: T | str, name: str | None = None) -> str:
        """The name by which this registry finds ``component``, an object that was given in Python; a name is returned unchanged.

        It is the name under which it was registered, or ``module:attribute`` if another process can import it from there. If
        not, it is ``object:NAME``, which only this process knows, and processes that `restore` was called in. ``name``: use this
        one of that form, for an object that was given before under it.
        """
        if isinstance(component, str):
            return component
        if name is None:
            registered = next((known for known in self if self._found[known] is component), None)
            name = registered or _place_of(component)
            if name is not None:
                return name
            own = getattr(component, "__name__", type(component).__name__).strip("<>").replace("+", "-")
            numbers = itertools.count(1)
            names = (f"{GIVEN}{own}" if number == 1 else f"{GIVEN}{own}-{number}" for number in numbers)
            name = next(free for free in names if _given.get(free, component) is component)
        _given[name] = component
        return name

    def _object(self, name: str) -> T:
        if name not in _given:
            raise InputError(f"`{self.kind}` {name} was given as an object in Python, which is not known here: give it again")
        return _given[name]  # type: ignore[return-value]

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


def objects_in(names: Iterable[object]) -> dict[str, object]:
    """The objects among ``names`` that were given in Python, for another process, which calls `restore` with them."""
    parts = {part for name in names if isinstance(name, str) for part in name.split("+")}
    return {name: _given[name] for name in sorted(parts) if name in _given}


def restore(objects: Mapping[str, object]) -> None:
    """Make ``objects``, from `objects_in`, known here under their names."""
    _given.update(objects)


def executes_code(name: str) -> bool:
    """Whether looking up ``name`` imports a module that the name itself chooses."""
    return any(":" in part and not part.startswith(GIVEN) for part in name.split("+"))


def about(component: object) -> str:
    """The first paragraph of the component's docstring without its full stop, for help and documentation."""
    text = (component.__doc__ or "").strip()
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


def _origin(component: object) -> str:
    return f"{getattr(component, '__module__', '')}:{getattr(component, '__qualname__', repr(component))}"


def _place_of(component: object) -> str | None:
    """``module:attribute`` or ``FILE.py:attribute`` of a function or class that another process can import, else ``None``."""
    module, attribute = getattr(component, "__module__", None), getattr(component, "__qualname__", "")
    if module in (None, "__main__") or not attribute.isidentifier():
        return None
    found = sys.modules.get(module)
    if found is None or getattr(found, attribute, None) is not component:
        return None
    return f"{found.__file__ if module.startswith(_FILE) else module}:{attribute}"


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
    name = f"{_FILE}{path.resolve().as_posix().replace('/', '_').removesuffix('.py')}"
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
