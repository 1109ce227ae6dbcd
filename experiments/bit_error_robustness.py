"""Targets fitted to tolerate wrong bits: their errors on chips never met, beside what Stutz et al. (MLSys 2021) publish.

``--tier cpu``: digits, a network of 25,466 parameters with group normalisation, and CIFAR-10 as JPEG files, in the folder
``data/cifar10-jpeg``, with a residual one of 78,042 that sees 5.7 epochs. ``--tier gpu``: SimpleNet with 5,498,378 parameters by
the published recipe, without AutoAugment, on the 45,000 images that are no validation images.

Errors are in percent, of held-out images, mean and sd over 50 chips (seeds 50,000 to 50,049) and ``seeds`` fits; ``fit_sd`` is
the sd of the fits' means. ``error`` is that of the codes at nominal voltage, ``chips_are`` `trained on` for the one pattern of
fixed-pattern training. ``published`` is the paper's mean for SimpleNet on MNIST (beside digits) or CIFAR-10, where it has one; it
counts an image as wrong if it is so with or without errors, these rows only with. ``energy`` is that of an access at the voltage
of ``rate``, relative to the lowest without errors; ``slack`` what Proposition 1 allows on top of the mean, in points, at 99 %.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any, Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table

from backends.base import NOMINAL, Chip
from backends.datasets.loading import load
from backends.memory.config import PRESETS, Memory
from backends.memory.energy import voltage
from backends.memory.simulator import Simulator
from backends.targets.fit import fitted
from backends.training.fitting import LARGE_RECIPE, RECIPE, Recipe
from backends.training.hardening import Hardening
from bbfuse.runs.figures import legend_beside, svg, without_frame
from bbfuse.seeds import reporting_chips
from experiments.bit_errors import chips_needed, guarantee
from experiments.study import RESULTS, tiered

__all__ = ["CIFAR", "DIGITS", "TIERS", "Cell", "Tier", "main", "measured", "tolerated"]


@dataclass(frozen=True)
class Cell:
    """How a target is hardened, and what the paper has for it: the error, and the robust error by rate, in percent."""

    name: str
    scheme: Literal["normal", "rquant"] = "rquant"
    bits: int = 8
    clip: float | None = None
    randbet: float | None = None
    advbet: int | None = None
    pattern: int | None = None
    gradients: Literal["sum", "mean"] = "sum"
    ranges: Literal["tensor", "global"] = "tensor"
    label_smoothing: float = 0.0
    norm: Literal["gn", "bn"] = "gn"
    published: dict[float, float] = field(default_factory=dict)
    """rate 0 for the error"""

    def recipe(self, usual: Recipe) -> Recipe:
        """How it is fitted where an unhardened target is fitted by ``usual``."""
        preset, stored = PRESETS[self.scheme]
        hardening = Hardening(
            replace(preset, bits=self.bits, ranges=self.ranges), stored, self.clip, self.randbet, self.advbet, self.pattern,
            gradients=self.gradients,
        )  # fmt: skip
        return replace(usual, label_smoothing=self.label_smoothing, hardening=hardening)


@dataclass(frozen=True)
class Tier:
    """Cells of one data set and target, how they are fitted and what they are measured on."""

    data: str
    shown: str
    target: str
    cells: tuple[Cell, ...]
    recipe: Recipe
    rates: tuple[float, ...]
    images: int
    seeds: tuple[int, ...] = (0,)
    chips: int = 50
    device: str = "cpu"


NORMAL, RQUANT, CLIP = Cell("normal", "normal"), Cell("rquant"), Cell("clip", clip=0.1)
RANDBET = replace(CLIP, name="randbet", randbet=0.01)
HIGH = replace(RANDBET, name="randbet, 10 %", randbet=0.1)
DIGITS = (
    replace(NORMAL, published={0: 0.39, 0.01: 0.77, 0.05: 86.37, 0.1: 89.92, 0.15: 89.81}),
    replace(RQUANT, published={0: 0.40, 0.01: 0.69, 0.05: 85.96, 0.1: 90.20, 0.15: 90.10}),
    replace(CLIP, published={0: 0.39, 0.01: 0.48, 0.05: 18.21, 0.1: 88.93, 0.15: 90.06}),
    replace(RANDBET, published={0: 0.36, 0.01: 0.44, 0.05: 3.41, 0.1: 86.29, 0.15: 89.85}),
    HIGH,
    replace(CLIP, name="clip, label smoothing", label_smoothing=1 / 9),
    replace(NORMAL, name="normal, one range", ranges="global"),
    replace(RQUANT, name="rquant, batch norm", norm="bn"),
    replace(CLIP, name="clip, batch norm", norm="bn"),
    Cell("fixed pattern", randbet=0.05, pattern=0),
    replace(CLIP, name="clip, 4 bits", bits=4, published={0: 0.38, 0.01: 0.51, 0.05: 38.75, 0.1: 88.33, 0.15: 89.57}),
    replace(HIGH, name="randbet, 10 %, 4 bits", bits=4, published={0: 0.40, 0.01: 0.47, 0.05: 0.64, 0.1: 1.22, 0.15: 16.72}),
    replace(RQUANT, name="rquant, 4 bits", bits=4, published={0: 0.36, 0.01: 0.72, 0.05: 87.21, 0.1: 90.23, 0.15: 89.88}),
    replace(CLIP, name="clip, 2 bits", bits=2, published={0: 0.47, 0.01: 3.82, 0.05: 89.19, 0.1: 89.92, 0.15: 90.14}),
    replace(HIGH, name="randbet, 10 %, 2 bits", bits=2),
    replace(HIGH, name="randbet, 10 %, mean of gradients", gradients="mean"),
    Cell("advbet", advbet=20),
    replace(CLIP, name="clip, advbet", advbet=20),
)  # fmt: skip
_BOTH = (
    replace(RQUANT, published={0: 4.32, 0.001: 5.54, 0.005: 11.28, 0.01: 32.05, 0.015: 68.65, 0.025: 89.01}),
    replace(CLIP, published={0: 4.82, 0.001: 5.58, 0.005: 6.95, 0.01: 8.93, 0.015: 12.22, 0.025: 27.02}),
    replace(NORMAL, published={0: 4.36, 0.001: 6.37, 0.005: 24.76, 0.01: 72.65, 0.015: 87.40, 0.025: 90.15}),
    replace(RANDBET, published={0: 4.90, 0.001: 5.43, 0.005: 6.36, 0.01: 7.41, 0.015: 8.65, 0.025: 27.21}),
    replace(CLIP, name="clip, label smoothing", label_smoothing=1 / 9, published={
        0: 4.82, 0.001: 6.10, 0.005: 7.36, 0.01: 10.59, 0.015: 18.31,
    }),
    replace(RANDBET, name="randbet, 4 bits", bits=4, published={
        0: 5.39, 0.001: 5.96, 0.005: 7.04, 0.01: 8.34, 0.015: 9.77, 0.025: 14.91,
    }),
)  # fmt: skip
CIFAR = (
    *_BOTH,
    replace(RQUANT, name="rquant, batch norm", norm="bn", published={0: 3.83, 0.001: 6.36, 0.005: 52.52}),
    replace(CLIP, name="clip, batch norm", norm="bn", published={0: 4.46, 0.001: 5.32, 0.005: 8.25}),
    Cell("fixed pattern", randbet=0.01, pattern=0),
)
"""What the small target was fitted with."""
LARGE = (
    *_BOTH,
    replace(RANDBET, name="randbet, 2 %", randbet=0.02, published={
        0: 5.71, 0.001: 6.22, 0.005: 7.00, 0.01: 7.83, 0.015: 8.69, 0.025: 10.91,
    }),
    replace(CLIP, name="clip, 4 bits", bits=4, published={
        0: 5.29, 0.001: 5.99, 0.005: 7.71, 0.01: 10.62, 0.015: 15.79, 0.025: 37.94,
    }),
)  # fmt: skip
EPOCHS = 250
PUBLISHED_RECIPE = Recipe(
    steps=EPOCHS * 45_000 // 128, lr=0.05, weight_decay=5e-4, shift=4, mirror=True, each=True, bfloat16=True, optimizer="sgd",
    schedule="steps", cutout=16,
)  # fmt: skip
DATA = "data/cifar10-jpeg"
TIERS: dict[str, tuple[Tier, ...]] = {
    "cpu": (
        Tier("digits", "digits", "digits", DIGITS, RECIPE, (0.01, 0.05, 0.1, 0.15), 360),
        Tier(
            DATA, "CIFAR-10 (JPEG)", "resnet8", CIFAR, replace(LARGE_RECIPE, steps=3000, bfloat16=False),
            (0.005, 0.01, 0.025), 500,
        ),
    ),
    "gpu": (
        Tier(
            DATA, "CIFAR-10 (JPEG)", "simplenet", LARGE, PUBLISHED_RECIPE, (0.001, 0.005, 0.01, 0.015, 0.025), 9000,
            device="cuda",
        ),
    ),
}  # fmt: skip
SHOWN = {"normal": "#c44e52", "rquant": "#4c72b0", "clip": "#55a868", "randbet": "#8172b3", "randbet, 10 %": "#ccb974"}
SLACK = 0.1


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return tiered("bit_error_robustness", _compute, _tables, arguments)


def _compute(tier: str) -> tuple[Any, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    folder = Path("runs") / "bit_error_robustness"
    rows = [row for part in TIERS[tier] for row in measured(part, folder)]
    if tier == "cpu":
        _draw(rows)
    return json.loads(json.dumps([asdict(part) for part in TIERS[tier]])), rows


def measured(tier: Tier, folder: Path) -> list[dict[str, Any]]:
    """The rows of ``tier``, cell by cell; those that lie in ``folder`` are not measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for cell in tier.cells:
        digest = hashlib.sha256(repr((replace(tier, cells=()), cell)).encode()).hexdigest()[:16]
        path = folder / f"{digest}.json"
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_text(json.dumps(_rows(tier, cell)))
            part.replace(path)
        rows += json.loads(path.read_text())
    return rows


def _rows(tier: Tier, cell: Cell) -> list[dict[str, Any]]:
    data = load(tier.data)
    test = data.test[: tier.images]
    images, labels = test.images.to(tier.device), test.labels.to(tier.device)
    unseen = [(rate, "unseen", reporting_chips(tier.chips)) for rate in tier.rates]
    own = [(rate, "trained on", [cell.pattern]) for rate in tier.rates if cell.pattern is not None]
    clean: list[float] = []
    found: dict[tuple[float, str], list[list[float]]] = {}
    for seed in tier.seeds:
        recipe = cell.recipe(replace(tier.recipe, seed=seed))
        network = fitted(f"{tier.target}-{cell.norm}", data, recipe, tier.device).to(tier.device)
        assert recipe.hardening is not None
        simulator = Simulator(network, Memory(stored=recipe.hardening.stored), recipe.hardening.quantization)

        @torch.no_grad()
        def error(chip: Chip, asked: Simulator = simulator) -> float:
            return 100 * (asked.logits(images, chip).argmax(1) != labels).double().mean().item()

        clean.append(error(NOMINAL))
        for rate, which, chips in (*unseen, *own):
            found.setdefault((rate, which), []).append([error(Chip(rate, chip)) for chip in chips])
    return [_row(tier, cell, rate, which, clean, by_seed) for (rate, which), by_seed in found.items()]


def _row(
    tier: Tier, cell: Cell, rate: float, which: str, clean: list[float], by_seed: list[list[float]]
) -> dict[str, Any]:  # fmt: skip
    volts, unseen = voltage(rate), which == "unseen"
    return {
        "data": tier.shown, "target": f"{tier.target}-{cell.norm}", "hardening": cell.name, "scheme": cell.scheme,
        "bits": cell.bits, "ranges": cell.ranges, "clip": cell.clip, "train_rate": cell.randbet, "advbet": cell.advbet,
        "label_smoothing": cell.label_smoothing, "gradients": cell.gradients, "chips_are": which, "rate": rate,
        "error": mean(clean), "robust_error_mean": mean(map(mean, by_seed)),
        "robust_error_sd": pstdev([error for errors in by_seed for error in errors]), "fit_sd": pstdev(map(mean, by_seed)),
        "published_error": cell.published.get(0), "published": cell.published.get(rate) if unseen else None,
        "energy": None if volts is None else volts**2,
        "slack": 100 * guarantee(tier.images, tier.chips) if unseen else None,
        "chips": len(by_seed[0]), "seeds": len(by_seed), "images": tier.images,
    }  # fmt: skip


def tolerated(rows: Sequence[dict[str, Any]], loss: float) -> float:
    """The largest measured rate up to which the robust error of ``rows``, of one target, is at most ``loss`` points above its
    error; 0 if there is none."""
    rate = 0.0
    for row in sorted(rows, key=lambda row: row["rate"]):
        if row["robust_error_mean"] > row["error"] + loss:
            break
        rate = row["rate"]
    return rate


def _tables(rows: list[dict[str, Any]]) -> Group:
    tables: list[Table | str] = []
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data]
        rates = sorted({row["rate"] for row in mine})
        table = Table(
            "hardening", "error", *(f"{100 * rate:g} %" for rate in rates), "within 2.5 points:\nrate, energy",
            title=f"{data}, {mine[0]['images']} images: error in %, published in brackets",
        )  # fmt: skip
        for name, which in dict.fromkeys((row["hardening"], row["chips_are"]) for row in mine):
            cells = [row for row in mine if (row["hardening"], row["chips_are"]) == (name, which)]
            shown = [
                f"{row['robust_error_mean']:.1f}" + (f" ± {row['robust_error_sd']:.1f}" if row["chips"] > 1 else "")
                + _beside(row["published"])
                for row in cells
            ]  # fmt: skip
            best = tolerated(cells, 2.5)
            volts = voltage(best)
            table.add_row(
                name if which == "unseen" else f"  {which}", f"{cells[0]['error']:.1f}" + _beside(cells[0]["published_error"]),
                *shown, f"{100 * best:g} %, {volts**2:.2f}" if volts is not None and best else "",
            )  # fmt: skip
        tables.append(table)
    needed = chips_needed(10_000, SLACK)
    return Group(
        *tables,
        f"mean ± sd of {rows[0]['chips']} chips. Proposition 1 bounds the true robust error only with more: for "
        f"{100 * SLACK:g} points at 99 %, {needed:,} chips on 10,000 images each.",
    )


def _beside(published: float | None) -> str:
    return "" if published is None else f" ({published:g})"


def _draw(rows: list[dict[str, Any]]) -> None:
    datas = list(dict.fromkeys(row["data"] for row in rows))
    figure = Figure(figsize=(4.2 * (len(datas) + 1), 3.8), layout="constrained")
    each = figure.subplots(1, len(datas) + 1)
    for axes, data in zip(each, datas, strict=False):
        _lines(axes, rows, data, lambda row: 100 * row["rate"])
        axes.set_xscale("log")
        axes.set_xlabel("bit error rate, %")
        axes.set_ylabel(f"{data}: robust error, %")
    _lines(each[-1], rows, datas[0], lambda row: row["energy"])
    each[-1].invert_xaxis()
    each[-1].set_xlabel("energy of an access, relative")
    each[-1].set_ylabel(f"{datas[0]}: robust error, %")
    legend_beside(each[-1])
    (RESULTS / "bit_error_robustness.svg").write_text(svg(figure))


def _lines(axes: Axes, rows: list[dict[str, Any]], data: str, place: Any) -> None:
    for name, colour in SHOWN.items():
        mine = [row for row in rows if (row["data"], row["hardening"], row["chips_are"]) == (data, name, "unseen")]
        x, y, sd = ([key(row) for row in mine] for key in (place, _mean, _sd))
        axes.plot(x, y, marker="o", markersize=3, color=colour, label=name)
        low, high = ([v + sign * s for v, s in zip(y, sd, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.1, lw=0)
    without_frame(axes)


def _mean(row: dict[str, Any]) -> float:
    return float(row["robust_error_mean"])


def _sd(row: dict[str, Any]) -> float:
    return float(row["robust_error_sd"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
