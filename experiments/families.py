"""Families of targets on digits: accuracy against bit error rate, and which of the published directions hold.

Held-out images, 10 chips (seeds 50,000 to 50,009), no fuse; three trainings (seeds 0 to 2) where a direction is about training.
Then, at one rate of each arm, a fuse and an affine head for single chips (the first two, the first training) by ``follow``, at
most 5,000 images sent.

``direction_holds``: true if the published direction is significant, false if the opposite is, null if neither is (paired
differences over trainings, or over chips of a single training, 95 %) or nothing is published for that row. ``flip_error``: the
squared change of a number of the narrowest codes by one bit error, relative to the mean square of its tensor.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, pstdev

from matplotlib.figure import Figure
from rich.table import Table

from backends.base import NOMINAL, Chip
from backends.datasets.loading import load
from backends.memory.config import Memory, Quantization
from backends.memory.simulator import Simulator
from backends.targets.checkpoint import Checkpoint, write
from backends.targets.fit import fitted, usual_recipe
from backends.training.hardening import Hardening
from backends.training.recipe import Recipe
from bbfuse.compare.display.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED
from bbfuse.compare.display.tables import lines, rows_where
from bbfuse.compare.executor import run_all
from bbfuse.compare.measured import accuracies, value
from bbfuse.compare.tasks import Row, Task, settings_of
from bbfuse.config.schema import RunConfig
from bbfuse.runs.figures import svg, without_frame
from bbfuse.seeds import reporting_chips
from experiments.families_judged import judged
from experiments.study import RESULTS, Measurement

__all__ = ["ARMS", "RESULT", "Arm", "tasks"]

RATES = (1e-4, 1e-3, 3e-3, 0.01, 0.033, 0.1)
CHIPS = reporting_chips(10)
FUSED_CHIPS = reporting_chips(2)
BUDGET = 5_000
FITS = 3
STEPS = 300
SHARPNESS = 0.1
"""Of 0.1 and 0.3 the value with the higher accuracy on validation images and chips."""
FOLDER = Path("runs") / "families"
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, GREY)


@dataclass(frozen=True)
class Arm:
    """A target of a family, how it is trained and stored, and the rate, if any, at which a fuse is trained for it."""

    family: str
    variant: str
    target: str
    fused_rate: float | None = None
    fits: int = 1
    hardening: Hardening | None = None
    steps: int | None = None
    """batches, if not the usual number"""
    bits: int = 8
    errors: tuple[str, ...] = ("random",)
    one_sided_rates: tuple[float, ...] = (0.033,)
    """rates at which errors other than random ones are measured"""

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.family}-{self.variant}".replace(", ", "-").replace(" ", "-")

    @property
    def file(self) -> Path:
        """The checkpoint of its first training."""
        return FOLDER / f"{self.name}.pt"

    def recipe(self, seed: int) -> Recipe:
        """How its training number ``seed`` is done."""
        usual = usual_recipe(self.target, load("digits"))
        return replace(usual, seed=seed, hardening=self.hardening, steps=self.steps or usual.steps)

    def memory(self, errors: str = "random") -> Memory:
        """The memory that stores it."""
        return Memory(bits=self.bits, errors=errors)  # type: ignore[arg-type]


ALL_ERRORS = ("random", "stuck-at-0", "stuck-at-1")


def _flat(kind: str, target: str) -> list[Arm]:
    four = Quantization(4)
    plain = Arm("FlatENN", kind, target, None, FITS, Hardening(four, "weights"), STEPS, bits=4, errors=ALL_ERRORS)
    sharp = Hardening(four, "weights", sharpness=SHARPNESS)
    return [
        plain, replace(plain, variant=f"{kind}, twice the steps", steps=2 * STEPS),
        replace(plain, variant=f"{kind}, SAQ", hardening=sharp, fused_rate=0.033),
    ]  # fmt: skip


_BINARY = Arm("RRAM binary", "plain", "binary", 0.1, FITS, errors=ALL_ERRORS)
ARMS = (
    *_flat("standard", "digits"), *_flat("sparse", "digits-sparse"),
    Arm("SoftSNN", "unprotected", "spiking", 3e-3),
    *(Arm("SoftSNN", f"bound and protect {number}", f"spiking-bnp{number}") for number in (1, 2, 3)),
    Arm("SmartExchange", "all stored", "smartexchange", 0.01), Arm("SmartExchange", "safe basis", "smartexchange-safe"),
    Arm("ShiftAddNet", "shift codes", "shiftadd", 3e-3), Arm("ShiftAddNet", "8-bit codes", "shiftadd-plain"),
    Arm("FTBNN", "none", "bireal", 0.033, FITS), Arm("FTBNN", "prelu", "bireal-prelu", None, FITS),
    _BINARY, *(replace(_BINARY, variant=kind, target=f"binary-{kind}", fused_rate=None) for kind in ("flip", "margin")),
)  # fmt: skip


def tasks() -> list[Task]:
    """The runs with a fuse and a head, of every arm on its chips."""
    return [
        Task(
            {"family": arm.family, "variant": arm.variant},
            RunConfig(
                target=str(arm.file) if arm.hardening else arm.target, memory=arm.memory(), bit_error_rate=arm.fused_rate,
                chip_seed=chip, optimizer="follow", head="affine", budget=BUDGET,
            ),
        )
        for arm in ARMS if arm.fused_rate is not None for chip in FUSED_CHIPS
    ]  # fmt: skip


def _rows() -> list[Row]:
    rows = [row for arm in ARMS for row in _cached(arm)]
    every = tasks()
    summaries, _ = run_all(FOLDER, every)
    for row in rows:
        fused = [
            summary["accuracy"]["perturbed_fused"]["mean"] for summary, task in zip(summaries, every, strict=True)
            if {**task.labels, "errors": "random", "rate": task.config.bit_error_rate}.items() <= row.items()
        ]  # fmt: skip
        if fused:
            row.update(fused_mean=mean(fused), fused_chips=len(fused))
    return judged(rows)


def _cached(arm: Arm) -> list[Row]:
    """The rows of ``arm``, from its file if there is one."""
    path = FOLDER / f"{arm.name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(list(_measured(arm))))
    rows: list[Row] = json.loads(path.read_text())
    return rows


def _measured(arm: Arm) -> Iterator[Row]:
    data = load("digits")
    networks = [fitted(arm.target, data, arm.recipe(seed)) for seed in range(arm.fits)]
    if arm.hardening:
        weights = networks[0].state_dict()
        (validation,) = accuracies(Simulator(networks[0], arm.memory()), data.validation, 0.0, ())
        plain = {"data": "digits", "device": "cpu", "steps": arm.recipe(0).steps, "sharpness": arm.hardening.sharpness}
        write(arm.file, Checkpoint(arm.target, data.image_shape, data.classes, plain, validation, weights))
    clean: list[float] = []
    for errors in arm.errors:
        simulators = [Simulator(network, arm.memory(errors)) for network in networks]
        for rate in (0.0, *RATES) if errors == "random" else arm.one_sided_rates:
            chips = [Chip(rate, seed) for seed in CHIPS]
            found = [accuracies(simulator, data.test, rate, CHIPS) for simulator in simulators]
            clean = clean or [by_chip[0] for by_chip in found]
            each = [value for by_chip in found for value in by_chip]
            yield {
                "family": arm.family, "variant": arm.variant, "data": "digits", "errors": errors, "rate": rate,
                "bits_stored": sum(bank.bits * bank.patterns.size for bank in simulators[0].banks), "chips": len(found[0]),
                "fits": arm.fits, "clean": mean(clean), "perturbed_mean": mean(each), "perturbed_sd": pstdev(each),
                "fused_mean": None, "fused_chips": None, "by_fit": [mean(by_chip) for by_chip in found],
                "by_chip": [mean(by_fit) for by_fit in zip(*found, strict=True)], "flip_error": _flip_error(simulators[0]),
                "basis_power": _basis_power(simulators[0], chips) if arm.variant == "all stored" and rate else None,
            }  # fmt: skip


def _flip_error(simulator: Simulator) -> float:
    """Mean over the numbers of the narrowest codes and over their bits."""
    bank = min(simulator.banks, key=lambda bank: bank.bits)
    clean, total = bank.tensors(), 0.0
    for bit in range(bank.bits):
        for name, read in bank.tensors(bank.patterns ^ bank.patterns.dtype.type(1 << bit)).items():
            total += float(((read - clean[name]) ** 2).sum() / (clean[name] ** 2).mean())
    return total / (bank.bits * bank.patterns.size)


def _basis_power(simulator: Simulator, chips: Sequence[Chip]) -> float:
    """The share of the squared error of the weights ``C B`` that vanishes if ``B`` has no errors."""
    clean = simulator.weights(NOMINAL)
    layers = [name.removesuffix(".basis") for name in clean if name.endswith(".basis")]
    power = [0.0, 0.0]
    for chip in chips:
        read = simulator.weights(chip)
        for layer in layers:
            exact = clean[f"{layer}.coefficients"] @ clean[f"{layer}.basis"]
            for place, basis in enumerate((read, clean)):
                power[place] += float(((read[f"{layer}.coefficients"] @ basis[f"{layer}.basis"] - exact) ** 2).sum())
    return 1.0 - power[1] / power[0]


def _accuracy(row: Row) -> str:
    sd = f" ± {100 * row['perturbed_sd']:.1f}" if row["rate"] or row["fits"] > 1 else ""
    return f"{100 * row['perturbed_mean']:.1f}{sd}"


def _holds(row: Row) -> str:
    return {True: "yes", False: "no", None: "not significant" if row["direction_published"] else ""}[row["direction_holds"]]


def _table(rows: list[Row]) -> Table:
    return lines(rows, {
        "family": value("family"), "variant": value("variant"), "errors": value("errors"), "rate": value("rate", "g"),
        "accuracy": _accuracy, "with fuse": value("fused_mean", ".1f", 100), "published": value("direction_published"),
        "holds": _holds,
    })  # fmt: skip


def _draw(rows: list[Row]) -> None:
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes_of = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for axes, family in zip(axes_of, dict.fromkeys(arm.family for arm in ARMS), strict=True):
        for arm, colour in zip((arm for arm in ARMS if arm.family == family), COLOURS, strict=False):
            these = [row for row in rows_where(rows, family=family, variant=arm.variant, errors="random") if row["rate"]]
            x, y = [row["rate"] for row in these], [100 * row["perturbed_mean"] for row in these]
            axes.plot(x, y, marker="o", markersize=2.5, lw=1.2, color=colour, label=arm.variant)
            fused = [row for row in these if row["fused_mean"] is not None]
            axes.plot([row["rate"] for row in fused], [100 * row["fused_mean"] for row in fused], "*", markersize=8, color=colour)
        axes.set_xscale("log")
        axes.set_title(family, fontsize=9)
        axes.legend(fontsize=6, frameon=False, loc="lower left")
        without_frame(axes)
    figure.supxlabel("bit error rate (stars: with fuse and head)", fontsize=9)
    figure.supylabel("held-out accuracy, %", fontsize=9)
    (RESULTS / "families.svg").write_text(svg(figure))


RESULT = Measurement("families", lambda: settings_of(tasks()), _rows, _table, _draw)

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
