"""What a kind of backend is: a declared access, settings, and a way to open it for a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from backends.base import Access, Backend, BackendInfo
from backends.memory.config import Memory
from backends.registry import Registry
from backends.settings import NoSettings

if TYPE_CHECKING:
    from backends.datasets.base import Dataset
    from backends.http.codecs.base import Dialect

__all__ = ["BACKENDS", "BackendKind", "Description", "Opening"]


@dataclass(frozen=True)
class Opening:
    """The choices of a run that a backend is opened with."""

    target: str
    data: Dataset
    memory: Memory | None
    """``None``: the target has no bit errors, a network of one's own is not stored but used as it is."""
    device: str
    settings: Any
    """An instance of the kind's ``Config``."""
    say: Callable[[str], None]
    """Takes one-line notes for the user."""
    trust: bool = False
    """Code that comes with files may be executed."""


@dataclass(frozen=True)
class Description:
    """What is known of a backend without opening it."""

    info: BackendInfo
    dialect: Dialect | None = None
    """How requests are encoded, where they go over a network."""


class BackendKind:
    """A kind of backend. One of your own derives from this class and registers itself in `BACKENDS`."""

    Config: ClassVar[type] = NoSettings
    """Its settings: a frozen dataclass. They are the section of the kind's name."""
    access: ClassVar[Access] = Access.LOGITS
    """The access that it grants."""
    over_network: ClassVar[bool] = False
    """Whether responses are paid: they are written to a journal, several requests are in flight at once, and nothing of it
    computes on a device of this machine."""

    @classmethod
    def granted(cls, target: str) -> Access:
        """The access that it grants to the target of that name."""
        return cls.access

    @classmethod
    def on_chip(cls, target: str, settings: Any) -> bool:
        """Whether the target is a network of the architecture ``target`` stored on the chip, so that its energy is known."""
        return True

    @classmethod
    def open(cls, opening: Opening) -> Backend:
        """The backend, ready for queries.

        Raises:
            InputError: it cannot be opened.
        """
        raise NotImplementedError

    @classmethod
    def describe(cls, opening: Opening) -> Description:
        """What a plan needs to know; by default the backend is opened and closed. No query is sent.

        Raises:
            InputError: it could not be opened.
        """
        backend = cls.open(opening)
        try:
            return Description(backend.info)
        finally:
            backend.close()


BACKENDS: Registry[type[BackendKind]] = Registry("backend", "backends.kinds", "bbfuse.backends", BackendKind)
"""All kinds of backends by the name that `backend` takes."""
