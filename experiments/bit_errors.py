"""Accuracy of the digits target against bit error rate, for the papers' ways to store weights, at 8 and at 4 bits.

Held-out images, 50 chips each (seeds 50,000 to 50,049), random bit errors, no fuse and no head. Each scheme stores what its
authors store: `neuralfuse` the weights of convolutions and linear layers, `normal` and `rquant` all parameters; rows with
``stored`` set to ``weights`` compare the number formats alone.
"""

from __future__ import annotations

import math
import sys
from statistics import mean, pstdev
from typing import Literal

from rich.console import Group

from backends.datasets.loading import load
from backends.memory.config import PRESETS, Memory
from backends.memory.simulator import Simulator
from backends.targets.fit import fitted
from bbfuse.compare.display.plots import BLUE, GREEN, RED, panels
from bbfuse.compare.display.tables import rows_where, table
from bbfuse.compare.measured import accuracies, across, band
from bbfuse.compare.tasks import Row
from bbfuse.seeds import reporting_chips
from experiments.study import RESULTS, Measurement

__all__ = ["RESULT", "chips_needed", "guarantee"]

SCHEMES: dict[Literal["neuralfuse", "normal", "rquant"], str] = {"neuralfuse": BLUE, "normal": RED, "rquant": GREEN}
BITS = (8, 4)
MEMORIES = (
    *(Memory(scheme, bits) for scheme in SCHEMES for bits in BITS),
    Memory("normal", stored="weights"), Memory("rquant", stored="weights"),
)  # fmt: skip
RATES = (1e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1)
CHIPS = 50
DELTA = 0.01


def guarantee(images: int, chips: int, delta: float = DELTA) -> float:
    """How far the true robust error may lie above the measured one, with probability at least ``1 - delta``, as a fraction.

    ``sqrt(log((n + 1) / delta) / n) (sqrt(l) + sqrt(n)) / sqrt(l)`` for ``n`` independent images on each of ``l`` independent
    chips (Stutz et al., MLSys 2021, Proposition 1). A value of 1 or more is no guarantee.
    """
    root = math.sqrt(math.log((images + 1) / delta) / images)
    return root * (math.sqrt(chips) + math.sqrt(images)) / math.sqrt(chips)


def chips_needed(images: int, slack: float, delta: float = DELTA) -> int | None:
    """The fewest chips with which `guarantee` is at most ``slack``, a fraction; ``None`` where no number of chips is enough."""
    root = math.sqrt(math.log((images + 1) / delta) / images)
    return math.ceil(images / (slack / root - 1) ** 2) if slack > root else None


def _rows(memory: Memory) -> list[Row]:
    test, simulator = load("digits").test, Simulator(fitted("digits", load("digits")), memory)
    rows = []
    for rate in (0.0, *RATES):
        found = accuracies(simulator, test, rate, reporting_chips(CHIPS))
        rows.append({
            "data": "digits", "target": "digits", "scheme": memory.quantization, "bits": memory.bits,
            "stored": memory.stored or PRESETS[memory.quantization][1], "rate": rate, "chips": len(found), "images": len(test),
            "accuracy_mean": mean(found), "accuracy_sd": pstdev(found), "slack": guarantee(len(test), CHIPS) if rate else None,
        })  # fmt: skip
    return rows


def _cell(row: Row) -> str:
    return f"{100 * row['accuracy_mean']:.1f}" + (f" ± {100 * row['accuracy_sd']:.1f}" if row["rate"] else "")


def _tables(rows: list[Row]) -> Group:
    images = rows[0]["images"]
    named = [{**row, "bit error rate": f"{100 * row['rate']:g} %", "of": f"{row['scheme']}\n{row['stored']}"} for row in rows]
    parts = {bits: rows_where(named, bits=bits) for bits in BITS}
    return Group(
        *(
            table(part, ["bit error rate"], across(part, "of", _cell), title=f"{bits} bits, accuracy in %")
            for bits, part in parts.items()
        ),
        f"mean ± sd of {CHIPS} chips, {images} held-out images. The guarantee (Stutz et al., Proposition 1, 99 %) allows "
        f"{100 * guarantee(images, CHIPS):.0f} points less,\n{100 * guarantee(images, 10**6):.0f} with a million chips.",
    )


def _draw(rows: list[Row]) -> None:
    with panels(RESULTS / "bit_errors.svg", 8.4, 3.8) as (axes,):
        for scheme, colour in SCHEMES.items():
            for bits, style in zip(BITS, ("-", "--"), strict=True):
                these = rows_where(rows, scheme=scheme, bits=bits, stored=PRESETS[scheme][1])
                keys = ("rate", "accuracy_mean", "accuracy_sd")
                x, y, sd = ([100 * row[key] for row in these if row["rate"]] for key in keys)
                band(axes, x, y, sd, style, 0.08, 100.0, color=colour, label=f"{scheme}, {bits} bits")
        axes.set(xscale="log", xlabel="bit error rate, %", ylabel="held-out accuracy, %")


RESULT = Measurement(
    "bit_errors", {"data": "digits", "target": "digits", "chips": CHIPS, "delta": DELTA},
    lambda: [row for memory in MEMORIES for row in _rows(memory)], _tables, _draw,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
