"""Progress of a run on standard error: a bar on a terminal, about ten plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bbfuse.callbacks.base import Status

__all__ = ["ProgressDisplay"]

_PLAIN_LINES = 10


class ProgressDisplay:
    """A progress bar on a terminal and in a notebook, about ten plain lines elsewhere.

    ``words`` turns a message of the library into one for the user: on the command line settings become flags.
    """

    def __init__(self, words: Callable[[str], str] = str) -> None:
        self._words = words
        self._console = Console(stderr=True, highlight=False)
        self._bar: tuple[Progress, TaskID] | None = None
        self._printed = 0
        self._began: tuple[float, int] | None = None

    def say(self, message: str) -> None:
        """Print one line for the user."""
        self._console.print(self._words(message), soft_wrap=True, markup=False)

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal or self._console.is_jupyter:
            columns = (
                TextColumn("{task.fields[spent]} images"), BarColumn(), TextColumn("loss {task.fields[loss]}"),
                TextColumn("validation {task.fields[validation]}"), TimeRemainingColumn(compact=True),
            )  # fmt: skip
            bar = Progress(*columns, console=self._console)
            bar.start()
            self._bar = bar, bar.add_task("", total=None, spent="0", loss="-", validation="-")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def update(self, status: Status) -> None:
        """Show the state of the run."""
        now = time.monotonic()
        self._began = began, first = self._began or (now, status.step)
        loss = "-" if status.loss is None else f"{status.loss:.3f}"
        validation = "-" if status.validation is None else f"{100 * status.validation:.1f} %"
        spent = f"{status.images:,} of {status.budget:,}"
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=status.step, total=status.steps, spent=spent, loss=loss, validation=validation)
        elif (tenth := status.step * _PLAIN_LINES // status.steps) > self._printed:
            self._printed = tenth
            left = (now - began) * (status.steps - status.step) / max(status.step - first, 1)
            self.say(f"{spent} images, loss {loss}, validation {validation}, about {left:.0f} s left")
