"""Results that are committed: one flat record a row in ``results/NAME.json``, with what it was computed from and on.

``python -m experiments.NAME`` prints the committed result as a table, ``--json`` prints the file, ``--run`` computes it and
writes it anew. A study is a result whose rows are runs, resumed (in ``runs/NAME``) until all are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.table import Table

from backends import flags
from backends.interface import InputError
from bbfuse.config import RunConfig, to_dict
from bbfuse.run import SCHEMA, execute

__all__ = ["RESULTS", "Study", "Task", "as_json", "command"]

RESULTS = Path(__file__).parent / "results"


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
        """Where the run lies, a name made from its settings: the same settings are never run twice."""
        digest = hashlib.sha256(json.dumps(to_dict(self.config), sort_keys=True).encode()).hexdigest()
        return root / digest[:16]


@dataclass(frozen=True)
class Study:
    """Tasks, what a record keeps of a summary, and how to draw the whole."""

    name: str
    tasks: Sequence[Task]
    record: Callable[[dict[str, Any]], dict[str, Any]]
    draw: Callable[[list[dict[str, Any]], list[Path]], None]
    table: Callable[[list[dict[str, Any]]], Table]

    def main(self, arguments: Sequence[str]) -> int:
        """The command line; the exit code."""
        return command(self.name, self._compute, self.table, arguments)

    def _compute(self) -> tuple[Any, list[dict[str, Any]]]:
        root = Path("runs") / self.name
        folders, rows = [], []
        for number, task in enumerate(self.tasks, 1):
            print(f"{number} of {len(self.tasks)}: {task.labels}", file=sys.stderr)
            folder = task.folder(root)
            if (folder / "config.json").exists():
                summary = execute(replace(RunConfig(), resume=folder))
            else:
                summary = execute(replace(task.config, out=folder))
            folders.append(folder)
            rows.append({**task.labels, **self.record(summary)})
        self.draw(rows, folders)
        return [to_dict(task.config) for task in self.tasks], rows


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
