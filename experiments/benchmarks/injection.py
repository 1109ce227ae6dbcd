"""Making and applying a chip to 11.2 million 8-bit weights (ResNet18), beside the two public methods, in one run.

``uniform``: a uniform number for every stored bit, as the code of Stutz et al. does. ``map``: NeuralFuse's stuck-at map of
8192 x 128 cells, made in the steps of its code, tiled over each layer and applied by and / or in numpy; ``our map``: the same map
as this project makes it. All are written anew here, with the same input and output: codes, and codes with bit errors.
``query_overhead`` is what a fresh chip adds to a query of 128 images; the last rows time many chips in one batched pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from rich.table import Table

from backends.base import NOMINAL, Chip
from backends.memory.encoding import Patterns, Reading, Stored
from backends.memory.faults.arrays import neuralfuse_map
from backends.memory.faults.independent import random_flips
from backends.memory.simulator import Simulator
from backends.targets import networks
from bbfuse.compare.display.tables import lines
from bbfuse.compare.measured import value
from bbfuse.compare.tasks import Row
from experiments.benchmarks.timing import median_seconds, peak_bytes
from experiments.study import Measurement

__all__ = ["RESULT", "measure"]

RATES = (1e-4, 1e-3, 1e-2)
REPEATS = 9
SHAPE = (3, 32, 32)
BITS = 8
MAP_ROWS, MAP_COLUMNS = 8192, 128

Method = Callable[[float, int], Patterns]
"""From rate and seed to the codes that a chip reads."""


def ours(stored: Stored) -> Method:
    """This project's random chips: each is applied to one array and undone before the next one."""
    reading = Reading(stored, random_flips)
    return lambda rate, seed: reading.on(Chip(rate, seed))


def uniform(stored: Stored) -> Method:
    """A uniform float32 number for every bit, compared with the rate, shifted to its place and summed to a mask."""
    places = 2 ** torch.arange(BITS, dtype=torch.uint8)
    written = torch.from_numpy(stored.patterns)

    def read_back(rate: float, seed: int) -> Patterns:
        wrong = torch.rand((len(written), BITS), generator=torch.Generator().manual_seed(seed)) < rate
        return (written ^ (wrong * places).sum(1, dtype=torch.uint8)).numpy()

    return read_back


def stuck_map(stored: Stored) -> Method:
    """Stuck-at cells as numbers, packed bit by bit into bytes, and tiled over every tensor from its first weight on."""

    def read_back(rate: float, seed: int) -> Patterns:
        draws, kinds = (np.random.RandomState(s).random_sample((MAP_ROWS, MAP_COLUMNS)) for s in (seed, seed + 1))
        faulty, ones, zeros = (np.zeros((MAP_ROWS, MAP_COLUMNS)) for _ in range(3))
        faulty[draws < rate] = 1
        ones[kinds < 0.5] = 1
        zeros[kinds >= 0.5] = 1
        masks = []
        for cells in ((faulty * ones).astype(np.int32), (faulty * zeros).astype(np.int32)):
            mask = np.zeros((MAP_ROWS, MAP_COLUMNS // BITS), np.uint8)
            for weight in range(MAP_COLUMNS // BITS):
                for bit in range(BITS):
                    mask[:, weight] += (cells[:, weight * BITS + bit] << bit).astype(np.uint8)
            masks.append(mask)
        parts = []
        for place in stored.places:
            banks = -(-(place.stop - place.start) // masks[0].size)
            put, cut = (np.tile(mask, (banks, mask.shape[1])).reshape(-1)[: place.stop - place.start] for mask in masks)
            parts.append((stored.patterns[place] & ~cut) | put)
        return np.concatenate(parts)

    return read_back


def own_map(stored: Stored) -> Method:
    """The same map as this project makes it."""
    reading = Reading(stored, neuralfuse_map)
    return lambda rate, seed: reading.on(Chip(rate, seed))


METHODS: dict[str, Callable[[Stored], Method]] = {"ours": ours, "uniform": uniform, "map": stuck_map, "our map": own_map}


def measure(repeats: int) -> list[Row]:
    """A row for each rate and method, in turns; then what a fresh chip and a batched pass cost a query."""
    simulator = Simulator(networks.build("resnet18", SHAPE))
    methods = {name: method(simulator.stored) for name, method in METHODS.items()}
    rows: list[Row] = []
    for rate in RATES:
        seconds = median_seconds({name: partial(method, rate) for name, method in methods.items()}, repeats)
        for name, method in METHODS.items():
            extra = peak_bytes(partial(_once, method, simulator.stored, rate)) / simulator.stored.patterns.size
            row = {"rate": rate, "method": name, "seconds": seconds[name], "extra_bytes_per_weight": extra}
            rows.append({**row, "speedup": seconds[name] / seconds["ours"]})
    return [*rows, _query_overhead(simulator, repeats), *_batched(repeats)]


def _once(method: Callable[[Stored], Method], stored: Stored, rate: float) -> None:
    """One chip by a new method."""
    method(stored)(rate, 0)


def _query_overhead(simulator: Simulator, repeats: int) -> Row:
    """What a fresh chip costs beyond nominal memory."""
    images, rate = torch.zeros(128, *SHAPE), 1e-2
    with torch.no_grad():
        seconds = median_seconds(
            {
                "clean": lambda _: simulator.logits(images, NOMINAL),
                "fresh": lambda turn: simulator.logits(images, Chip(rate, turn)),
            },
            repeats,
        )
    overhead = seconds["fresh"] / seconds["clean"] - 1.0
    return {"rate": rate, "method": "query_overhead", "seconds": seconds["clean"], "overhead": overhead}


def _batched(repeats: int) -> list[Row]:
    """Sixteen chips of the digits target in one pass, against one after the other, for two numbers of images."""
    simulator = Simulator(networks.build("digits", (1, 8, 8)))
    chips = [Chip(1e-2, seed) for seed in range(16)]
    rows = []
    for count in (16, 360):
        images = torch.zeros(count, 1, 8, 8)
        with torch.no_grad():
            seconds = median_seconds(
                {
                    "batched": lambda _, images=images: simulator.logits_of_all(images, chips),  # type: ignore[misc]
                    "single": lambda _, images=images: [simulator.logits(images, chip) for chip in chips],  # type: ignore[misc]
                },
                4 * repeats,
            )
        row = {"rate": 1e-2, "method": f"16 chips in one pass, {count} images", "seconds": seconds["batched"]}
        rows.append({**row, "speedup": seconds["single"] / seconds["batched"]})
    return rows


def _table(rows: list[Row]) -> Table:
    chips, notes = [row for row in rows if "extra_bytes_per_weight" in row], []
    for row in rows:
        if "overhead" in row:
            notes.append(f"a fresh chip adds {100 * row['overhead']:.1f} % to a query of 128 images, {row['seconds']:.2f} s")
        elif "extra_bytes_per_weight" not in row:
            notes.append(f"{row['method']}: {row['speedup']:.1f} times as fast as chip by chip")
    return lines(chips, {
        "bit error rate": value("rate", "g"), "method": value("method"), "ms": value("seconds", ".1f", 1e3),
        "extra bytes a weight": value("extra_bytes_per_weight", ".2f"), "times ours": value("speedup", ".1f"),
    }, min_width=72, caption="\n".join(notes))  # fmt: skip


RESULT = Measurement(
    "benchmarks.injection", {"network": "resnet18", "rates": RATES, "repeats": REPEATS, "threads": 1},
    lambda: measure(REPEATS), _table,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
