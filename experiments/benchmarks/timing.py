"""Time and memory of functions, measured in turns in one process."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping

import torch

__all__ = ["median_seconds", "peak_bytes"]


def median_seconds(
    works: Mapping[str, Callable[[int], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median time by ``clock`` of each of ``works``, called in turns with the number of the turn; the first turn is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            began = clock()
            work(turn)
            seconds[name].append(clock() - began)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def peak_bytes(work: Callable[[], object]) -> float:
    """Peak memory of ``work`` in bytes: numpy's as traced, plus torch's by its own profiler.

    ``work`` is done once for each of the two, since the profiler's own memory would be traced with numpy's.
    """
    tracemalloc.start()
    work()
    _, traced = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    held = highest = 0
    for event in profile.profiler.kineto_results.events() if profile.profiler and profile.profiler.kineto_results else []:
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return float(traced + highest)
