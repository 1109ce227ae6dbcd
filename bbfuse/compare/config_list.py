"""Run the configurations that a Python file lists, and show one table of them.

The file has ``CONFIGS``, a list of `RunConfig` or a dict of them by name. Run folders lie in ``runs/`` and the file's name. The
runs use this machine's cores, or with ``--ray-address`` a Ray cluster whose machines see the same folder. A run that fails is
shown in the table and does not stop the others.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from backends import flags
from backends.base import InputError
from bbfuse.compare.executor import outcomes
from bbfuse.compare.tasks import Outcome, Task
from bbfuse.config.checks import validate
from bbfuse.config.schema import RunConfig

__all__ = ["ConfigList", "main", "tasks_in"]


@dataclass(frozen=True)
class ConfigList:
    """Execute the runs that a Python file lists, or what is missing of them."""

    file: Positional[Path]
    """Python file with CONFIGS, a list of RunConfig or a dict of them by name"""
    ray_address: str | None = None
    """distribute the runs over this Ray (local, auto, HOST:PORT); without it they use this machine's cores"""
    json: bool = False
    """print the summaries by name, and nothing else; for a run that failed, the reason"""


def main(arguments: Sequence[str], program: str) -> int:
    """The command line, called as ``program``; the exit code."""
    try:
        chosen = flags.parse(ConfigList, program, arguments)
        tasks = tasks_in(chosen.file)
        folders = [task.folder(Path("runs") / chosen.file.stem) for task in tasks]
        found = outcomes(tasks, folders, chosen.ray_address)
    except InputError as error:
        return flags.refused(error)
    if chosen.json:
        shown = {task.name: outcome.summary or {"failed": outcome.reason} for task, outcome in zip(tasks, found, strict=True)}
        print(json.dumps(shown, indent=1))
    else:
        Console().print(_table(tasks, found, folders))
    return 1 if any(outcome.summary is None for outcome in found) else 0


def _table(tasks: Sequence[Task], found: Sequence[Outcome], folders: Sequence[Path]) -> Table:
    table = Table("run", "images sent", "accuracy before, %", "and after", "folder")
    for task, outcome, folder in zip(tasks, found, folders, strict=True):
        if (summary := outcome.summary) is None:
            table.add_row(task.name, "", "", f"failed: {outcome.reason}", str(folder))
            continue
        before, after = (100 * summary["accuracy"][key]["mean"] for key in ("perturbed", "perturbed_fused"))
        table.add_row(task.name, f"{summary['queries']['images']:,}", f"{before:.1f}", f"{after:.1f}", str(folder))
    return table


def tasks_in(file: Path) -> list[Task]:
    """The runs that ``file`` lists.

    Raises:
        InputError: there is no such file, or it has no valid list.
    """
    if not file.is_file():
        raise InputError(f"{file} is no file: name a Python file with CONFIGS")
    configs = runpy.run_path(str(file)).get("CONFIGS")
    named = configs if isinstance(configs, dict) else {str(place): config for place, config in enumerate(configs or [])}
    if not named or not all(isinstance(config, RunConfig) for config in named.values()):
        raise InputError(f"{file} must have CONFIGS, RunConfig in a list or a dict, at least one")
    for config in named.values():
        validate(config)
    return [Task({"name": name}, config, whole_report=False) for name, config in named.items()]
