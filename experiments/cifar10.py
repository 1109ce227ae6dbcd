"""Fuse and head at 32x32: a residual target of 0.27 M weights on chips with 2 % bit errors, by answers alone and by gradients.

CIFAR-10 as JPEG files, to be found under ``data/cifar10-jpeg``, or any folder of that name that the library ``datasets`` reads.
``images`` are those sent for training, warm-up included; the closing report on 2,000 held-out images is not counted in them.
``owned`` images, all 45,000 or fewer, with the labels `given` or with the `target`'s answers at nominal voltage in their place.
``follow`` has a surrogate of another family (plain convolutions); ``rge, parameters`` has none and moves a fuse of 883
parameters. Points are recovered on held-out images; the share is that of the white box with as much data on the same chip.
``method`` `head` is the head alone, `control` a classifier of the fuse's own size, trained on the owned images and used instead
of the target.
Settings were chosen on chip 1000 and validation images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table
from torch import nn

from backends.data import load
from backends.fitting import LARGE_RECIPE, kept
from bbfuse.config import AffineConfig, ReportConfig, RunConfig, ValidationConfig
from bbfuse.figures import legend_beside, svg, without_frame
from bbfuse.measure import accuracy
from bbfuse.methods import RgeConfig
from experiments.study import RESULTS, Study, Task

__all__ = ["STUDY"]

DATA = "data/cifar10-jpeg"
REPORTED = 2000
ALL = 45_000
METHODS: dict[str, dict[str, Any]] = {
    "backprop": {"backend": "whitebox", "optimizer": "backprop", "generator": "UNetXS", "batch": 32},
    "follow": {"optimizer": "follow", "generator": "UNetXS"},
    "rge, parameters": {
        "optimizer": "rge", "generator": "Filters", "batch": 64, "rge": RgeConfig(space="parameters", lr=1e-2),
    },
}  # fmt: skip
CELLS: list[tuple[int, Literal["given", "target"], int, tuple[str, ...], int]] = [
    (ALL, "given", 30_000, tuple(METHODS), 5),
    (2000, "given", 10_000, ("backprop", "follow"), 3), (500, "given", 10_000, ("backprop", "follow"), 3),
]  # fmt: skip
"""Images owned, labels, images sent, methods, chips (from 0 on)."""


def _tasks() -> Iterator[Task]:
    for owned, labels, images, methods, chips in CELLS:
        for chip in range(chips):
            for method in methods:
                named = {"owned": owned, "labels": labels, "method": method, "images": images, "seed": chip}
                yield Task(named, RunConfig(
                    data=DATA, target="resnet20", bit_error_rate=0.02, chip_seed=chip, images=None if owned == ALL else owned,
                    labels=labels, budget=images + 4 * REPORTED, affine=AffineConfig(images=1000),
                    validation=ValidationConfig(times=0), report=ReportConfig(images=REPORTED), **METHODS[method],
                ))  # fmt: skip


def _record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    found = summary["accuracy"]
    low = found["perturbed"]["mean"]
    return {
        "recovered": summary["recovered_points"], "lost": summary["lost_points"], "perturbed": 100 * low,
        "head_recovered": 100 * (found["perturbed_head"]["mean"] - low), "trust": summary["trust"],
    }  # fmt: skip


def _rows(records: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
    relaxed = {_cell(r, r["seed"]): r["recovered"] for r in records if r["method"] == "backprop"}
    groups: dict[Any, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((_cell(record), record["method"]), []).append(record)
    rows = []
    for (_, method), mine in groups.items():
        rows.append(_row(mine, method, mine[0]["images"], [r["recovered"] for r in mine], relaxed))
        if method == "follow" and mine[0]["images"] <= 30_000 and (mine[0]["owned"] < ALL or mine[0]["images"] == 30_000):
            rows.append(_row(mine, "head", min(1000, mine[0]["owned"] * 4 // 5), [r["head_recovered"] for r in mine], relaxed))
            if mine[0]["labels"] == "given":
                own = 100 * _control(mine[0]["owned"])
                rows.append(_row(mine, "control", 0, [own - r["perturbed"] for r in mine], relaxed))
    _draw(rows)
    return rows


def _cell(record: dict[str, Any], *more: int) -> tuple[Any, ...]:
    return (record["owned"], record["labels"], record["images"], *more)


def _row(
    records: list[dict[str, Any]], method: str, images: int, recovered: list[float], relaxed: dict[Any, float]
) -> dict[str, Any]:
    shares = [points / relaxed[_cell(r, r["seed"])] for points, r in zip(recovered, records, strict=True)]
    trust = [r["trust"] for r in records if r["trust"] is not None] if method == "follow" else []
    return {
        "data": "CIFAR-10 (JPEG)", "setting": "chip", "owned": records[0]["owned"], "labels": records[0]["labels"],
        "method": method, "head": "none" if method == "control" else "affine",
        "surrogate": "plain" if method == "follow" else None, "images": images, "seeds": len(records),
        "lost_mean": mean(r["lost"] for r in records), "recovered_mean": mean(recovered), "recovered_sd": pstdev(recovered),
        "share_mean": mean(shares), "share_sd": pstdev(shares), "trust_mean": mean(trust) if trust else None,
    }  # fmt: skip


def _control(owned: int) -> float:
    """Held-out accuracy of 23,682 parameters (the fuse has 23,635) trained on the owned images until it no longer improves."""
    torch.set_num_threads(1)
    data = load(DATA).owned(None if owned == ALL else owned)

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    network = nn.Sequential(
        *block(3, 16), *block(16, 16), nn.MaxPool2d(2), *block(16, 32), nn.MaxPool2d(2), *block(32, 54), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(54, 10),
    )  # fmt: skip
    kept(network, data.train, replace(LARGE_RECIPE, steps=5000), "control").eval()
    with torch.no_grad():
        test = data.test[:REPORTED]
        return accuracy(torch.cat([network(part) for part in test.images.split(500)]), test.labels)


def _table(rows: list[dict[str, Any]]) -> Group:
    table = Table("owned", "labels", "method", "images sent", "chips", "points won back", "share of white box")
    for row in sorted(rows, key=lambda row: (-row["owned"], row["labels"])):
        share = "" if row["method"] == "backprop" else f"{100 * row['share_mean']:.0f} ± {100 * row['share_sd']:.0f} %"
        table.add_row(
            f"{row['owned']:,}", row["labels"], row["method"], f"{row['images']:,}", str(row["seeds"]),
            f"{row['recovered_mean']:.1f} ± {row['recovered_sd']:.1f}", share,
        )  # fmt: skip
    lost = mean(row["lost_mean"] for row in rows)
    return Group(table, f"CIFAR-10 (JPEG), 2 % bit errors, {lost:.0f} points lost; fuse and head, mean ± sd over chips")


def _draw(rows: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    axes = figure.subplots()
    lines = {
        "backprop": ("white-box fuse and head", "#555555", "--"), "follow": ("follow and head", "#4c72b0", "-"),
        "rge, parameters": ("rge of 883 parameters and head", "#55a868", "-"), "head": ("head alone", "#dd8452", "-."),
        "control": ("classifier of the fuse's size", "#999999", "-"),
    }  # fmt: skip
    for place, (method, (label, colour, style)) in enumerate(lines.items()):
        these = sorted((row for row in rows if row["method"] == method), key=lambda row: row["owned"])
        x, y, sd = ([row[name] for row in these] for name in ("owned", "recovered_mean", "recovered_sd"))
        x = [owned * 1.06 ** (place - 2) for owned in x]  # side by side, so that their bars can be told apart
        axes.errorbar(x, y, sd, color=colour, linestyle=style, marker="o", markersize=3, capsize=2, elinewidth=0.7, label=label)
    axes.axhline(0.0, color="#c44e52", linestyle=":", lw=1.2, label="no fuse")
    axes.set_xscale("log")
    axes.set_xticks([500, 2000, ALL], ["500", "2,000", "45,000"])
    axes.minorticks_off()
    axes.set_xlabel("images owned, with labels (10,000, 10,000 and 30,000 sent)")
    axes.set_ylabel("points won back")
    without_frame(axes)
    legend_beside(axes)
    (RESULTS / "cifar10.svg").write_text(svg(figure))


STUDY = Study("cifar10", lambda: list(_tasks()), _record, _rows, _table)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
