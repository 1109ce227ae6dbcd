"""Where a white-box step for the population spends its time: part by part, in float32 and in bfloat16, a batch of 64.

``chip``: the stored weights as a fresh chip reads them; ``fuse``: forward through the generator; ``target``: forward through the
target on that chip; ``backward``: through target and fuse; ``optimizer``: the step of Adam. ``clean`` is a forward through the
target at nominal voltage, which all chips of a step share. ``4 chips`` are forward and backward of the target for four chips that
are in memory: one after the other, or ``in one pass``. Milliseconds, medians of turns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from backends.base import NOMINAL, Chip
from backends.memory.config import Memory
from backends.memory.simulator import Simulator
from backends.targets import networks
from backends.targets.base import image_shape_of
from bbfuse.compare.display.tables import table
from bbfuse.compare.measured import across, value
from bbfuse.compare.tasks import Row
from bbfuse.fuse.module import Fuse
from bbfuse.seeds import stream
from experiments.study import Measurement

__all__ = ["CASES", "RESULT", "measure"]

CASES = (("digits", "UNetS"), ("resnet20", "UNetS"), ("resnet20", "ConvL"))
BATCH, RATE, TURNS, CHIPS = 64, 0.01, 7, 4
PRECISIONS = {"float32": False, "bfloat16": True}


def measure(target: str, generator: str, turns: int, device: str = "cpu") -> list[Row]:
    """A row for each part and precision."""
    shape = image_shape_of(target)
    simulator = Simulator(networks.build(target, shape).to(device), Memory(errors="neuralfuse-map"))
    fuse = Fuse(generator, shape, stream(0, "fuse")).to(device)
    optimizer = torch.optim.Adam(fuse.parameters())
    rng = torch.Generator().manual_seed(0)
    images, labels = (torch.rand((BATCH, *shape), generator=rng) * 2 - 1).to(device), torch.arange(BATCH).to(device) % 10
    rows = []
    for first, (precision, enabled) in zip((0, 10_000), PRECISIONS.items(), strict=True):
        seen = images.contiguous(memory_format=torch.channels_last) if enabled else images
        each: dict[str, list[float]] = {}
        for turn in range(turns + 1):
            with torch.autocast(device, torch.bfloat16, enabled=enabled):
                for part, seconds in _parts(simulator, fuse, optimizer, seen, labels, first + turn):
                    each.setdefault(part, []).append(seconds)
        rows += [
            {"target": target, "generator": generator, "device": device, "precision": precision, "part": part,
             "ms": 1e3 * median(seconds[1:])}
            for part, seconds in each.items()
        ]  # fmt: skip
    return rows


def _parts(
    simulator: Simulator, fuse: Fuse, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, turn: int
) -> Iterator[tuple[str, float]]:
    def timed(work: Callable[[], Any]) -> tuple[Any, float]:
        began = time.perf_counter()
        result = work()
        if images.is_cuda:
            torch.cuda.synchronize()
        return result, time.perf_counter() - began

    def loss(logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits.float(), labels.repeat(len(logits) // len(labels)))

    chips = [Chip(RATE, CHIPS * turn + place) for place in range(CHIPS)]
    optimizer.zero_grad()
    _, seconds = timed(lambda: simulator.weights(chips[0]))
    yield "chip", seconds
    fused, seconds = timed(lambda: fuse(images))
    yield "fuse", seconds
    logits, seconds = timed(lambda: simulator.logits(fused, chips[0]))
    yield "target", seconds
    _, seconds = timed(loss(logits).backward)
    yield "backward", seconds
    _, seconds = timed(optimizer.step)
    yield "optimizer", seconds
    with torch.no_grad():
        _, seconds = timed(lambda: simulator.logits(fused, NOMINAL))
    yield "clean", seconds
    for chip in chips:
        simulator.weights(chip)
    given = images.detach().requires_grad_()
    ways: dict[str, Callable[[], Tensor]] = {
        f"{CHIPS} chips": lambda: torch.cat([simulator.logits(given, chip) for chip in chips]),
        f"{CHIPS} chips in one pass": lambda: simulator.logits_of_all(given, chips).flatten(0, 1),
    }
    for way, query in ways.items():
        _, seconds = timed(lambda query=query: loss(query()).backward())  # type: ignore[misc]
        yield way, seconds


def _rows() -> list[Row]:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [row for device in devices for case in CASES for row in measure(*case, TURNS, device)]


def _table(rows: list[Row]) -> Table:
    named = [
        {**row, "case": "\n".join(row[key] for key in ("target", "generator", "device", "precision")), "part, ms": row["part"]}
        for row in rows
    ]
    return table(named, ["part, ms"], across(named, "case", value("ms", ".1f")))


RESULT = Measurement("benchmarks.training", {"batch": BATCH, "rate": RATE, "turns": TURNS, "threads": 1}, _rows, _table)

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
