"""Execute tasks on this machine's cores or on Ray: new runs start, interrupted runs resume, finished runs are read.

A run that fails does not stop the others.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from backends.base import InputError, TargetError, one_line
from backends.models.reading import holds_code
from bbfuse.compare.progress import wait_for
from bbfuse.compare.tasks import Outcome, Task
from bbfuse.config.schema import RunConfig
from bbfuse.config.serialization import from_dict, to_dict
from bbfuse.execution import execute

__all__ = ["connected", "outcomes", "process_count", "run_all", "run_task", "summaries_of"]

Begin = Callable[[Task, Path], "Future[dict[str, Any]]"]


def run_all(root: Path, tasks: Sequence[Task], ray_address: str | None = None) -> tuple[list[dict[str, Any]], list[Path]]:
    """Execute what is missing of ``tasks``; the summaries of all runs and their folders under ``root``.

    ``ray_address`` is that of a Ray cluster; without it the runs use this machine's cores.

    Raises:
        InputError: the Ray cluster cannot be reached.
        TargetError: at least one run failed; all others are done and kept.
    """
    folders = [task.folder(root) for task in tasks]
    return summaries_of(tasks, outcomes(tasks, folders, ray_address)), folders


def outcomes(tasks: Sequence[Task], folders: Sequence[Path], ray_address: str | None = None) -> list[Outcome]:
    """The outcome of each of ``tasks``, whose run folders are ``folders``. Progress is shown on standard error.

    Raises:
        InputError: the Ray cluster at ``ray_address`` cannot be reached.
    """
    with _on_cores(tasks) if ray_address is None else _on_ray(ray_address) as begin:
        return wait_for([begin(task, folder) for task, folder in zip(tasks, folders, strict=True)], tasks, folders)


def summaries_of(tasks: Sequence[Task], found: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The summaries of ``tasks``, whose outcomes are ``found``.

    Raises:
        TargetError: at least one run failed.
    """
    failed = [f"{task.name}: {outcome.reason}" for task, outcome in zip(tasks, found, strict=True) if outcome.summary is None]
    if failed:
        raise TargetError(f"{len(failed)} of {len(tasks)} runs failed, the others are kept; {failed[0]}")
    return [outcome.summary for outcome in found if outcome.summary is not None]


def run_task(task: Task, folder: Path) -> dict[str, Any]:
    """Start, resume or read the run in ``folder``; its summary. For a process of its own: standard error is silenced."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if (begun := folder / "config.json").exists():
        if from_dict(json.loads(begun.read_text())) != from_dict(to_dict(task.config)):
            raise InputError(f"{folder} holds a run that was begun with other defaults: remove it")
        # the folder names the same code of the user's own as the task
        trust = task.config.trust or not holds_code(task.config.target)
        return execute(replace(RunConfig(), resume=folder, trust=trust))
    return execute(replace(task.config, out=folder))


def process_count(devices: Iterable[str]) -> int:
    """Runs that may compute at once on ``devices``: one per core, or one in all if any device is not the CPU.

    A device keeps the weights of many chips in its memory and has no room for a second run.
    """
    return (os.cpu_count() or 1) if all(device == "cpu" for device in devices) else 1


@contextmanager
def _on_cores(tasks: Sequence[Task]) -> Iterator[Begin]:
    cores = process_count(task.config.device for task in tasks)
    free = SimpleQueue[ProcessPoolExecutor]()

    def fresh() -> None:
        # each run has one thread, so its numbers do not depend on the runs beside it
        free.put(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))

    def one(task: Task, folder: Path) -> dict[str, Any]:
        process = free.get()
        try:
            summary = process.submit(run_task, task, folder).result()
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
def _on_ray(address: str) -> Iterator[Begin]:
    import ray

    with connected(address):
        remote: Any = ray.remote(run_task)

        def begin(task: Task, folder: Path) -> Future[dict[str, Any]]:
            claimed = remote.options(num_cpus=task.config.threads, num_gpus=int(task.config.device != "cpu"))
            started: Future[dict[str, Any]] = claimed.remote(task, folder.resolve()).future()
            return started

        yield begin


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to the Ray at ``address``; ``local`` starts one.

    Raises:
        InputError: it cannot be reached.
    """
    import ray

    try:
        ray.init(address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"`ray_address={address}` cannot be reached: {one_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()
