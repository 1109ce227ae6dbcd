"""Making and applying a chip to 11.2 million 8-bit weights (ResNet18), beside the two public ways, in one run.

``uniform``: a uniform number for every stored bit, as the code of Stutz et al. does. ``map``: NeuralFuse's stuck-at map of
8192 x 128 cells, tiled over each layer and applied by and / or in numpy. Both are written anew here, to the same end: codes in,
wrong codes out. ``query_overhead`` is what a fresh chip adds to a query of 128 images.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from backends import flags
from backends.interface import NOMINAL, Chip, InputError
from backends.memory.chips import with_errors
from backends.memory.codes import BITS, Codes, quantize
from backends.simulator import Simulator
from backends.targets import networks
from experiments.study import RESULTS, as_json

__all__ = ["measure"]

RATES = (1e-4, 1e-3, 1e-2)
SHAPE = (3, 32, 32)
MAP_ROWS, MAP_COLUMNS = 8192, 128


@dataclass(frozen=True)
class Asked:
    """Time and memory of making and applying a chip."""

    json: bool = False
    """print the committed file as it is"""
    run: bool = False
    """measure anew and write it"""
    repeats: int = 5
    """how often each is timed; the median counts"""


def ours(stored: list[Codes], rate: float, seed: int) -> list[Tensor]:
    """This project's chips."""
    return [codes.values for codes in with_errors(stored, Chip(rate, seed))]


def uniform(stored: list[Codes], rate: float, seed: int) -> list[Tensor]:
    """A float32 uniform for every bit, compared with the rate, weighed by its place and summed to a mask."""
    rng = torch.Generator().manual_seed(seed)
    places = 2 ** torch.arange(BITS, dtype=torch.uint8)
    read = []
    for codes in stored:
        wrong = torch.rand((codes.values.numel(), BITS), generator=rng) < rate
        mask = (wrong * places).sum(1, dtype=torch.uint8).view(torch.int8)
        read.append(codes.values ^ mask.view(codes.values.shape))
    return read


def stuck_map(stored: list[Codes], rate: float, seed: int) -> list[Tensor]:
    """Stuck-at cells of one map, packed to bytes, laid over every layer from its first row and applied by and / or."""
    faulty = np.random.RandomState(seed).random_sample((MAP_ROWS, MAP_COLUMNS)) < rate
    high = np.random.RandomState(seed + 1).random_sample((MAP_ROWS, MAP_COLUMNS)) < 0.5
    ones, zeros = (np.packbits(faulty & kind, axis=1, bitorder="little").reshape(-1) for kind in (high, ~high))
    read = []
    for codes in stored:
        values: NDArray[np.uint8] = codes.values.numpy().view(np.uint8).reshape(-1)
        tiles = -(-values.size // ones.size)
        kept = values & ~np.tile(zeros, tiles)[: values.size]
        kept |= np.tile(ones, tiles)[: values.size]
        read.append(torch.from_numpy(kept.view(np.int8)).view(codes.values.shape))
    return read


METHODS: dict[str, Callable[[list[Codes], float, int], list[Tensor]]] = {"ours": ours, "uniform": uniform, "map": stuck_map}


def measure(repeats: int) -> list[dict[str, Any]]:
    """A record for each rate and method, the methods taking turns; then the overhead of a fresh chip in a query."""
    torch.set_num_threads(1)
    network = networks.build("resnet18", SHAPE)
    stored = [quantize(m.weight) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    weights = sum(codes.values.numel() for codes in stored)
    rows: list[dict[str, Any]] = []
    for rate in RATES:
        seconds: dict[str, list[float]] = {name: [] for name in METHODS}
        for repeat in range(repeats + 1):
            for name, method in METHODS.items():
                began = time.perf_counter()
                method(stored, rate, repeat)
                seconds[name].append(time.perf_counter() - began)
        median = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first is a warm-up
        for name in METHODS:
            extra = _peak_bytes(lambda name=name, rate=rate: METHODS[name](stored, rate, 0)) / weights  # type: ignore[misc]
            row = {"rate": rate, "method": name, "seconds": median[name], "extra_bytes_per_weight": extra}
            rows.append({**row, "speedup": median[name] / median["ours"]})
    return [*rows, _query_overhead(network, repeats)]


def _query_overhead(network: nn.Module, repeats: int) -> dict[str, Any]:
    simulator, images = Simulator(network), torch.zeros(128, *SHAPE)
    clean: list[float] = []
    fresh: list[float] = []
    with torch.no_grad():
        simulator.logits(images, NOMINAL)
        for repeat in range(repeats):
            for chip, times in ((NOMINAL, clean), (Chip(1e-2, repeat), fresh)):
                began = time.perf_counter()
                simulator.logits(images, chip)
                times.append(time.perf_counter() - began)
    base = statistics.median(clean)
    return {"rate": 1e-2, "method": "query_overhead", "seconds": base, "overhead": statistics.median(fresh) / base - 1.0}


def _peak_bytes(work: Callable[[], object]) -> float:
    """Most bytes held at once during ``work``: numpy's as traced, torch's by its own profiler."""
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


def main(arguments: list[str]) -> int:
    """Show the committed measurement or take a new one; the exit code."""
    try:
        asked = flags.parse(Asked, "python -m experiments.benchmarks.injection", arguments)
        if asked.repeats < 1:
            raise InputError(f"--repeats must be above 0, got {asked.repeats}")
    except InputError as error:
        return flags.refused(error)
    path = RESULTS / "injection.json"
    if asked.run:
        config = {"network": "resnet18", "rates": RATES, "repeats": asked.repeats, "threads": 1}
        path.write_text(as_json(config, measure(asked.repeats)))
    text = path.read_text()
    print(text, end="") if asked.json else Console().print(_table(json.loads(text)["rows"]))
    return 0


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("rate", "method", "ms", "extra bytes a weight", "slower than ours")
    for row in rows:
        if "speedup" in row:
            table.add_row(
                f"{row['rate']:g}", row["method"], f"{1e3 * row['seconds']:.1f}", f"{row['extra_bytes_per_weight']:.2f}",
                f"{row['speedup']:.1f}",
            )  # fmt: skip
        else:
            text = f"a fresh chip adds {100 * row['overhead']:.1f} % to a query of 128 images, {row['seconds']:.2f} s"
            table.caption = text
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
