"""The number of workers above which the driver limits a step: a simulation from measured costs, checked on measured points.

The driver is one thread: it spends a fixed time on each step (to describe it, to sum, to update the fuse) and another on each
probe (to hand it out, to receive its score, to draw its direction again). Workers have at most two probes at hand; a probe
computes on one of the machine's cores and then waits for the response. Driver times are those of its thread in a real run with a
linear target, at two sizes of the fuse and two numbers of probes; the computing time of a probe is what is left of a step on one
worker.

Rows without ``measured`` are a cluster with one core for each worker, four probes a worker and step. Rows with it are points of
the scaling benchmark on two shared cores: those on one worker give the computing time of a probe, the others check the
simulation.
"""

from __future__ import annotations

import heapq
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table

from bbfuse.compare.display.plots import BLUE, GREEN, ORANGE, panels
from bbfuse.compare.display.tables import grouped, lines, percent, rows_where
from bbfuse.compare.measured import value
from bbfuse.fuse.module import Fuse
from bbfuse.seeds import stream
from experiments.benchmarks.serving import SERVER_MS
from experiments.benchmarks.workers import CASES, PEERS, Work
from experiments.study import RESULTS, command, rows_of

__all__ = ["Costs", "Simulated", "rows_from", "saturation", "simulated"]

PAIRS = (8, 32)
STEPS = 15
ANSWERS_MS = (10, 50, 500)
WORKERS = tuple(2**power for power in range(11))
SHOWN = (1, 16, 256)  # of them, in the table
PROBES_A_WORKER = 4
CORES = 2  # of the machine where scaling was measured
AT_HAND = 2


@dataclass(frozen=True)
class Costs:
    """Milliseconds; ``parameters`` is the size of the fuse."""

    parameters: int
    step: float
    """of the driver, once a step"""
    probe: float
    """of the driver, for each probe"""
    compute: float
    """of a worker's core, for each probe"""


@dataclass(frozen=True)
class Simulated:
    """One step."""

    milliseconds: float
    busy: float
    """The share of the step in which the driver worked."""


def simulated(costs: Costs, answer_ms: float, workers: int, probes: int, cores: int | None = None) -> Simulated:
    """A step of ``probes``, event by event; without ``cores`` every worker has its own core."""
    events: list[tuple[float, int, str, int]] = []
    queued, busy = [0] * workers, [False] * workers
    line: deque[int] = deque()
    free = workers if cores is None else cores
    clock, waiting, handed = costs.step, probes, 0

    def hand_out(to: list[int]) -> None:
        nonlocal clock, waiting, handed
        for worker in to[:waiting]:
            clock += costs.probe / 2
            waiting -= 1
            handed += 1
            heapq.heappush(events, (clock, handed, "begin", worker))

    def start(now: float, worker: int) -> None:
        nonlocal free
        busy[worker] = True
        queued[worker] -= 1
        if free:
            free -= 1
            heapq.heappush(events, (now + costs.compute, worker, "computed", worker))
        else:
            line.append(worker)

    hand_out([*range(workers)] * AT_HAND)
    while events:
        now, _, what, worker = heapq.heappop(events)
        if what == "begin":
            queued[worker] += 1
        elif what == "computed":
            heapq.heappush(events, (now + answer_ms, worker, "responded", worker))
            if line:
                heapq.heappush(events, (now + costs.compute, line[0], "computed", line.popleft()))
            else:
                free += 1
        else:
            busy[worker] = False
            clock = max(clock, now) + costs.probe / 2
            hand_out([worker])
        if queued[worker] and not busy[worker]:
            start(now, worker)
    return Simulated(clock, (costs.step + probes * costs.probe) / clock)


def saturation(costs: Costs, answer_ms: float) -> float:
    """The number of workers above which the driver takes longer for their probes of a step than they do; at least 1."""
    theirs = PROBES_A_WORKER * (costs.compute + answer_ms)
    return max(1.0, (theirs - costs.step) / (PROBES_A_WORKER * costs.probe))


def measured() -> list[dict[str, Any]]:
    """The driver's milliseconds and those of whole steps on one worker, by the fuse's size and the number of probes."""
    torch.set_num_threads(1)
    found = []
    for name in PEERS:
        with ExitStack() as stack:
            work = Work(name, 1, None, stack)
            for pairs in PAIRS:
                work.use(pairs)
                times = []
                for number in range(STEPS + 3):
                    began = time.thread_time(), time.perf_counter()
                    work.step(number)
                    times.append((time.thread_time() - began[0], time.perf_counter() - began[1]))
                driver, whole = (1000 * statistics.median(part) for part in zip(*times[3:], strict=True))
                found.append({"parameters": work.parameters, "probes": work.probes, "driver_ms": driver, "step_ms": whole})
    return found


def costs_of(found: list[dict[str, Any]], parameters: int) -> Costs:
    """By straight lines through the measured points, in the probes of a step and then in the fuse's size."""
    sizes = _sizes(found)
    lines = []
    for size in sizes:
        few, many = sorted((point for point in found if point["parameters"] == size), key=lambda point: point["probes"])
        probe = (many["driver_ms"] - few["driver_ms"]) / (many["probes"] - few["probes"])
        step = max(0.0, few["driver_ms"] - few["probes"] * probe)
        lines.append((step, probe, computing(few["step_ms"], few["probes"], step, probe, 0.0)))
    share = (parameters - sizes[0]) / (sizes[1] - sizes[0])
    return Costs(parameters, *(max(0.0, small + share * (large - small)) for small, large in zip(*lines, strict=True)))


def computing(step_ms: float, probes: int, step: float, probe: float, answer_ms: float) -> float:
    """Milliseconds that a probe computes if one worker takes ``step_ms``: its probes follow one another, and the driver starts
    and ends the step."""
    return max(0.0, (step_ms - step - probe) / probes - answer_ms)


def _checks(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points of the scaling benchmark: simulated steps beside measured ones."""
    rows, computed = [], dict[str, float]()
    for row in rows_of("scaling"):
        case: dict[str, Any] = {**CASES, **PEERS}[row["case"]]
        answer = SERVER_MS if case["target"] == "server" else 0
        probes = 2 * case["pairs"]
        costs = costs_of(found, len(Fuse(case["generator"], case["shape"], stream(0, "fuse")).vector()))
        if row["workers"] == 1:
            computed[row["case"]] = computing(1000 / row["steps_per_second"], probes, costs.step, costs.probe, answer)
        costs = Costs(costs.parameters, costs.step, costs.probe, computed.get(row["case"], costs.compute))
        rows.append(_row(row["case"], costs, answer, row["workers"], probes, CORES, row["steps_per_second"]))
    return rows


def _row(
    case: str, costs: Costs, answer: float, workers: int, probes: int, cores: int | None, seen: float | None
) -> dict[str, Any]:
    step = simulated(costs, answer, workers, probes, cores)
    speed = 1000 / step.milliseconds
    return {
        "case": case, "parameters": costs.parameters, "answer_ms": answer, "workers": workers, "probes": probes,
        "steps_per_second": speed, "driver_busy": step.busy, "saturates_at": saturation(costs, answer), "measured": seen,
        "relative_error": None if seen is None else speed / seen - 1.0,
    }  # fmt: skip


def rows_from(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows that follow from the `measured` points."""
    rows = [
        _row("cluster", costs_of(found, size), answer, workers, PROBES_A_WORKER * workers, None, None)
        for size in _sizes(found)
        for answer in ANSWERS_MS
        for workers in WORKERS
    ]
    return rows + _checks(found)


def _sizes(found: list[dict[str, Any]]) -> list[int]:
    return sorted({point["parameters"] for point in found})


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    found = measured()
    rows = rows_from(found)
    _draw(rows)
    costs = [asdict(costs_of(found, size)) for size in _sizes(found)]
    return {"measured": found, "costs": costs, "probes_a_worker": PROBES_A_WORKER}, rows


def _draw(rows: list[dict[str, Any]]) -> None:
    cluster = sorted(rows_where(rows, measured=None), key=lambda row: row["parameters"])
    with panels(RESULTS / "saturation.svg", 7.6, 3.4) as (axes,):
        for ((size,), mine), line in zip(grouped(cluster, "parameters").items(), ("-", "--"), strict=True):
            for answer, colour in zip(ANSWERS_MS, (BLUE, ORANGE, GREEN), strict=True):
                these = rows_where(mine, answer_ms=answer)
                speeds = [row["steps_per_second"] * row["probes"] for row in these]
                label = f"{answer} ms, {size:,} parameters"
                axes.plot([row["workers"] for row in these], speeds, line, color=colour, label=label)
        axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="probes a second (simulated)")


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "case": value("case"), "parameters": value("parameters", ","), "response, ms": value("answer_ms"),
    "workers": value("workers"), "steps/s": value("steps_per_second", ".2f"),
    "driver busy": lambda row: percent(row["driver_busy"], 0, " %"), "saturates at": value("saturates_at", ",.0f"),
    "measured": value("measured", ".2f"),
    "error": lambda row: "" if row["measured"] is None else f"{100 * row['relative_error']:+.0f} %",
}  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Table:
    return lines([row for row in rows if row["measured"] is not None or row["workers"] in SHOWN], COLUMNS)


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("saturation", _compute, _table, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
