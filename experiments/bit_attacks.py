"""Digits targets under bit errors that are chosen to hurt: robust error against the number of flips, three attacks.

Targets as in `experiments.bit_error_robustness`. ``attack``: `projected` gradients, `progressive` (the bit-flip attack), `halved`
(losses alone, 200 asked), or `random`, as many flips on average on ten chips. The attacks see 64 validation images; errors are
of held-out images, in percent. Stutz et al. (TPAMI 2023, abstract): with 320 flips chosen on CIFAR-10 an unhardened network is at
chance (above 90 % error), an adversarially trained one at 26.22 %.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.table import Table

from backends.base import Chip
from backends.datasets.loading import load
from backends.memory.attacks import search as attacks
from backends.memory.attacks.loss import Victim
from backends.memory.config import Memory
from backends.memory.simulator import Simulator
from backends.targets.fit import fitted
from backends.training.fitting import RECIPE
from bbfuse.runs.figures import legend_beside, svg, without_frame
from bbfuse.seeds import reporting_chips
from experiments.bit_error_robustness import DIGITS, Cell
from experiments.study import RESULTS, command

__all__ = ["FLIPS", "SHOWN", "main", "needed"]

SHOWN = ("normal", "rquant", "clip", "randbet, 10 %", "advbet", "clip, advbet")
FLIPS = (5, 10, 20, 40, 80, 160, 320)
MOST = {"progressive": 20, "halved": 80}
"""What takes many losses gets no further."""
SEEN, QUERIES, CHIPS, BROKEN = 64, 200, 10, 50.0
COLOURS = dict(zip(SHOWN, ("#c44e52", "#4c72b0", "#55a868", "#ccb974", "#8172b3", "#333333"), strict=True))


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("bit_attacks", _compute, _table, arguments)


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    rows = [row for cell in DIGITS if cell.name in SHOWN for row in _rows(cell)]
    _draw(rows)
    return {"data": "digits", "flips": FLIPS, "seen": SEEN, "queries": QUERIES, "chips": CHIPS}, rows


def _rows(cell: Cell) -> list[dict[str, Any]]:
    data, recipe = load("digits"), cell.recipe(RECIPE)
    assert recipe.hardening is not None
    network = fitted(f"digits-{cell.norm}", data, recipe)
    simulator = Simulator(network, Memory(stored=recipe.hardening.stored), recipe.hardening.quantization)
    stored, seen = simulator.stored, data.validation[:SEEN]
    victim = Victim(simulator, seen.images, seen.labels)

    def error(weights: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            answers = simulator.answers(data.test.images, weights)
        return 100 * (answers.argmax(1) != data.test.labels).double().mean().item()

    def random(flips: int) -> float:
        rate = flips / (stored.quantization.bits * len(stored.patterns))
        return mean(error(simulator.weights(Chip(rate, chip))) for chip in reporting_chips(CHIPS))

    ways: dict[str, Callable[[int], float]] = {
        "projected": lambda flips: error(simulator.read(attacks.projected(stored, victim.gradient, flips))),
        "progressive": lambda flips: error(simulator.read(attacks.progressive(stored, victim.gradient, victim.loss, flips))),
        "halved": lambda flips: error(simulator.read(attacks.halved(stored, victim.loss, flips, QUERIES))),
        "random": random,
    }
    clean = error(simulator.read(stored.patterns))
    return [
        {
            "data": "digits", "target": f"digits-{cell.norm}", "hardening": cell.name, "attack": attack, "flips": flips,
            "error": clean, "robust_error": way(flips),
        }
        for attack, way in ways.items() for flips in FLIPS if flips <= MOST.get(attack, flips)
    ]  # fmt: skip


def needed(rows: Sequence[dict[str, Any]]) -> int | None:
    """The fewest flips of ``rows``, of one target and attack, that leave more than half of the answers wrong."""
    return min((row["flips"] for row in rows if row["robust_error"] > BROKEN), default=None)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "hardening", "attack", *map(str, FLIPS), "breaks", title="digits, error in % by chosen flips", padding=(0, 0)
    )  # fmt: skip
    for name, attack in dict.fromkeys((row["hardening"], row["attack"]) for row in rows):
        mine = [row for row in rows if (row["hardening"], row["attack"]) == (name, attack)]
        shown = [f"{row['robust_error']:.1f}" for row in mine] + [""] * (len(FLIPS) - len(mine))
        table.add_row(name, attack, *shown, str(needed(mine) or f"> {mine[-1]['flips']}"))
    return table


def _draw(rows: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for name in SHOWN:
        for attack, style in (("projected", "-"), ("progressive", "--"), ("halved", ":")):
            mine = [row for row in rows if (row["hardening"], row["attack"]) == (name, attack)]
            x, y = [row["flips"] for row in mine], [row["robust_error"] for row in mine]
            axes.plot(x, y, style, marker="o", markersize=3, color=COLOURS[name], label=f"{name}, {attack}")
    axes.set_xscale("log")
    axes.set_xlabel("chosen bit flips")
    axes.set_ylabel("held-out error, %")
    without_frame(axes)
    legend_beside(axes)
    (RESULTS / "bit_attacks.svg").write_text(svg(figure))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
