"""From how many workers on is the driver what a step waits for? A simulation from measured costs, held to measured points.

The driver is one thread: each step costs it a time of its own (to describe and put the step, to sum and to move), and each probe
another (to hand it out, take what came, draw its direction again). Workers have at most two probes at hand; a probe takes one of
the machine's cores for a while, and then waits for the answer. Driver times are those of its thread in a real run before a
linear target, at two sizes of the fuse and two numbers of probes; what a worker computes is what is left of a step on one worker.

Rows without ``measured`` are of a cluster with cores for all, four probes a worker and step. Rows with it are points of the
benchmark of scaling on two shared cores: those on one worker give the time that a probe computes, the others check it all.
"""

from __future__ import annotations

import heapq
import statistics
import sys
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.table import Table

from bbfuse.fuse.module import Fuse
from bbfuse.runs.figures import legend_beside, svg, without_frame
from bbfuse.seeds import stream
from experiments.benchmarks.scaling import CASES, PEERS, SERVER_MS, Work
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
    """What came of one step."""

    milliseconds: float
    busy: float
    """The share of it that the driver worked."""


def simulated(costs: Costs, answer_ms: float, workers: int, probes: int, cores: int | None = None) -> Simulated:
    """A step of ``probes``, event by event; without ``cores`` every worker has one of its own."""
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
            heapq.heappush(events, (now + answer_ms, worker, "answered", worker))
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
    """Workers from which on the driver's own time for their probes of a step is longer than theirs; at least 1."""
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
                work.ask(pairs)
                times = []
                for number in range(STEPS + 3):
                    began = time.thread_time(), time.perf_counter()
                    work.step(number)
                    times.append((time.thread_time() - began[0], time.perf_counter() - began[1]))
                driver, whole = (1000 * statistics.median(part) for part in zip(*times[3:], strict=True))
                found.append({"parameters": work.parameters, "probes": work.probes, "driver_ms": driver, "step_ms": whole})
    return found


def costs_of(found: list[dict[str, Any]], parameters: int) -> Costs:
    """By straight lines through what was measured, in the probes of a step and then in the fuse's size."""
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
    """Milliseconds that a probe computes where one worker takes ``step_ms``: its probes follow one another, and the driver begins
    and ends the step."""
    return max(0.0, (step_ms - step - probe) / probes - answer_ms)


def _checks(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points of scaling: rows of simulated steps beside measured ones."""
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
    """All rows that follow from what was `measured`."""
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
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in rows if row["measured"] is None]
    for size, line in zip(sorted({row["parameters"] for row in rows}), ("-", "--"), strict=True):
        for answer, colour in zip(ANSWERS_MS, ("#4c72b0", "#dd8452", "#55a868"), strict=True):
            mine = [row for row in rows if (row["parameters"], row["answer_ms"]) == (size, answer)]
            axes.plot(
                [row["workers"] for row in mine], [row["steps_per_second"] * row["probes"] for row in mine], line, color=colour,
                label=f"{answer} ms, {size:,} parameters",
            )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="probes a second (simulated)")
    without_frame(axes)
    legend_beside(axes)
    (RESULTS / "saturation.svg").write_text(svg(figure))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("case", "parameters", "answer, ms", "workers", "steps/s", "driver busy", "saturates at", "measured", "error")
    for row in rows:
        if row["measured"] is None and row["workers"] not in SHOWN:
            continue
        seen = ("", "") if row["measured"] is None else (f"{row['measured']:.2f}", f"{100 * row['relative_error']:+.0f} %")
        table.add_row(
            row["case"], f"{row['parameters']:,}", str(row["answer_ms"]), str(row["workers"]), f"{row['steps_per_second']:.2f}",
            f"{100 * row['driver_busy']:.0f} %", f"{row['saturates_at']:,.0f}", *seen,
        )  # fmt: skip
    return table


def main(arguments: list[str]) -> int:
    """The command line; the exit code."""
    return command("saturation", _compute, _table, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
