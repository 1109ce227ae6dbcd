"""Results that are committed: one flat record a row in ``results/NAME.json``, with what it was computed from and on.

``python -m experiments.NAME`` prints the committed result as a table, ``--json`` prints the file, ``--run`` computes it and
writes it anew. A study is a result whose rows are runs, resumed (in ``runs/NAME``) until all are there; with ``--ray-address``
they are spread over a cluster of Ray.

``python -m experiments.study FILE`` does the runs of a list of one's own: a Python file with ``CONFIGS``, settings in a list
or by names, whose folders lie in ``runs/`` and the file's name. They are spread over this machine's cores, or by
``--ray-address`` over a cluster of Ray, whose machines have to see the same folder. One that fails is told, and the others go on.
"""

from __future__ import annotations

import json
import os
import platform
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.table import Table
from tyro.conf import Positional

from backends import flags
from backends.base import InputError, TargetError
from bbfuse.cli.run import SCHEMA
from bbfuse.config.schema import RunConfig, from_dict, to_dict, validate
from bbfuse.runs.versions import versions
from experiments.carrying import Outcome, Task, differences, outcomes

__all__ = [
    "RESULTS", "Study", "Task", "all_of", "as_json", "carried_out", "command", "configs_of", "main", "rows_of", "settings_of",
    "tier_result", "tiered",
]  # fmt: skip

RESULTS = Path(__file__).parent / "results"


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a committed result."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return rows


@dataclass(frozen=True)
class Asked:
    """Show a committed result."""

    json: bool = False
    """print the file"""
    run: bool = False
    """compute what is missing and write it anew"""


@dataclass(frozen=True)
class Spread(Asked):
    """Show a committed study."""

    ray_address: str | None = None
    """with --run: spread the runs over the Ray there (local, auto, HOST:PORT)"""


def command(
    name: str,
    compute: Callable[[], tuple[Any, list[dict[str, Any]]]],
    table: Callable[[list[dict[str, Any]]], RenderableType],
    arguments: Sequence[str],
    also: Callable[[], list[dict[str, Any]]] = list,
) -> int:
    """The command line of the result ``name``, whose settings and rows ``compute`` gives; the exit code.

    ``also`` gives rows of the same keys that another result has; they are shown behind its own.
    """
    return _answered(Asked, name, lambda _: compute(), table, arguments, also)


@dataclass(frozen=True)
class Tiered(Asked):
    """Show a committed result."""

    tier: str = "cpu"
    """cpu: small targets, for two cores; gpu: the paper's own, on a machine with a GPU; others as the study has them"""


def tier_result(name: str, tier: str) -> str:
    """What the result ``name`` of ``tier`` is called: ``NAME_TIER``, that of ``cpu`` ``NAME``."""
    return name if tier == "cpu" else f"{name}_{tier}"


def tiered(
    name: str,
    compute: Callable[[str], tuple[Any, list[dict[str, Any]]]],
    table: Callable[[list[dict[str, Any]]], RenderableType],
    arguments: Sequence[str],
    tiers: Sequence[str] = ("cpu", "gpu"),
) -> int:
    """The command line of the result ``name``, which ``compute`` gives for one of ``tiers``."""
    try:
        asked = flags.parse(Tiered, f"python -m experiments.{name}", arguments)
        if asked.tier not in tiers:
            raise InputError(f"--tier must be one of {', '.join(tiers)}, got {asked.tier}")
        result = tier_result(name, asked.tier)
        if not asked.run and not (RESULTS / f"{result}.json").exists():
            raise InputError(f"--tier {asked.tier} has no committed result: add --run")
        if asked.run and asked.tier == "gpu" and not torch.cuda.is_available():
            raise InputError("--tier gpu needs a GPU: run it on a machine that has one")
    except InputError as error:
        return flags.refused(error)
    rest = [flag for flag, there in (("--json", asked.json), ("--run", asked.run)) if there]
    return command(result, lambda: compute(asked.tier), table, rest)


def _answered(
    kind: type[Asked],
    name: str,
    compute: Callable[[Any], tuple[Any, list[dict[str, Any]]]],
    table: Callable[[list[dict[str, Any]]], RenderableType],
    arguments: Sequence[str],
    also: Callable[[], list[dict[str, Any]]],
) -> int:
    try:
        asked = flags.parse(kind, f"python -m experiments.{name}", arguments)
        if isinstance(asked, Spread) and asked.ray_address is not None and not asked.run:
            raise InputError("--ray-address has no effect without --run: drop it")
        computed = compute(asked) if asked.run else None
    except InputError as error:
        return flags.refused(error)
    except TargetError as error:
        return flags.refused(error, code=1)
    path = RESULTS / f"{name.split('.')[-1]}.json"
    if computed is not None:
        path.write_text(as_json(*computed))
    result = json.loads(path.read_text())
    result["rows"] += also()
    print(json.dumps(result, indent=1)) if asked.json else Console().print(table(result["rows"]))
    return 0


def carried_out(root: Path, tasks: Sequence[Task], ray_address: str | None = None) -> tuple[list[dict[str, Any]], list[Path]]:
    """The summaries of all ``tasks`` and their folders under ``root``; what is missing of their runs is done, by the Ray at
    ``ray_address`` if there is one.

    Raises:
        TargetError: some failed, once all others are done.
    """
    folders = [task.folder(root) for task in tasks]
    return all_of(tasks, outcomes(tasks, folders, ray_address)), folders


def all_of(tasks: Sequence[Task], found: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The summaries of ``tasks``, of which this was ``found``.

    Raises:
        TargetError: some failed.
    """
    failed = [f"{task.name}: {outcome.reason}" for task, outcome in zip(tasks, found, strict=True) if outcome.summary is None]
    if failed:
        raise TargetError(f"{len(failed)} of {len(tasks)} runs failed, the others are kept; {failed[0]}")
    return [outcome.summary for outcome in found if outcome.summary is not None]


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
    also: Callable[[], list[dict[str, Any]]] = list
    """Rows of the same keys that another study has, shown with its own."""
    carry_out: Callable[[Path, Sequence[Task], str | None], tuple[list[dict[str, Any]], list[Path]]] = carried_out
    """Who does the runs."""

    def main(self, arguments: Sequence[str]) -> int:
        """The command line; the exit code."""
        return _answered(Spread, self.name, lambda asked: self._compute(asked.ray_address), self.table, arguments, self.also)

    def _compute(self, ray_address: str | None = None) -> tuple[Any, list[dict[str, Any]]]:
        self.before()
        tasks = self.tasks()
        summaries, folders = self.carry_out(Path("runs") / self.name, tasks, ray_address)
        records = [
            {**task.labels, **self.record(summary, folder)}
            for task, summary, folder in zip(tasks, summaries, folders, strict=True)
        ]
        return settings_of(tasks), self.rows(records, folders)


def settings_of(tasks: Sequence[Task]) -> dict[str, Any]:
    """What the runs of a study have in common, ``defaults``, and in what each of them, in their order, differs from it."""
    defaults = to_dict(RunConfig())
    return {"defaults": defaults, "runs": [differences(to_dict(task.config), defaults) for task in tasks]}


def configs_of(settings: dict[str, Any]) -> list[RunConfig]:
    """The inverse of `settings_of`."""
    return [from_dict(_merged(settings["defaults"], changes)) for changes in settings["runs"]]


def _merged(defaults: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _merged(value, changes.get(name, {})) if isinstance(value, dict) else changes.get(name, value)
        for name, value in defaults.items()
    }


def as_json(config: Any, rows: list[dict[str, Any]]) -> str:
    """The text of a result: its rows, and what they were computed from and on."""
    whole = {"schema": SCHEMA, "config": config, "commit": _commit(), "machine": _machine(), "rows": rows}
    return json.dumps(whole, indent=1) + "\n"


def _machine() -> dict[str, Any]:
    return {"processor": platform.machine(), "cores": os.cpu_count(), **versions()}


def _commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS, capture_output=True, text=True)
    return done.stdout.strip() or None


@dataclass(frozen=True)
class Own:
    """Do the runs of a list of one's own, or what is missing of them."""

    file: Positional[Path]
    """Python file with CONFIGS, a list of RunConfig or a dict of them by names"""
    ray_address: str | None = None
    """spread them over the Ray there (local, auto, HOST:PORT); over this machine's cores if not given"""
    json: bool = False
    """print the summaries, by names, and nothing else; of a run that failed, the reason"""


def main(arguments: list[str]) -> int:
    """The command line of a list of one's own; the exit code."""
    try:
        asked = flags.parse(Own, "python -m experiments.study", arguments)
        tasks = _listed(asked.file)
        folders = [task.folder(Path("runs") / asked.file.stem) for task in tasks]
        found = outcomes(tasks, folders, asked.ray_address)
    except InputError as error:
        return flags.refused(error)
    if asked.json:
        told = {task.name: outcome.summary or {"failed": outcome.reason} for task, outcome in zip(tasks, found, strict=True)}
        print(json.dumps(told, indent=1))
    else:
        table = Table("run", "images sent", "accuracy before, %", "and after", "folder")
        for task, outcome, folder in zip(tasks, found, folders, strict=True):
            if (summary := outcome.summary) is None:
                table.add_row(task.name, "", "", f"failed: {outcome.reason}", str(folder))
                continue
            before, after = (100 * summary["accuracy"][key]["mean"] for key in ("perturbed", "perturbed_fused"))
            table.add_row(task.name, f"{summary['queries']['images']:,}", f"{before:.1f}", f"{after:.1f}", str(folder))
        Console().print(table)
    return 1 if any(outcome.summary is None for outcome in found) else 0


def _listed(file: Path) -> list[Task]:
    """The runs that ``file`` names."""
    if not file.is_file():
        raise InputError(f"{file} is no file: name a Python file with CONFIGS")
    configs = runpy.run_path(str(file)).get("CONFIGS")
    named = configs if isinstance(configs, dict) else {str(place): config for place, config in enumerate(configs or [])}
    if not named or not all(isinstance(config, RunConfig) for config in named.values()):
        raise InputError(f"{file} must have CONFIGS, RunConfig in a list or a dict, at least one")
    for config in named.values():
        validate(config)
    return [Task({"name": name}, config) for name, config in named.items()]


if __name__ == "__main__":
    from experiments.study import main  # under its own name, by which other processes know what it sends

    sys.exit(main(sys.argv[1:]))
