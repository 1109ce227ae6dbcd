"""A study: tasks, what is recorded of each run, the rows made of the records, their table and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from bbfuse.compare.command import RayShow, result_command
from bbfuse.compare.executor import run_all
from bbfuse.compare.results import ResultFiles
from bbfuse.compare.tasks import Row, Task, settings_of

__all__ = ["Study"]


def _records(records: list[Row], folders: list[Path]) -> list[Row]:
    return records


@dataclass(frozen=True)
class Study:
    """A comparison of many runs whose result is one file of rows."""

    name: str
    tasks: Callable[[], Iterable[Task]]
    """Runs with their labels."""
    record: Callable[[dict[str, Any], Path], Row]
    """What is kept of a run, from its summary and its folder."""
    table: Callable[[list[Row]], RenderableType]
    rows: Callable[[list[Row], list[Path]], list[Row]] = _records
    """From the records (labels and what `record` kept) and folders of all runs to the rows of the result."""
    draw: Callable[[list[Row], list[Path]], None] = lambda rows, folders: None
    """Draws the figures from the rows and the run folders."""
    prepare: Callable[[], None] = lambda: None
    """Makes files that the runs start from, where they are missing."""
    more_rows: Callable[[], list[Row]] = list
    """Rows with the same keys from another study, shown after the own rows."""
    run_all: Callable[[Path, Sequence[Task], str | None], tuple[list[dict[str, Any]], list[Path]]] = run_all
    """Executes the runs."""

    def compute(self, root: Path, ray_address: str | None = None) -> tuple[Any, list[Row]]:
        """Execute what is missing of the runs in ``root``; settings and rows.

        Raises:
            InputError: the Ray at ``ray_address`` cannot be reached.
            TargetError: a run failed.
        """
        self.prepare()
        tasks = list(self.tasks())
        summaries, folders = self.run_all(root, tasks, ray_address)
        records = [
            {**task.labels, **self.record(summary, folder)}
            for task, summary, folder in zip(tasks, summaries, folders, strict=True)
        ]
        rows = self.rows(records, folders)
        self.draw(rows, folders)
        return settings_of(tasks), rows

    def command(self, results: ResultFiles, program: str, arguments: Sequence[str]) -> int:
        """The command line of the study, called as ``program``; runs lie in ``runs/NAME``. The exit code."""

        def compute(show: RayShow) -> tuple[Any, list[Row]]:
            return self.compute(Path("runs") / self.name, show.ray_address)

        return result_command(results, self.name, program, compute, self.table, arguments, self.more_rows, RayShow)
