"""A healthy target under domain shift: strict access, no bit errors, images of another camera, negatives, images out of focus.

The target was fitted to the plain data (digits; CIFAR-10 as JPEG files, found under ``data/cifar10-jpeg``) and is frozen. Fuse
and head adapt to the shifted data (`experiments.shifts`) with 20,000 images sent, validation included; the closing report on
held-out images is not counted. ``recovered`` is the share of the lost points that the shipped combination of fuse and head
regains: both, one or none of them, as validation supports (``kept``). ``start`` `corrections` starts from the best of some
gains, offsets, inversions and sharpenings, tried on 64 owned images; `zero` from a fuse that changes nothing. ``spsa-gc`` has
the settings of BlackVIP (Oh et al., CVPR 2023): five pairs of probes, perturbation 0.01, decays 0.4 and 0.1, momentum 0.9,
batches of 128, a head of its own and gain 0.003 in place of 1. Controls: the head alone, and a classifier of the fuse's size,
trained on the owned shifted images and used instead of the target. No setting was tuned on these shifts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from rich.console import Group

from backends.datasets.loading import load
from backends.targets.fit import fit_to, usual_recipe
from backends.targets.networks import build
from bbfuse.compare.baselines import control
from bbfuse.compare.display.plots import BLUE, GREEN, GREY, LIGHT, ORANGE, PURPLE, level, panels
from bbfuse.compare.display.tables import grouped, lines, mean_sd, rows_where
from bbfuse.compare.tasks import Row, Task, grid
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.heads.affine import AffineConfig
from bbfuse.training.evaluation import accuracy, report_images
from experiments.shifts import DATA, SHIFTS
from experiments.study import RESULTS, Study

__all__ = ["STUDY"]

SEEDS = range(5)
IMAGES = 20_000
REPORTED = {"digits": 360, "CIFAR-10 (JPEG)": 2000}
TARGETS = {"digits": "digits", "CIFAR-10 (JPEG)": "resnet20"}
FIT: dict[str, dict[str, Any]] = {"digits": {}, "CIFAR-10 (JPEG)": {"steps": 4000}}
"""What is not usual in the fit of each target."""
LARGE = {"digits": "MLP", "CIFAR-10 (JPEG)": "UNetXS"}
"""The largest generator of each data set here."""
CORRECTED: dict[str, Any] = {"start": "corrections"}
METHODS: dict[str, dict[str, Any]] = {
    "spsa-gc, large": {"optimizer": "spsa-gc", "generator": "large", "batch": 128, "start": "zero"},
    "spsa-gc, Filter": {"optimizer": "spsa-gc", "generator": "Filter", "batch": 128, **CORRECTED},
    "spsa, Filter": {"optimizer": "spsa", "generator": "Filter", **CORRECTED},
    "rge, Scale": {"generator": "Scale", **CORRECTED},
    "rge, Filter": {"generator": "Filter", **CORRECTED},
    "rge, Filter, zero": {"generator": "Filter", "start": "zero"},
    "rge, large": {"generator": "large", "start": "zero"},
    "follow, Filter + large": {"optimizer": "follow", "generator": "Filter+large", **CORRECTED},
    "white box, Filter": {"optimizer": "backprop", "backend": "whitebox", "generator": "Filter", "batch": 32, **CORRECTED},
    "white box, large": {"optimizer": "backprop", "backend": "whitebox", "generator": "large", "batch": 32, "start": "zero"},
}

_FEWER = ("spsa-gc, large", "spsa-gc, Filter", "spsa, Filter", "white box, Filter")
SHOWN = {"digits": tuple(METHODS), "CIFAR-10 (JPEG)": _FEWER}
"""The methods of each data set: fewer where runs take longer, and none that keeps a Jacobian for each of 45,000 images."""


def _target(data: str) -> Path:
    return Path("runs") / "domain_shift" / f"{TARGETS[data]}.pt"


def _fit_targets() -> None:
    for data, plain in DATA.items():
        if not _target(data).exists():
            _target(data).parent.mkdir(parents=True, exist_ok=True)
            found = load(plain)
            fit_to(_target(data), TARGETS[data], found, replace(usual_recipe(TARGETS[data], found), **FIT[data]))


def _data(data: str, shift: str) -> str:
    return f"experiments.shifts:{'digits' if data == 'digits' else 'cifar10'}_{shift}"


def _config(data: str, shift: str, method: str, seed: int) -> RunConfig:
    settings = dict(METHODS[method])
    settings["generator"] = settings["generator"].replace("large", LARGE[data])
    reported = REPORTED[data]
    return RunConfig(
        data=_data(data, shift), target=str(_target(data)), no_chip=True, seed=seed, report=ReportConfig(images=reported),
        validation=ValidationConfig(images=500, times=0), budget=IMAGES + report_images(reported, 0), **settings,
    )  # fmt: skip


def _tasks() -> list[Task]:
    digits, cifar10 = (grid(_config, data=[data], shift=SHIFTS, method=methods, seed=SEEDS) for data, methods in SHOWN.items())
    return [*digits, *cifar10]


def _record(summary: dict[str, Any], folder: object) -> dict[str, Any]:
    found = {key: 100 * value["mean"] for key, value in summary["accuracy"].items() if value is not None}
    return {
        "uncorrected": found["perturbed"], "head": found["perturbed_head"], "fuse": found["perturbed_fuse"],
        "both": found["perturbed_fused"], "shipped": found["kept"], "kept": " and ".join(summary["kept_parts"]) or "nothing",
        "sent": summary["queries"]["images"] - report_images(summary["report"]["images"], 0),
    }  # fmt: skip


def _rows(records: list[Row], folders: object) -> list[Row]:
    rows = []
    for (data, shift), cell in grouped(records, "data", "shift").items():
        plain, bare = _plain(data), cell[0]["uncorrected"]
        for (method,), mine in grouped(cell, "method").items():
            kept = {parts: len(these) for (parts,), these in grouped(mine, "kept").items()}
            rows.append(_row(data, shift, method, plain, bare, [r["shipped"] for r in mine], mean(r["sent"] for r in mine), kept))
        calibration = min(AffineConfig().images, len(load(DATA[data]).train))
        alone = [r["head"] for r in cell[: len(SEEDS)]]
        rows.append(_row(data, shift, "head alone", plain, bare, alone, calibration, {}))
        own = 100 * control(_data(data, shift), None, tested=REPORTED[data])
        rows.append(_row(data, shift, "control", plain, bare, [own], 0, {}))
    _draw(rows)
    return rows


def _row(
    data: str, shift: str, method: str, plain: float, bare: float, accuracies: Sequence[float], sent: float, kept: dict[str, int]
) -> Row:  # fmt: skip
    shares = [(value - bare) / (plain - bare) for value in accuracies]
    return {
        "data": data, "shift": shift, "method": method, "plain": plain, "uncorrected": bare, "sent": sent,
        "accuracies": list(accuracies), "recovered": shares, "worst_points": min(accuracies) - bare, "kept": kept,
    }  # fmt: skip


@torch.no_grad()
def _plain(data: str) -> float:
    """Accuracy of the target on the plain held-out images, in percent."""
    found = load(DATA[data])
    network = build(str(_target(data)), found.image_shape).eval()
    test = found.test[: REPORTED[data]]
    return 100 * accuracy(torch.cat([network(some) for some in test.images.split(500)]), test.labels)


def _table(rows: list[Row]) -> Group:
    columns = {
        "shift": lambda row: row["shift"], "method": lambda row: row["method"],
        "accuracy": lambda row: mean_sd(row["accuracies"]), "recovered": lambda row: mean_sd([100 * s for s in row["recovered"]]),
        "worst": lambda row: f"{row['worst_points']:+.1f}",
        "kept": lambda row: ", ".join(f"{parts} {runs}" for parts, runs in sorted(row["kept"].items())),
    }  # fmt: skip
    shown: list[Any] = []
    for (data,), mine in grouped(rows, "data").items():
        bare = {row["shift"]: f"{row['shift']} {row['uncorrected']:.1f}" for row in mine}
        title = f"{data}: {mine[0]['plain']:.1f} % on plain images; uncorrected {', '.join(bare.values())} %"
        shown.append(lines(mine, columns, title=title))
    return Group(
        *shown,
        f"held-out accuracy and recovered share of the lost points, in percent, mean ± sd over {len(SEEDS)} seeds; worst: points "
        "of the worst seed against the uncorrected target; kept: runs that shipped these parts",
    )


COLOURS = {
    "spsa-gc, large": LIGHT, "spsa-gc, Filter": PURPLE, "spsa, Filter": BLUE, "white box, Filter": GREY, "head alone": ORANGE,
    "control": GREEN,
}  # fmt: skip


def _draw(rows: list[Row]) -> None:
    with panels(RESULTS / "domain_shift.svg", 9.6, 3.6, 2, sharey=True) as axes:
        for part, data in zip(axes, DATA, strict=True):
            width = 0.8 / len(COLOURS)
            for place, (method, colour) in enumerate(COLOURS.items()):
                mine = [rows_where(rows, data=data, shift=shift, method=method)[0]["recovered"] for shift in SHIFTS]
                x = np.arange(len(SHIFTS)) + (place - (len(COLOURS) - 1) / 2) * width
                errors = [100 * np.std(shares) for shares in mine]
                part.bar(x, [100 * mean(shares) for shares in mine], width, yerr=errors, color=colour, label=method)
            part.set_xticks(range(len(SHIFTS)), list(SHIFTS))
            part.set_title(data, fontsize=10)
            level(part, 100.0, "plain images")
        axes[0].set_ylabel("recovered share of the lost points, %")


STUDY = Study("domain_shift", _tasks, _record, _table, _rows, prepare=_fit_targets)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
