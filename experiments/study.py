"""Results that are committed: one flat record a row in ``results/NAME.json``, with what it was computed from and on.

``python -m experiments.NAME`` prints the committed result as a table, ``--json`` prints the file, ``--run`` computes it and
writes it anew. A study is a result whose rows are runs, resumed (in ``runs/NAME``) until all are there.

``python -m experiments.study FILE`` does the runs of a list of one's own: a Python file with ``CONFIGS``, settings in a list
or by names, whose folders lie in ``runs/`` and the file's name. They are spread over this machine's cores, or by
``--ray-address`` over a cluster of Ray, whose machines have to see the same folder.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import runpy
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
from rich.table import Table
from tyro.conf import Positional

from backends import flags
from backends.interface import InputError, TargetError
from bbfuse.config import RunConfig, from_dict, to_dict, validate
from bbfuse.run import SCHEMA, execute

__all__ = ["RESULTS", "Study", "Task", "as_json", "carried_out", "command", "configs_of", "main", "rows_of", "settings_of"]

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
    try:
        asked = flags.parse(Asked, f"python -m experiments.{name}", arguments)
    except InputError as error:
        return flags.refused(error)
    path = RESULTS / f"{name.split('.')[-1]}.json"
    if asked.run:
        path.write_text(as_json(*compute()))
    result = json.loads(path.read_text())
    result["rows"] += also()
    print(json.dumps(result, indent=1)) if asked.json else Console().print(table(result["rows"]))
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
    also: Callable[[], list[dict[str, Any]]] = list
    """Rows of the same keys that another study has, shown with its own."""

    def main(self, arguments: Sequence[str]) -> int:
        """The command line; the exit code."""
        return command(self.name, self._compute, self.table, arguments, self.also)

    def _compute(self) -> tuple[Any, list[dict[str, Any]]]:
        self.before()
        tasks = self.tasks()
        summaries, folders = carried_out(Path("runs") / self.name, tasks)
        records = [
            {**task.labels, **self.record(summary, folder)}
            for task, summary, folder in zip(tasks, summaries, folders, strict=True)
        ]
        return settings_of(tasks), self.rows(records, folders)


def carried_out(root: Path, tasks: Sequence[Task], ray_address: str | None = None) -> tuple[list[dict[str, Any]], list[Path]]:
    """The summaries of all ``tasks`` and their folders under ``root``; what is missing of their runs is done, by the Ray at
    ``ray_address`` if there is one."""
    folders = [task.folder(root) for task in tasks]
    if ray_address is not None:
        return _carried_out_by_ray(ray_address, tasks, folders), folders
    # every run has one thread; it is the same run wherever and beside whatever it is computed
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        summaries = list(track(pool.map(_run, tasks, folders), "runs", len(folders), console=Console(stderr=True)))
    return summaries, folders


def _carried_out_by_ray(address: str, tasks: Sequence[Task], folders: Sequence[Path]) -> list[dict[str, Any]]:
    import ray

    try:
        ray.init(address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"--ray-address {address} cannot be reached: {' '.join(str(error).split())[:200]}") from error
    try:
        run = ray.remote(_run)
        waiting = [
            run.options(num_cpus=task.config.threads).remote(task, folder.resolve())
            for task, folder in zip(tasks, folders, strict=True)
        ]
        every = list(waiting)
        for _ in track(range(len(every)), "runs", console=Console(stderr=True)):
            (come,), waiting = ray.wait(waiting)
            ray.get(come)  # what failed stops the rest
        return list(ray.get(every))
    finally:
        ray.shutdown()


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


@dataclass(frozen=True)
class Own:
    """Do the runs of a list of one's own, or what is missing of them."""

    file: Positional[Path]
    """Python file with CONFIGS, a list of RunConfig or a dict of them by names"""
    ray_address: str | None = None
    """spread them over the Ray there (local, auto, HOST:PORT); over this machine's cores if not given"""
    json: bool = False
    """print the summaries, by names, and nothing else"""


def main(arguments: list[str]) -> int:
    """The command line of a list of one's own; the exit code."""
    try:
        asked = flags.parse(Own, "python -m experiments.study", arguments)
        tasks = _listed(asked.file)
        summaries, folders = carried_out(Path("runs") / asked.file.stem, tasks, asked.ray_address)
    except InputError as error:
        return flags.refused(error)
    except TargetError as error:
        return flags.refused(error, code=1)
    names = [task.labels["name"] for task in tasks]
    if asked.json:
        print(json.dumps(dict(zip(names, summaries, strict=True)), indent=1))
        return 0
    table = Table("run", "images sent", "accuracy before, %", "and after", "folder")
    for name, summary, folder in zip(names, summaries, folders, strict=True):
        before, after = (100 * summary["accuracy"][key]["mean"] for key in ("perturbed", "perturbed_fused"))
        table.add_row(name, f"{summary['queries']['images']:,}", f"{before:.1f}", f"{after:.1f}", str(folder))
    Console().print(table)
    return 0


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
