"""A backend that the user gives as an object."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from backends.base import Access, Backend, BackendInfo, Chip, InputError, Sending
from backends.given import is_backend
from backends.kinds.base import BACKENDS, BackendKind, Opening

__all__ = ["Given"]


@BACKENDS.register("object")
class Given(BackendKind):
    """A backend object, as ``bbfuse.fit`` takes it: the access that it declares."""

    @classmethod
    def on_chip(cls, target: str, settings: Any) -> bool:
        """See `BackendKind`; a backend has no architecture."""
        return False

    @classmethod
    def granted(cls, target: str) -> Access:
        """The access that the backend called ``target`` declares."""
        found = _found(target)
        return found.info.access if is_backend(found) else cls.access

    @classmethod
    def open(cls, opening: Opening) -> Backend:
        """See `BackendKind`; it stays open afterwards, since it belongs to the user."""
        found = _found(opening.target)
        if not is_backend(found):
            raise InputError(f"`target` {opening.target} must have info, query and close, as a backend has: give a backend")
        return _Borrowed(found)


class _Borrowed:
    """``backend``, which is not closed."""

    def __init__(self, backend: Backend) -> None:
        self.info: BackendInfo = backend.info
        self._backend = backend

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        return self._backend.query(images, chip, sending)

    def close(self) -> None: ...


def _found(target: str) -> Any:
    from backends.targets.base import TARGETS

    return TARGETS[target]
