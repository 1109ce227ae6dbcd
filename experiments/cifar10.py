"""Fuse and head at 32x32: a residual target of 0.27 M weights on chips with 2 % bit errors, strict access and white box.

CIFAR-10 as JPEG files, found under ``data/cifar10-jpeg``, or any folder of that name that the library ``datasets`` reads.
``setting`` `chip`: single chips with an affine head, from chip 0 on; `population`: a fuse for all chips with `standardize`,
reported on five unseen chips. ``images`` are those sent for training, warm-up included; the closing report on held-out images is
not counted. ``owned`` images, all 45,000 or fewer (these are shifted at random in training), have the labels `given`, or the
`target`'s predictions at nominal voltage in their place. ``follow`` has a surrogate of another family (plain convolutions);
``rge, parameters`` has none and trains a fuse of 883 parameters. Points are recovered on held-out images; the share is that of
the white box with as much data on the same chip, or with the most data where it was not run with as much. ``method`` `head` is
the head alone, `control` a classifier of the fuse's own size, trained on the owned images and used instead of the target.
Settings were chosen on chip 1000 and validation images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

from rich.console import Group

from bbfuse.compare.baselines import control
from bbfuse.compare.display.plots import BLUE, GREEN, GREY, LIGHT, ORANGE, error_bars, level, panels
from bbfuse.compare.display.shares import images_needed, mean_or_none, recovery, share
from bbfuse.compare.display.tables import grouped, lines, percent, rows_where
from bbfuse.compare.tasks import Task, grid
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.heads.affine import AffineConfig
from bbfuse.optimizers.rge import RgeConfig
from bbfuse.training.evaluation import report_images
from experiments.study import RESULTS, Study, rows_of

__all__ = ["STUDY", "needed"]

DATA = "data/cifar10-jpeg"
REPORTED = 2000
REPORTED_CHIPS = 5
ALL = 45_000
STANDARDIZED = 50
OPTIMIZERS: dict[str, dict[str, Any]] = {
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
    Cell("chip", ALL, "given", 30_000, tuple(OPTIMIZERS), 5),
    Cell("chip", 500, "given", 10_000, BOTH, 3),
    Cell("chip", 2000, "given", 10_000, BOTH, 3),
    Cell("chip", ALL, "given", 100_000, BOTH, 3),
    Cell("chip", 500, "target", 10_000, BOTH, 3),
    Cell("chip", 2000, "target", 10_000, BOTH, 3),
    Cell("chip", ALL, "given", 100_000, ("rge, parameters",), 3),
    Cell("population", ALL, "given", 30_000, BOTH, 1),
]
KEY = ("setting", "owned", "labels")


def _tasks() -> list[Task]:
    found = []
    for cell in CELLS:
        for task in grid(lambda seed, method: _config(cell, method, seed), seed=range(cell.runs), method=cell.methods):  # noqa: B023
            named = {key: getattr(cell, key) for key in KEY}
            labels = {"method": task.labels["method"], "images": cell.images, "seed": task.labels["seed"]}
            found.append(Task({**named, **labels}, task.config))
    return found


def _config(cell: Cell, method: str, seed: int) -> RunConfig:
    few = cell.owned < ALL
    common: dict[str, Any] = {
        "data": DATA, "target": "resnet20", "bit_error_rate": 0.02, "images": cell.owned if few else None,
        "labels": cell.labels, "augment": few, "validation": ValidationConfig(times=0), **OPTIMIZERS[method],
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


def _record(summary: dict[str, Any], folder: object) -> dict[str, Any]:
    found = summary["accuracy"]
    low = found["perturbed"]["mean"]
    return {
        "recovered": summary["recovered_points"], "lost": summary["lost_points"], "perturbed": 100 * low,
        "head_recovered": 100 * (found["perturbed_head"]["mean"] - low), "trust": summary["trust"],
    }  # fmt: skip


def _rows(records: list[dict[str, Any]], folders: object) -> list[dict[str, Any]]:
    relaxed = {(*_cell(r), r["images"], r["seed"]): r["recovered"] for r in rows_where(records, method="backprop")}
    groups = grouped(records, *KEY, "images", "method")
    rows, seen = [], set()
    for (*cell, images, method), mine in sorted(groups.items(), key=lambda group: (group[0][4] != "backprop", -len(group[1]))):
        rows.append(_row(mine, method, images, [r["recovered"] for r in mine], relaxed))
        if tuple(cell) in seen:
            continue
        seen.add(tuple(cell))
        setting, owned, labels = cell
        taken = min(1000, owned * 4 // 5) if setting == "chip" else STANDARDIZED
        rows.append(_row(mine, "head", taken, [r["head_recovered"] for r in mine], relaxed))
        if labels == "given":
            own = 100 * control(DATA, None if owned == ALL else owned, tested=REPORTED)
            rows.append(_row(mine, "control", 0, [own - r["perturbed"] for r in mine], relaxed))
    _draw(rows)
    return rows


def _cell(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[key] for key in KEY)


def _row(
    records: list[dict[str, Any]], method: str, images: int, recovered: list[float], relaxed: dict[Any, float]
) -> dict[str, Any]:
    reference = [_reference(relaxed, _cell(r), r["seed"], r["images"]) for r in records]
    trust = [r["trust"] for r in records] if method == "follow" else []
    named = {key: records[0][key] for key in KEY}
    head = "none" if method == "control" else "affine" if named["setting"] == "chip" else "standardize"
    return {
        "data": "CIFAR-10 (JPEG)", **named, "method": method, "head": head,
        "surrogate": "plain" if method == "follow" else None, "images": images, "seeds": len(records),
        "lost_mean": mean(r["lost"] for r in records), **recovery(recovered, reference),
        "shares": list(map(share, recovered, reference)), "trust_mean": mean_or_none(trust),
    }  # fmt: skip


def _reference(relaxed: dict[Any, float], cell: tuple[Any, ...], seed: int, images: int) -> float:
    """Recovery of the white box with as many images; where it was not run with so many, with the most that it was run with."""
    most = max(sent for *where, sent, chip in relaxed if (tuple(where), chip) == (cell, seed))
    return relaxed[(*cell, min(images, most), seed)]


def needed() -> list[dict[str, Any]]:
    """Rows as `experiments.query_efficiency` has them: the images that were enough for each share, single chips, all owned."""
    found = []
    for (method,), mine in grouped(rows_where(rows_of("cifar10"), setting="chip", owned=ALL, labels="given"), "method").items():
        if method in ("head", "control", "backprop"):
            continue
        these = {row["images"]: row for row in mine}
        chips = min(row["seeds"] for row in mine)
        curves = [{images: row["shares"][chip] for images, row in these.items()} for chip in range(chips)]
        named = {name: mine[0][name] for name in ("data", *KEY, "head", "method", "surrogate")}
        best = max((row["share_mean"] for row in mine if row["share_mean"] is not None), default=None)
        for row in images_needed(curves, (0.5, 0.8, 0.9, 0.95)):
            found.append({**named, **row, "seeds": chips, "best_share": best, "tested": sorted(these)})
    return found


TITLES = {"chip": "single chips, affine head", "population": "unseen chips, standardize"}


def _table(rows: list[dict[str, Any]]) -> Group:
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "owned, labels": lambda row: f"{row['owned']:,} {row['labels']}", "method": lambda row: row["method"],
        "sent": lambda row: f"{row['images']:,}",
        "recovered (runs)": lambda row: f"{row['recovered_mean']:.1f} ± {row['recovered_sd']:.1f} ({row['seeds']})",
        "share": lambda row: "" if row["method"] == "backprop" else _share(row),
    }  # fmt: skip
    rows = sorted(rows, key=lambda row: (row["setting"], -row["owned"], row["labels"], row["method"], row["images"]))
    tables = [lines(mine, columns, title=TITLES[setting]) for (setting,), mine in grouped(rows, "setting").items()]
    lost = mean(row["lost_mean"] for row in rows)
    return Group(
        *tables,
        f"CIFAR-10 (JPEG), 2 % bit errors: {lost:.0f} points lost; points recovered, mean ± sd, share of the white-box recovery",
    )


def _share(row: dict[str, Any]) -> str:
    return "-" if row["share_mean"] is None else f"{percent(row['share_mean'], 0)} ± {percent(row['share_sd'], 0)} %"


LINES = {
    "backprop": ("white-box fuse and head", GREY, "--"), "follow": ("follow and head", BLUE, "-"),
    "rge, parameters": ("rge of 883 parameters and head", GREEN, "-"), "head": ("head alone", ORANGE, "-."),
    "control": ("classifier of the fuse's size", LIGHT, "-"),
}  # fmt: skip


def _draw(rows: list[dict[str, Any]]) -> None:
    chips = sorted(rows_where(rows, setting="chip", labels="given"), key=lambda row: row["images"])
    with panels(RESULTS / "cifar10.svg", 9.6, 3.8, 2, sharey=True) as (left, right):
        for place, (method, (label, colour, style)) in enumerate(LINES.items()):
            mine = rows_where(chips, method=method)
            most = {row["owned"]: row for row in mine if row["images"] <= 30_000}
            everything, few = rows_where(mine, owned=ALL), [most[owned] for owned in sorted(most)]
            if method in ("head", "control"):
                left.axhline(everything[0]["recovered_mean"], color=colour, linestyle=style, lw=1.2)
                everything = []
            for axes, key, these in ((left, "images", everything), (right, "owned", few)):
                if these:
                    x = [row[key] * 1.06 ** (place - 2) for row in these]  # side by side, so that they can be told apart
                    y, sd = ([row[name] for row in these] for name in ("recovered_mean", "recovered_sd"))
                    error_bars(axes, x, y, sd, color=colour, linestyle=style, label=label)
        sent = sorted({cell.images for cell in CELLS if cell.owned == ALL})
        owned = "images owned (10,000, 10,000, 30,000 sent)"
        for axes, name, ticks in ((left, "images sent, all 45,000 owned", sent), (right, owned, [500, 2000, ALL])):
            level(axes, 0.0, "no fuse")
            axes.set(xscale="log", xlabel=name)
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.minorticks_off()
        left.set_ylabel("points recovered")


STUDY = Study("cifar10", _tasks, _record, _table, _rows)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
