"""Runs carried out, on this machine's cores or by Ray: begun once, gone on with where they were cut, read where they are done.

One that fails loses no other. How all of them stand is shown on standard error meanwhile: in a table on a terminal, elsewhere in
a line when one ends.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from backends.base import InputError
from bbfuse.cli.run import execute
from bbfuse.config.schema import RunConfig, from_dict, to_dict

__all__ = ["Outcome", "Task", "differences", "joined", "outcomes", "processes", "run"]

_LOOK = 0.5  # seconds between looks at how runs stand
_TAIL = 4096  # bytes of a run's events that are read


@dataclass(frozen=True)
class Task:
    """One run of a study and how its record is named."""

    labels: dict[str, Any]
    config: RunConfig

    @property
    def name(self) -> str:
        """Its labels in a line."""
        return ", ".join(str(value) for value in self.labels.values())

    def folder(self, root: Path) -> Path:
        """Where the run lies, named by what differs from the defaults: the same settings are never run twice."""
        changes = differences(to_dict(self.config), to_dict(RunConfig()))
        return root / hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:16]


def differences(plain: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The settings of ``plain`` that are not as in ``defaults``."""
    changed = {name: value for name, value in plain.items() if value != defaults[name]}
    return {
        name: differences(value, defaults[name]) if isinstance(value, dict) else value for name, value in changed.items()
    }  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    summary: dict[str, Any] | None
    """``None`` if it failed."""
    reason: str = ""
    """Why it failed, in one line."""


def run(task: Task, folder: Path) -> dict[str, Any]:
    """Do it, go on with it, or read what it came to; in a process of its own, which says nothing on standard error."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if (begun := folder / "config.json").exists():
        if from_dict(json.loads(begun.read_text())) != from_dict(to_dict(task.config)):
            raise InputError(f"{folder} holds a run that was begun with other defaults: remove it")
        return execute(replace(RunConfig(), resume=folder))
    return execute(replace(task.config, out=folder))


def outcomes(tasks: Sequence[Task], folders: Sequence[Path], ray_address: str | None = None) -> list[Outcome]:
    """What every one of ``tasks`` came to, by the Ray at ``ray_address`` if there is one; by this machine's cores, or one
    after the other where one of them computes on a device, if not.

    Raises:
        InputError: there is no Ray at that address.
    """
    with _by_cores(tasks) if ray_address is None else _by_ray(ray_address) as begin:
        return _ended([begin(task, folder) for task, folder in zip(tasks, folders, strict=True)], tasks, folders)


def processes(devices: Iterable[str]) -> int:
    """How many may compute at once on ``devices``: as many as there are cores, or one where any is not the processor.

    A device has no room for more: each keeps the weights of the chips that it has met there.
    """
    return (os.cpu_count() or 1) if all(device == "cpu" for device in devices) else 1


Begin = Callable[[Task, Path], "Future[dict[str, Any]]"]


@contextmanager
def _by_cores(tasks: Sequence[Task]) -> Iterator[Begin]:
    cores = processes(task.config.device for task in tasks)
    free = SimpleQueue[ProcessPoolExecutor]()

    def fresh() -> None:
        # every run has one thread; it is the same run wherever and beside whatever it is computed
        free.put(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))

    def one(task: Task, folder: Path) -> dict[str, Any]:
        process = free.get()
        try:
            summary = process.submit(run, task, folder).result()
        except BrokenProcessPool:
            fresh()
            raise
        except BaseException:
            free.put(process)
            raise
        free.put(process)
        return summary

    for _ in range(cores):
        fresh()
    with ThreadPoolExecutor(cores) as threads:
        try:
            yield lambda task, folder: threads.submit(one, task, folder)
        finally:
            threads.shutdown(cancel_futures=True)
            while not free.empty():
                free.get().shutdown()


@contextmanager
def _by_ray(address: str) -> Iterator[Begin]:
    import ray

    with joined(address):
        remote: Any = ray.remote(run)

        def begin(task: Task, folder: Path) -> Future[dict[str, Any]]:
            claimed = remote.options(num_cpus=task.config.threads, num_gpus=int(task.config.device != "cpu"))
            started: Future[dict[str, Any]] = claimed.remote(task, folder.resolve()).future()
            return started

        yield begin


@contextmanager
def joined(address: str) -> Iterator[None]:
    """A Ray, started here or that at ``address``.

    Raises:
        InputError: there is none.
    """
    import ray

    try:
        ray.init(address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"--ray-address {address} cannot be reached: {' '.join(str(error).split())[:200]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _ended(running: list[Future[dict[str, Any]]], tasks: Sequence[Task], folders: Sequence[Path]) -> list[Outcome]:
    """The outcomes, once all are there; shows how the runs stand until then."""
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
            done, left = wait(left, _LOOK, FIRST_COMPLETED)
            if console.is_terminal:
                live.update(table(), refresh=True)
                continue
            for place in sorted(running.index(future) for future in done):
                name, state, images, accuracy = _row(running[place], tasks[place], folders[place], before[place])
                what = f"{images} images sent, {accuracy} % accuracy" if accuracy else ""
                console.print(f"{name}: {state} {what}".strip(), soft_wrap=True, markup=False)
    return [_outcome(future) for future in running]


STATES = ("running", "failed", "waiting", "done")


def _row(future: Future[dict[str, Any]], task: Task, folder: Path, before: int) -> tuple[str, str, str, str]:
    """Name, state, images sent of the budget, and accuracy when done."""
    sent, accuracy = _sent(folder), ""
    if not future.done():
        state = "running" if _written(folder) != before else "waiting"
    elif (summary := (outcome := _outcome(future)).summary) is None:
        state = f"failed: {outcome.reason}"
    else:
        state, sent = "done", summary["queries"]["images"]
        accuracy = f"{100 * summary['accuracy']['perturbed_fused']['mean']:.1f}"
    return task.name, state, f"{sent:,} of {task.config.budget:,}", accuracy


def _outcome(future: Future[dict[str, Any]]) -> Outcome:
    error = future.exception()
    if error is None:
        return Outcome(future.result())
    error = getattr(error, "cause", None) or error  # what it was, in a process of Ray
    return Outcome(None, (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300])


def _written(folder: Path) -> int:
    """When something was last written of the run's events (ns); 0 if never."""
    try:
        return (folder / "events.jsonl").stat().st_mtime_ns
    except OSError:
        return 0


def _sent(folder: Path) -> int:
    """Images that the run had sent by its last event."""
    try:
        with (folder / "events.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            *_, last, _ = [b"", *file.read().split(b"\n")]
        return int(json.loads(last)["images"])
    except (OSError, ValueError, KeyError):
        return 0
