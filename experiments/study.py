"""Results that are committed: one flat record a row in ``results/NAME.json``, with what it was computed from and on.

``python -m experiments.NAME`` prints the committed result as a table, ``--json`` prints the file, ``--run`` computes it and
writes it anew. A study is a result whose rows are runs, resumed (in ``runs/NAME``) until all are there.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.progress import track

from backends import flags
from backends.interface import InputError
from bbfuse.config import RunConfig, from_dict, to_dict
from bbfuse.run import SCHEMA, execute

__all__ = ["RESULTS", "Study", "Task", "as_json", "carried_out", "command", "configs_of", "rows_of", "settings_of"]

RESULTS = Path(__file__).parent / "results"


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a committed result."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return rows


@dataclass(frozen=True)
class Asked:
    """Show a committed result."""

    json: bool = False
    """print the file as it is"""
    run: bool = False
    """compute what is missing and write it anew"""


def command(
    name: str,
    compute: Callable[[], tuple[Any, list[dict[str, Any]]]],
    table: Callable[[list[dict[str, Any]]], RenderableType],
    arguments: Sequence[str],
) -> int:
    """The command line of the result ``name``, whose settings and rows ``compute`` gives; the exit code."""
    try:
        asked = flags.parse(Asked, f"python -m experiments.{name}", arguments)
    except InputError as error:
        return flags.refused(error)
    path = RESULTS / f"{name.split('.')[-1]}.json"
    if asked.run:
        path.write_text(as_json(*compute()))
    text = path.read_text()
    print(text, end="") if asked.json else Console().print(table(json.loads(text)["rows"]))
    return 0


@dataclass(frozen=True)
class Task:
    """One run of a study and how its record is named."""

    labels: dict[str, Any]
    config: RunConfig

    def folder(self, root: Path) -> Path:
        """Where the run lies, named by what differs from the defaults: the same settings are never run twice."""
        changes = _difference(to_dict(self.config), to_dict(RunConfig()))
        return root / hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Study:
    """Tasks, what a record keeps of a run, and how to draw the whole."""

    name: str
    tasks: Callable[[], Sequence[Task]]
    record: Callable[[dict[str, Any], Path], dict[str, Any]]
    rows: Callable[[list[dict[str, Any]], list[Path]], list[dict[str, Any]]]
    """From the records and folders of all runs to the rows that are committed; draws the figures on the way."""
    table: Callable[[list[dict[str, Any]]], RenderableType]
    before: Callable[[], None] = lambda: None
    """Makes what the runs begin with, where it is not there yet."""

    def main(self, arguments: Sequence[str]) -> int:
        """The command line; the exit code."""
        return command(self.name, self._compute, self.table, arguments)

    def _compute(self) -> tuple[Any, list[dict[str, Any]]]:
        self.before()
        tasks = self.tasks()
        summaries, folders = carried_out(Path("runs") / self.name, tasks)
        records = [
            {**task.labels, **self.record(summary, folder)}
            for task, summary, folder in zip(tasks, summaries, folders, strict=True)
        ]
        return settings_of(tasks), self.rows(records, folders)


def carried_out(root: Path, tasks: Sequence[Task]) -> tuple[list[dict[str, Any]], list[Path]]:
    """The summaries of all ``tasks`` and their folders under ``root``; what is missing of their runs is done."""
    folders = [task.folder(root) for task in tasks]
    # every run has one thread; it is the same run wherever and beside whatever it is computed
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        summaries = list(track(pool.map(_run, tasks, folders), "runs", len(folders), console=Console(stderr=True)))
    return summaries, folders


def settings_of(tasks: Sequence[Task]) -> dict[str, Any]:
    """What the runs of a study have in common, ``defaults``, and in what each of them, in their order, differs from it."""
    defaults = to_dict(RunConfig())
    return {"defaults": defaults, "runs": [_difference(to_dict(task.config), defaults) for task in tasks]}


def configs_of(settings: dict[str, Any]) -> list[RunConfig]:
    """The inverse of `settings_of`."""
    return [from_dict(_merged(settings["defaults"], changes)) for changes in settings["runs"]]


def _difference(plain: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    changed = {name: value for name, value in plain.items() if value != defaults[name]}
    return {
        name: _difference(value, defaults[name]) if isinstance(value, dict) else value for name, value in changed.items()
    }  # fmt: skip


def _merged(defaults: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _merged(value, changes.get(name, {})) if isinstance(value, dict) else changes.get(name, value)
        for name, value in defaults.items()
    }


def _run(task: Task, folder: Path) -> dict[str, Any]:
    """Do it, go on with it, or read what it came to."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if (begun := folder / "config.json").exists():
        if from_dict(json.loads(begun.read_text())) != from_dict(to_dict(task.config)):
            raise InputError(f"{folder} holds a run that was begun with other defaults: remove it")
        return execute(replace(RunConfig(), resume=folder))
    return execute(replace(task.config, out=folder))


def as_json(config: Any, rows: list[dict[str, Any]]) -> str:
    """The text of a result: its rows, and what they were computed from and on."""
    whole = {"schema": SCHEMA, "config": config, "commit": _commit(), "machine": _machine(), "rows": rows}
    return json.dumps(whole, indent=1) + "\n"


def _machine() -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"processor": platform.machine(), "cores": os.cpu_count(), **versions}


def _commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS, capture_output=True, text=True)
    return done.stdout.strip() or None
