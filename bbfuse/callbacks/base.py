"""Callbacks: objects that are called while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import InputError

__all__ = ["Callback", "Callbacks", "Start", "Status"]


@dataclass(frozen=True)
class Start:
    """A run that begins, or goes on after an interruption."""

    config: dict[str, Any]
    """Its settings, as in ``config.json``."""
    folder: Path
    """The run folder."""
    step: int
    """Steps that are finished: 0 for a new run."""


@dataclass(frozen=True)
class Status:
    """The state of a run."""

    images: int
    """Images sent so far."""
    budget: int
    """Images sent at most."""
    step: int
    """Steps that are finished."""
    steps: int
    """Steps of the run in total."""
    loss: float | None
    """Training loss of the last step; ``None`` if its queries had no response."""
    validation: float | None
    """Accuracy of the last validation, a fraction; ``None`` before the first one."""


class Callback:
    """Called while a run goes on; derive from it and override what you need.

    An exception that a callback raises ends the run, which can be resumed.
    """

    def on_start(self, start: Start) -> None:
        """The run is about to send its first query, or its next one after an interruption."""

    def on_step(self, status: Status) -> None:
        """A step of training has ended."""

    def on_validation(self, status: Status) -> None:
        """A validation has ended; its accuracy is ``status.validation``."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """The run has ended with ``summary``, the content of ``summary.json``."""


class Callbacks(Callback):
    """Several callbacks as one, called in order.

    Raises:
        InputError: another object is among them.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        if not isinstance(callbacks, Sequence) or not all(isinstance(callback, Callback) for callback in callbacks):
            raise InputError(f"`callbacks` must be a list of objects derived from Callback, got {callbacks}")
        self._all = tuple(callbacks)

    def on_start(self, start: Start) -> None:
        """See `Callback`."""
        for callback in self._all:
            callback.on_start(start)

    def on_step(self, status: Status) -> None:
        """See `Callback`."""
        for callback in self._all:
            callback.on_step(status)

    def on_validation(self, status: Status) -> None:
        """See `Callback`."""
        for callback in self._all:
            callback.on_validation(status)

    def on_end(self, summary: dict[str, Any]) -> None:
        """See `Callback`."""
        for callback in self._all:
            callback.on_end(summary)
