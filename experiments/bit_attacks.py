"""Digits targets under bit errors that are chosen to do harm: robust error against the number of flips, three attacks.

Targets as in `experiments.hardened_targets`. ``attack``: `projected` gradients, `progressive` (the bit-flip attack), `halved`
(losses alone, 200 queries), or `random`, as many flips on average on ten chips. The attacks use 64 validation images; errors are
in percent of held-out images. Stutz et al. (TPAMI 2023, abstract): with 320 flips chosen on CIFAR-10 an unhardened network is at
chance (above 90 % error), an adversarially trained one at 26.22 %.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from statistics import mean

import torch
from rich.table import Table

from backends.base import Chip
from backends.datasets.loading import load
from backends.memory.attacks import search as attacks
from backends.memory.attacks.loss import AttackLoss
from backends.training.recipe import RECIPE
from bbfuse.compare.display.plots import BLUE, GREEN, PURPLE, RED, panels
from bbfuse.compare.display.tables import rows_where, table
from bbfuse.compare.measured import across
from bbfuse.compare.tasks import Row
from bbfuse.seeds import reporting_chips
from experiments.hardened_targets import DIGITS, HardenedTarget, error
from experiments.study import RESULTS, Measurement

__all__ = ["FLIPS", "RESULT", "needed"]

COLOURS = {
    "normal": RED, "rquant": BLUE, "clip": GREEN, "randbet, 10 %": "#ccb974", "advbet": PURPLE, "clip, advbet": "#333333",
}  # fmt: skip
FLIPS = (5, 10, 20, 40, 80, 160, 320)
MOST = {"progressive": 20, "halved": 80}
"""The most flips of attacks that need many losses."""
SEEN, QUERIES, CHIPS, BROKEN = 64, 200, 10, 50.0


def _rows(target: HardenedTarget) -> list[Row]:
    data = load("digits")
    simulator = target.simulator("digits", data, RECIPE)
    stored, seen = simulator.stored, data.validation[:SEEN]
    harm = AttackLoss(simulator, seen.images, seen.labels)

    def error_with(weights: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            return error(simulator.respond(data.test.images, weights), data.test.labels)

    def random(flips: int) -> float:
        rate = flips / (stored.quantization.bits * len(stored.patterns))
        return mean(error_with(simulator.weights(Chip(rate, chip))) for chip in reporting_chips(CHIPS))

    found: dict[str, Callable[[int], float]] = {
        "projected": lambda flips: error_with(simulator.read(attacks.projected(stored, harm.gradient, flips))),
        "progressive": lambda flips: error_with(simulator.read(attacks.progressive(stored, harm.gradient, harm.loss, flips))),
        "halved": lambda flips: error_with(simulator.read(attacks.halved(stored, harm.loss, flips, QUERIES))),
        "random": random,
    }
    clean = error_with(simulator.read(stored.patterns))
    return [
        {
            "data": "digits", "target": f"digits-{target.norm}", "hardening": target.name, "attack": attack, "flips": flips,
            "error": clean, "robust_error": error_after(flips),
        }
        for attack, error_after in found.items() for flips in FLIPS if flips <= MOST.get(attack, flips)
    ]  # fmt: skip


def needed(rows: Sequence[Row]) -> int | None:
    """The fewest flips of ``rows``, of one target and attack, that leave an error above 50 %."""
    return min((row["flips"] for row in rows if row["robust_error"] > BROKEN), default=None)


def _table(rows: list[Row]) -> Table:
    errors = across([{"flips": flips} for flips in FLIPS], "flips", lambda row: f"{row['robust_error']:.1f}")
    broken = {"flips for 50 %": lambda group: str(needed(group) or f"> {group[-1]['flips']}")}
    return table(rows, ["hardening", "attack"], errors | broken, title="digits, error in % by number of chosen flips")


def _draw(rows: list[Row]) -> None:
    with panels(RESULTS / "bit_attacks.svg", 8.4, 3.8) as (axes,):
        for name, colour in COLOURS.items():
            for attack, style in (("projected", "-"), ("progressive", "--"), ("halved", ":")):
                these = rows_where(rows, hardening=name, attack=attack)
                x, y = [row["flips"] for row in these], [row["robust_error"] for row in these]
                axes.plot(x, y, style, marker="o", markersize=3, color=colour, label=f"{name}, {attack}")
        axes.set(xscale="log", xlabel="chosen bit flips", ylabel="held-out error, %")


RESULT = Measurement(
    "bit_attacks", {"data": "digits", "flips": FLIPS, "seen": SEEN, "queries": QUERIES, "chips": CHIPS},
    lambda: [row for target in DIGITS if target.name in COLOURS for row in _rows(target)], _table, _draw,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
