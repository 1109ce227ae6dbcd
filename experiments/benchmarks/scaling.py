"""Steps a second on workers of Ray and what travels, beside EvoTorch's actors on the same loss in the same run.

`compute`: a ResNet18 for 32x32 computes in the worker, some ten milliseconds of one core a probe. `remote`: a server on loopback
that takes 50 ms for a request, any number of them at once. Steps are those of `nes` with 16 or 64 probes, without a head.

`peer`: the loss of a large fuse before a small linear target, 16 probes a step, two workers; EvoTorch's SNES with two actors, in
its mode that sends distributions and not points. Bytes are those of the pickles: of a probe's own messages (`bytes_per_probe`),
and of all that travels to a node and back in a step, the fuse too, over its probes (`..._in_all`); EvoTorch's likewise.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

from rich.table import Table

from bbfuse.compare.display.tables import lines
from bbfuse.compare.measured import value
from bbfuse.compare.tasks import Row
from experiments.benchmarks.evotorch_actors import evotorch_row
from experiments.benchmarks.serving import SERVER_MS, serve_slow, served
from experiments.benchmarks.workers import CASES, PEERS, Work, step_seconds
from experiments.study import Measurement

__all__ = ["RESULT", "measure"]

STEPS = 15


def _ours(name: str, workers: int, steps: int, url: str | None = None) -> Row:
    with ExitStack() as stack:
        work = Work(name, workers, url, stack)
        seconds = step_seconds(work.step, steps)
        probes = (steps + 3) * work.probes
        return {
            "case": name, "workers": workers, "steps_per_second": 1.0 / seconds, "bytes_per_probe": work.sent / probes,
            "bytes_per_probe_in_all": (work.sent + work.put) / probes, "peer": None, "peer_steps_per_second": None,
            "peer_bytes_per_probe": None,
        }  # fmt: skip


def measure(steps: int) -> list[Row]:
    """A row for each case and number of workers, and for each peer."""
    rows = []
    with served(serve_slow) as url:
        for name, case in CASES.items():
            for workers in case["workers"]:  # type: ignore[attr-defined]
                rows.append(_ours(name, workers, steps, url if case["target"] == "server" else None))
    return rows + [{**_ours(name, 2, steps), **evotorch_row(name, steps)} for name in PEERS]


def _table(rows: list[Row]) -> Table:
    one = {row["case"]: row["steps_per_second"] for row in rows if row["workers"] == 1}
    return lines(rows, {
        "case": value("case"), "workers": value("workers"), "steps a second": value("steps_per_second", ".2f"),
        "times one": lambda row: f"{row['steps_per_second'] / one[row['case']]:.2f}" if row["case"] in one else "",
        "bytes a probe": value("bytes_per_probe", ",.0f"), "in all": value("bytes_per_probe_in_all", ",.0f"),
        "EvoTorch: steps": value("peer_steps_per_second", ",.2f"), "bytes": value("peer_bytes_per_probe", ",.2f"),
    })  # fmt: skip


SETTINGS = {"steps": STEPS, "threads": 1, "cores": os.cpu_count(), "server_ms": SERVER_MS, "cases": {**CASES, **PEERS}}
RESULT = Measurement("benchmarks.scaling", SETTINGS, lambda: measure(STEPS), _table)

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
