"""Accuracy of the digits target against bit error rate, for the papers' ways to store weights, at 8 and at 4 bits.

Held-out images, 50 chips each (seeds 50,000 to 50,049), random bit errors, no fuse and no head. Each scheme stores what its
authors store: `neuralfuse` the weights of convolutions and linear layers, `normal` and `rquant` all parameters; rows with
``stored`` set to ``weights`` compare the number formats alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from statistics import mean, pstdev
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table

from backends.base import NOMINAL, Chip
from backends.datasets.loading import load
from backends.memory.config import PRESETS, Memory
from backends.memory.simulator import Simulator
from backends.targets.fit import fitted
from bbfuse.runs.figures import legend_beside, svg, without_frame
from bbfuse.seeds import reporting_chips
from bbfuse.training.evaluation import accuracy
from experiments.study import RESULTS, command

__all__ = ["chips_needed", "guarantee", "main"]

Scheme = Literal["neuralfuse", "normal", "rquant"]
SCHEMES: tuple[Scheme, ...] = ("neuralfuse", "normal", "rquant")
BITS = (8, 4)
RATES = (1e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1)
CHIPS = 50
DELTA = 0.01
COLOURS = {"neuralfuse": "#4c72b0", "normal": "#c44e52", "rquant": "#55a868"}


def guarantee(images: int, chips: int, delta: float = DELTA) -> float:
    """How far the true robust error may lie above the measured one, with probability at least ``1 - delta``, as a fraction.

    ``sqrt(log((n + 1) / delta) / n) (sqrt(l) + sqrt(n)) / sqrt(l)`` for ``n`` independent images on each of ``l`` independent
    chips (Stutz et al., MLSys 2021, Proposition 1). It says nothing where it is 1 or more.
    """
    root = math.sqrt(math.log((images + 1) / delta) / images)
    return root * (math.sqrt(chips) + math.sqrt(images)) / math.sqrt(chips)


def chips_needed(images: int, slack: float, delta: float = DELTA) -> int | None:
    """The fewest chips with which `guarantee` is at most ``slack``, a fraction; ``None`` where no number of chips is enough."""
    root = math.sqrt(math.log((images + 1) / delta) / images)
    return math.ceil(images / (slack / root - 1) ** 2) if slack > root else None


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("bit_errors", _compute, _tables, arguments)


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    rows = [row for scheme in SCHEMES for bits in BITS for row in _rows(Memory(scheme, bits))]
    rows += [row for scheme in SCHEMES[1:] for row in _rows(Memory(scheme, stored="weights"))]
    _draw(rows)
    return {"data": "digits", "target": "digits", "chips": CHIPS, "delta": DELTA}, rows


def _rows(memory: Memory) -> list[dict[str, Any]]:
    test, simulator = load("digits").test, Simulator(fitted("digits", load("digits")), memory)
    rows = []
    for rate in (0.0, *RATES):
        chips = [Chip(rate, seed) for seed in reporting_chips(CHIPS)] if rate else [NOMINAL]
        found = [accuracy(simulator.logits(test.images, chip), test.labels) for chip in chips]
        rows.append({
            "data": "digits", "target": "digits", "scheme": memory.quantization, "bits": memory.bits,
            "stored": memory.stored or PRESETS[memory.quantization][1], "rate": rate, "chips": len(chips), "images": len(test),
            "accuracy_mean": mean(found), "accuracy_sd": pstdev(found), "slack": guarantee(len(test), CHIPS) if rate else None,
        })  # fmt: skip
    return rows


def _tables(rows: list[dict[str, Any]]) -> Group:
    images = rows[0]["images"]
    tables: list[Table | str] = []
    for bits in BITS:
        kinds = list(dict.fromkeys((row["scheme"], row["stored"]) for row in rows if row["bits"] == bits))
        table = Table("rate", *(f"{scheme}\n{stored}" for scheme, stored in kinds), title=f"{bits} bits, accuracy in %")
        for rate in (0.0, *RATES):
            cells = [row for row in rows if row["bits"] == bits and row["rate"] == rate]
            shown = [
                f"{100 * row['accuracy_mean']:.1f}" + (f" ± {100 * row['accuracy_sd']:.1f}" if rate else "") for row in cells
            ]
            table.add_row(f"{100 * rate:g} %", *shown)
        tables.append(table)
    return Group(
        *tables,
        f"mean ± sd of {CHIPS} chips, {images} held-out images. The guarantee (Stutz et al., Proposition 1, 99 %) allows "
        f"{100 * guarantee(images, CHIPS):.0f} points less,\n{100 * guarantee(images, 10**6):.0f} with a million chips.",
    )


def _draw(rows: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for scheme in SCHEMES:
        for bits, style in zip(BITS, ("-", "--"), strict=True):
            these = [
                row for row in rows
                if (row["scheme"], row["bits"], row["stored"]) == (scheme, bits, PRESETS[scheme][1]) and row["rate"]
            ]  # fmt: skip
            x = [100 * row["rate"] for row in these]
            y = [100 * row["accuracy_mean"] for row in these]
            sd = [100 * row["accuracy_sd"] for row in these]
            axes.plot(x, y, style, marker="o", markersize=3, color=COLOURS[scheme], label=f"{scheme}, {bits} bits")
            low, high = ([v + sign * s for v, s in zip(y, sd, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, [min(v, 100.0) for v in high], color=COLOURS[scheme], alpha=0.08, lw=0)
    axes.set_xscale("log")
    axes.set_xlabel("bit error rate, %")
    axes.set_ylabel("held-out accuracy, %")
    without_frame(axes)
    legend_beside(axes)
    (RESULTS / "bit_errors.svg").write_text(svg(figure))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
