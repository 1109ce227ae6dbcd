"""Progress of running tasks on standard error: a live table on a terminal, elsewhere one line when a run ends."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bbfuse.compare.tasks import Outcome, Task, outcome_of

__all__ = ["wait_for"]

STATES = ("running", "failed", "waiting", "done")
_INTERVAL = 0.5  # seconds between updates
_TAIL = 4096  # bytes at the end of a run's events that are read


def wait_for(running: list[Future[dict[str, Any]]], tasks: Sequence[Task], folders: Sequence[Path]) -> list[Outcome]:
    """The outcomes of all runs, once the last one has ended; shows their progress meanwhile."""
    console = Console(stderr=True, highlight=False)
    before = [_written(folder) for folder in folders]
    left = set(running)

    def table() -> Table:
        rows = [
            _row(future, task, folder, age) for future, task, folder, age in zip(running, tasks, folders, before, strict=True)
        ]
        shown = Table("run", "state", "images sent", "accuracy, %", caption=f"{len(rows) - len(left)} of {len(rows)} ended")
        for row in sorted(rows, key=lambda row: STATES.index(row[1].split(":")[0])):
            shown.add_row(*row)
        return shown

    with Live(table(), console=console, auto_refresh=False, transient=True) as live:
        while left:
            done, left = wait(left, _INTERVAL, FIRST_COMPLETED)
            if console.is_terminal:
                live.update(table(), refresh=True)
                continue
            for place in sorted(running.index(future) for future in done):
                name, state, images, accuracy = _row(running[place], tasks[place], folders[place], before[place])
                what = f"{images} images sent, {accuracy} % accuracy" if accuracy else ""
                console.print(f"{name}: {state} {what}".strip(), soft_wrap=True, markup=False)
    return [outcome_of(future) for future in running]


def _row(future: Future[dict[str, Any]], task: Task, folder: Path, before: int) -> tuple[str, str, str, str]:
    """Name, state, images sent out of the budget, and accuracy when done."""
    sent, accuracy = _sent(folder), ""
    if not future.done():
        state = "running" if _written(folder) != before else "waiting"
    elif (summary := (outcome := outcome_of(future)).summary) is None:
        state = f"failed: {outcome.reason}"
    else:
        state, sent = "done", summary["queries"]["images"]
        accuracy = f"{100 * summary['accuracy']['perturbed_fused']['mean']:.1f}"
    return task.name, state, f"{sent:,} of {task.config.budget:,}", accuracy


def _written(folder: Path) -> int:
    """Time of the last write to the run's events (ns); 0 if there is none."""
    try:
        return (folder / "events.jsonl").stat().st_mtime_ns
    except OSError:
        return 0


def _sent(folder: Path) -> int:
    """Images sent up to the run's last event."""
    try:
        with (folder / "events.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            *_, last, _ = [b"", *file.read().split(b"\n")]
        return int(json.loads(last)["images"])
    except (OSError, ValueError, KeyError):
        return 0
