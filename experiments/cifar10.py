"""Fuse and head at 32x32: a residual target of 0.27 M weights on chips with 2 % bit errors, by answers alone and by gradients.

CIFAR-10 as JPEG files, to be found under ``data/cifar10-jpeg``, or any folder of that name that the library ``datasets`` reads.
``setting`` `chip`: single chips with an affine head, from chip 0 on; `population`: a fuse for all chips with `standardize`,
reported on five that it has never met. ``images`` are those sent for training, warm-up included; the closing report on held-out
images is not counted in them. ``owned`` images, all 45,000 or fewer (these are moved at random in training), with the labels
`given` or with the `target`'s answers at nominal voltage in their place. ``follow`` has a surrogate of another family (plain
convolutions); ``rge, parameters`` has none and moves a fuse of 883 parameters. Points are recovered on held-out images; the share
is that of the white box with as much data on the same chip, or with the most data where it was not run with as much. ``method``
`head` is the head alone, `control` a classifier of the fuse's own size, trained on the owned images and used instead of the
target. Settings were chosen on chip 1000 and validation images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table

from bbfuse.compare.baselines import control
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import AffineConfig, ReportConfig, RunConfig, ValidationConfig
from bbfuse.optimizers.settings import RgeConfig
from bbfuse.runs.figures import legend_beside, svg, without_frame
from bbfuse.training.evaluation import report_images
from experiments.study import RESULTS, Study, rows_of

__all__ = ["STUDY", "needed"]

DATA = "data/cifar10-jpeg"
REPORTED = 2000
ALL = 45_000
STANDARDIZED = 50
METHODS: dict[str, dict[str, Any]] = {
    "backprop": {"backend": "whitebox", "optimizer": "backprop", "generator": "UNetXS", "batch": 32},
    "follow": {"optimizer": "follow", "generator": "UNetXS"},
    "rge, parameters": {
        "optimizer": "rge", "generator": "Filters", "batch": 64, "rge": RgeConfig(space="parameters", lr=1e-2),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Runs that differ in method and chip alone."""

    setting: str
    owned: int
    labels: Literal["given", "target"]
    images: int
    methods: tuple[str, ...]
    runs: int
    """chips from 0 on, or seeds from 0 on for the population"""


BOTH = ("backprop", "follow")
CELLS = [
    Cell("chip", ALL, "given", 30_000, tuple(METHODS), 5),
    Cell("chip", 500, "given", 10_000, BOTH, 3),
    Cell("chip", 2000, "given", 10_000, BOTH, 3),
    Cell("chip", ALL, "given", 100_000, BOTH, 3),
    Cell("chip", 500, "target", 10_000, BOTH, 3),
    Cell("chip", 2000, "target", 10_000, BOTH, 3),
    Cell("chip", ALL, "given", 100_000, ("rge, parameters",), 3),
    Cell("population", ALL, "given", 30_000, BOTH, 1),
]
REPORTED_CHIPS = 5


def _tasks() -> Iterator[Task]:
    for cell in CELLS:
        for seed in range(cell.runs):
            for method in cell.methods:
                named = {
                    "setting": cell.setting, "owned": cell.owned, "labels": cell.labels, "method": method, "images": cell.images,
                    "seed": seed,
                }  # fmt: skip
                yield Task(named, _config(cell, method, seed))


def _config(cell: Cell, method: str, seed: int) -> RunConfig:
    few = cell.owned < ALL
    common: dict[str, Any] = {
        "data": DATA, "target": "resnet20", "bit_error_rate": 0.02, "images": cell.owned if few else None,
        "labels": cell.labels, "augment": few, "validation": ValidationConfig(times=0), **METHODS[method],
    }  # fmt: skip
    if cell.setting == "chip":
        common |= {"chip_seed": seed, "affine": AffineConfig(images=1000), "report": ReportConfig(images=REPORTED)}
        return RunConfig(budget=cell.images + report_images(REPORTED, 1), **common)
    if method == "backprop":
        common["batch"] = 16  # its best on digits
    report = report_images(REPORTED, REPORTED_CHIPS, STANDARDIZED)
    return RunConfig(
        seed=seed, budget=cell.images + report, report=ReportConfig(chips=REPORTED_CHIPS, images=REPORTED), **common
    )  # fmt: skip


def _record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    found = summary["accuracy"]
    low = found["perturbed"]["mean"]
    return {
        "recovered": summary["recovered_points"], "lost": summary["lost_points"], "perturbed": 100 * low,
        "head_recovered": 100 * (found["perturbed_head"]["mean"] - low), "trust": summary["trust"],
    }  # fmt: skip


def _rows(records: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
    relaxed = {(*_cell(r), r["images"], r["seed"]): r["recovered"] for r in records if r["method"] == "backprop"}
    groups: dict[Any, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((_cell(record), record["images"], record["method"]), []).append(record)
    rows, seen = [], set()
    for (cell, images, method), mine in sorted(groups.items(), key=lambda group: (group[0][2] != "backprop", -len(group[1]))):
        rows.append(_row(mine, method, images, [r["recovered"] for r in mine], relaxed))
        if cell not in seen:
            seen.add(cell)
            taken = min(1000, mine[0]["owned"] * 4 // 5) if mine[0]["setting"] == "chip" else STANDARDIZED
            rows.append(_row(mine, "head", taken, [r["head_recovered"] for r in mine], relaxed))
            if mine[0]["labels"] == "given":
                owned = mine[0]["owned"]
                own = 100 * control(DATA, None if owned == ALL else owned, tested=REPORTED)
                rows.append(_row(mine, "control", 0, [own - r["perturbed"] for r in mine], relaxed))
    _draw(rows)
    return rows


def _cell(record: dict[str, Any]) -> tuple[Any, ...]:
    return (record["setting"], record["owned"], record["labels"])


def _row(
    records: list[dict[str, Any]], method: str, images: int, recovered: list[float], relaxed: dict[Any, float]
) -> dict[str, Any]:
    shares = [points / _measure(relaxed, _cell(r), r["seed"], r["images"]) for points, r in zip(recovered, records, strict=True)]
    trust = [r["trust"] for r in records if r["trust"] is not None] if method == "follow" else []
    first = records[0]
    head = "none" if method == "control" else "affine" if first["setting"] == "chip" else "standardize"
    return {
        "data": "CIFAR-10 (JPEG)", "setting": first["setting"], "owned": first["owned"], "labels": first["labels"],
        "method": method, "head": head, "surrogate": "plain" if method == "follow" else None, "images": images,
        "seeds": len(records), "lost_mean": mean(r["lost"] for r in records), "recovered_mean": mean(recovered),
        "recovered_sd": pstdev(recovered), "share_mean": mean(shares), "share_sd": pstdev(shares), "shares": shares,
        "trust_mean": mean(trust) if trust else None,
    }  # fmt: skip


def _measure(relaxed: dict[Any, float], cell: tuple[Any, ...], seed: int, images: int) -> float:
    """What the white box won back with as many images; where it was not run with so many, with the most that it was run with."""
    most = max(sent for *where, sent, chip in relaxed if (tuple(where), chip) == (cell, seed))
    return relaxed[(*cell, min(images, most), seed)]


def needed() -> list[dict[str, Any]]:
    """Rows as `experiments.query_efficiency` has them: the images that were enough for each share, single chips, all owned."""
    mine = [
        row for row in rows_of("cifar10") if _cell(row) == ("chip", ALL, "given") and row["method"] not in ("head", "control")
    ]
    found = []
    for method in dict.fromkeys(row["method"] for row in mine if row["method"] != "backprop"):
        these = {row["images"]: row for row in mine if row["method"] == method}
        chips = min(row["seeds"] for row in these.values())
        for share in (0.5, 0.8, 0.9, 0.95):
            each = [min((i for i, row in these.items() if row["shares"][c] >= share), default=inf) for c in range(chips)]
            middle, most = median(each), max(each)
            found.append({
                **{name: mine[0][name] for name in ("data", "setting", "owned", "labels", "head")}, "method": method,
                "surrogate": next(iter(these.values()))["surrogate"], "share": share,
                "images_median": None if middle == inf else middle, "images_max": None if most == inf else most, "seeds": chips,
                "best_share": max(row["share_mean"] for row in these.values()), "tested": sorted(these),
            })  # fmt: skip
    return found


def _table(rows: list[dict[str, Any]]) -> Group:
    tables = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        title = {"chip": "single chips, affine head", "population": "unseen chips, standardize"}[setting]
        table = Table("owned, labels", "method", "sent", "won back (runs)", "share", title=title)
        mine = [row for row in rows if row["setting"] == setting]
        for row in sorted(mine, key=lambda row: (-row["owned"], row["labels"], row["method"], row["images"])):
            share = "" if row["method"] == "backprop" else f"{100 * row['share_mean']:.0f} ± {100 * row['share_sd']:.0f} %"
            table.add_row(
                f"{row['owned']:,} {row['labels']}", row["method"], f"{row['images']:,}",
                f"{row['recovered_mean']:.1f} ± {row['recovered_sd']:.1f} ({row['seeds']})", share,
            )  # fmt: skip
        tables.append(table)
    lost = mean(row["lost_mean"] for row in rows)
    return Group(
        *tables, f"CIFAR-10 (JPEG), 2 % bit errors: {lost:.0f} points lost; points won back, mean ± sd, share of white box's"
    )


_LINES = {
    "backprop": ("white-box fuse and head", "#555555", "--"), "follow": ("follow and head", "#4c72b0", "-"),
    "rge, parameters": ("rge of 883 parameters and head", "#55a868", "-"), "head": ("head alone", "#dd8452", "-."),
    "control": ("classifier of the fuse's size", "#999999", "-"),
}  # fmt: skip


def _draw(rows: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    chips = [row for row in rows if row["setting"] == "chip" and row["labels"] == "given"]
    for place, (method, (label, colour, style)) in enumerate(_LINES.items()):
        look: dict[str, Any] = {
            "color": colour, "linestyle": style, "marker": "o", "markersize": 3, "capsize": 2, "elinewidth": 0.7, "label": label,
        }  # fmt: skip
        mine = [row for row in chips if row["method"] == method]
        everything = sorted((row for row in mine if row["owned"] == ALL), key=lambda row: row["images"])
        if method in ("head", "control"):
            left.axhline(everything[0]["recovered_mean"], color=colour, linestyle=style, lw=1.2)
        else:
            _bars(left, [row["images"] for row in everything], everything, place, look)
        most = {row["owned"]: row for row in sorted(mine, key=lambda row: row["images"]) if row["images"] <= 30_000}
        few = [most[owned] for owned in sorted(most)]
        _bars(right, [row["owned"] for row in few], few, place, look)
    sent = "images owned (10,000, 10,000, 30,000 sent)"
    for axes, label in ((left, "images sent, all 45,000 owned"), (right, sent)):
        axes.axhline(0.0, color="#c44e52", linestyle=":", lw=1.2, label="no fuse")
        axes.set_xscale("log")
        axes.set_xlabel(label)
        without_frame(axes)
    left.set_ylabel("points won back")
    for axes, ticks in ((left, sorted({cell.images for cell in CELLS if cell.owned == ALL})), (right, [500, 2000, ALL])):
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
    legend_beside(right)
    (RESULTS / "cifar10.svg").write_text(svg(figure))


def _bars(axes: Axes, x: list[int], rows: list[dict[str, Any]], place: int, look: dict[str, Any]) -> None:
    y, sd = ([row[name] for row in rows] for name in ("recovered_mean", "recovered_sd"))
    axes.errorbar([value * 1.06 ** (place - 2) for value in x], y, sd, **look)  # side by side, so that they can be told apart


STUDY = Study("cifar10", lambda: list(_tasks()), _record, _table, _rows)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
