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
import pkgutil
import re
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from backends.base import InputError, raised

__all__ = ["GIVEN", "Given", "Registry", "about", "executes_code", "known", "label", "renew", "shown"]

T = TypeVar("T")
C = TypeVar("C")

GIVEN = "object:"
"""The names of objects that were given in Python begin with this."""

_FILE = "bbfuse_file_"
"""The names of modules that were imported from a file begin with this."""


class Given(str):
    """The name of an object that was given in Python, together with the object: it lives as long as a name of it does.

    A copy of the name in another process carries the object along.
    """

    component: object

    def __new__(cls, name: str, component: object) -> Given:
        """The object ``component`` is found by the text ``name`` from now on."""
        made = super().__new__(cls, name)
        made.component = component
        renew([made])
        return made

    def __deepcopy__(self, _: object) -> Given:
        return self

    def __reduce__(self) -> tuple[type[Given], tuple[str, object]]:
        return Given, (str(self), self.component)


_given: weakref.WeakValueDictionary[str, Given] = weakref.WeakValueDictionary()
_numbers: Counter[str] = Counter()
"""How many objects had a name; a number is never used again, so that a run folder never names another object."""


class Registry(Generic[T], Mapping[str, T]):
    """The components of one ``kind``, such as ``optimizer``; iterating gives their names in alphabetical order.

    Built-in ones are in the modules of ``package`` and its subpackages; installed ones are entry points of ``group``.
    """

    def __init__(self, kind: str, package: str, group: str, base: type | None = None) -> None:
        """``base``: the class that components derive from, if they are classes."""
        self.kind = kind
        self.group = group
        self._base = base
        self._package = package
        self._found: dict[str, T] = {}
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
            return self._checked(name, self._object(name) if name.startswith(GIVEN) else _attribute(self.kind, name))
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

    def name_of(self, name: str) -> str:
        """The name under which the component called ``name`` was registered; its `label` if it was not."""
        component = self[name]
        return next((known for known, found in self._found.items() if found is component), label(name))

    def adopt(self, component: T | str, name: str | None = None) -> str:
        """The name by which this registry finds ``component``, an object that was given in Python; a name is returned unchanged.

        It is the name under which it was registered, or ``module:attribute`` if another process can import it from there. If
        not, it is a `Given`, ``object:NAME``. ``name``: use this one of that form, for an object that was given before under it.
        """
        if isinstance(component, str):
            return component
        if name is None:
            registered = next((known for known in self if self._found[known] is component), None)
            name = registered or _place_of(component)
            if name is not None:
                return name
            there = next((given for given in list(_given.values()) if given.component is component), None)
            if there is not None:
                return there
            own = f"{GIVEN}{_own_name(component)}"
            _numbers[own] += 1
            name = own if _numbers[own] == 1 else f"{own}-{_numbers[own]}"
        return Given(name, component)

    def _object(self, name: str) -> T:
        found = known(name)
        if not isinstance(found, Given):
            raise InputError(f"`{self.kind}` {name} was given as an object in Python, which is not known here: give it again")
        return found.component  # type: ignore[return-value]

    def _checked(self, name: str, found: T) -> T:
        if self._base is None or (isinstance(found, type) and issubclass(found, self._base)):
            return found
        got = found.__name__ if isinstance(found, type) else f"an object of {type(found).__name__}"
        raise InputError(f"`{self.kind}` {name} must be a class derived from {self._base.__name__}, got {got}")

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


def known(name: str) -> str:
    """``name`` as a `Given` if it is the name of an object that is known here, else unchanged."""
    return name if isinstance(name, Given) else _given.get(name, name)


def renew(names: Iterable[object]) -> None:
    """Make the objects that ``names`` hold found by their names again, if others were given these since."""
    _given.update({str(name): name for name in names if isinstance(name, Given)})


def label(name: str) -> str:
    """A short form of ``name``: of ``module:attribute`` the attribute, of an object that is known here its own name."""
    found = known(name)
    return _own_name(found.component) if isinstance(found, Given) else name.rpartition(":")[2]


def shown(name: str) -> str:
    """``name`` for readers: an object by its own name, other names unchanged."""
    return label(name) if name.startswith(GIVEN) else name


def executes_code(name: str) -> bool:
    """Whether looking up ``name`` imports a module that the name itself chooses."""
    return any(":" in part and not part.startswith(GIVEN) for part in name.split("+"))


def about(component: object) -> str:
    """The first paragraph of the component's docstring without its full stop, for help and documentation."""
    text = (component.__doc__ or "").strip()
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


def _origin(component: object) -> str:
    return f"{getattr(component, '__module__', '')}:{getattr(component, '__qualname__', repr(component))}"


def _own_name(component: object) -> str:
    """What an object is called: its ``name`` or ``__name__``, else its class, in lower case."""
    names = (getattr(component, name, None) for name in ("name", "__name__"))
    own = next((name for name in names if isinstance(name, str) and name), type(component).__name__)
    return re.sub(r"[^\w.-]+", "-", own.lower()).strip("-")


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
        words = raised(error)
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
