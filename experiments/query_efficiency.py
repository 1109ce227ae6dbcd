"""Images needed to reach 50, 80, 90 and 95 % of the white-box recovery, with and without a surrogate.

Digits, 5 % bit errors, no head: `chip`, chips 0 to 4, one for each seed; `population`, five runs on ten unseen chips each. The
reference is the white box with 100,000 images, chip by chip and seed by seed. Every number of images is a run of its own, trained
from scratch; ``images_median`` and ``images_max`` are over the seeds the smallest number that was enough, ``null`` if none of the
tested ones was. ``surrogate`` is its architecture; rows without one are made from the means of `experiments.access_gap`, whose
smallest number of images is 10,000. The target is a network of four convolutions, the surrogate one of four wider ones. The
rows of CIFAR-10 (JPEG) are made from `experiments.cifar10`.
"""

from __future__ import annotations

import sys
from statistics import mean
from typing import Any

from rich.console import Group

from backends.datasets.loading import load
from bbfuse.compare.display.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, level, panels
from bbfuse.compare.display.shares import Curve, images_needed, mean_curve, share
from bbfuse.compare.display.tables import at, grouped, rows_where, table
from bbfuse.compare.tasks import Task, grid
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.optimizers.surrogate.transfer import TransferConfig
from bbfuse.training.evaluation import report_images
from experiments import cifar10
from experiments.study import RESULTS, Study, rows_of
from experiments.tuning import ARMS, SETTINGS, tuned

__all__ = ["STUDY"]

SHARES = (0.5, 0.8, 0.9, 0.95)
SEEDS = range(5)
REFERENCE = 100_000
REPORTED_CHIPS = 10
BUDGETS = {
    "follow": (2_500, 5_000, 10_000, 20_000), "guided": (5_000, 10_000, 20_000), "transfer": (0, 1_000),
    "backprop": (REFERENCE,),
}  # fmt: skip
ONLY_CHIP = ("guided",)
COLOURS = {"follow": BLUE, "guided": PURPLE, "transfer": ORANGE, "rge": GREEN}
OTHERS = "#bbbbbb"
TITLES = {"chip": "one chip", "population": "population of chips"}


def _tasks() -> list[Task]:
    return [
        task
        for setting in SETTINGS
        for method, budgets in BUDGETS.items() if setting == "chip" or method not in ONLY_CHIP
        for task in grid(_config, setting=[setting], method=[method], images=budgets, seed=SEEDS)
    ]  # fmt: skip


def _config(setting: str, method: str, images: int, seed: int) -> RunConfig:
    chips = 1 if setting == "chip" else REPORTED_CHIPS
    budget = max(images, 200) + report_images(len(load("digits").test), chips)  # every run keeps one request back
    common: dict[str, Any] = {"budget": budget, "validation": ValidationConfig(times=0)}
    where = {"chip_seed": seed} if setting == "chip" else {"seed": seed, "report": ReportConfig(chips=REPORTED_CHIPS)}
    if method == "backprop":
        return ARMS[method].config(tuned(setting, method), **common, **where)
    if method == "transfer":
        common |= {"transfer": TransferConfig(steps=3000, images=images), "budget": budget + 200}
    return RunConfig(optimizer=method, head="none", **common, **where)


def _record(summary: dict[str, Any], folder: object) -> dict[str, Any]:
    return {"recovered": summary["recovered_points"], "lost": summary["lost_points"]}


def _rows(records: list[dict[str, Any]], folders: object) -> list[dict[str, Any]]:
    relaxed = {(r["setting"], r["seed"]): r["recovered"] for r in rows_where(records, method="backprop")}
    rows: list[dict[str, Any]] = []
    drawn: list[tuple[str, str, Curve]] = []
    for setting in SETTINGS:
        for (method,), mine in grouped(rows_where(records, setting=setting), "method").items():
            if method != "backprop":
                shares = {(r["seed"], r["images"]): share(r["recovered"], relaxed[setting, r["seed"]]) for r in mine}
                curves = [{images: shares[seed, images] for images in BUDGETS[method]} for seed in SEEDS]
                drawn.append((setting, method, mean_curve(curves)))
                rows += _needed(*drawn[-1], "plain", curves)
        wanted = mean(relaxed[setting, seed] for seed in SEEDS)
        gap = rows_where(rows_of("access_gap"), setting=setting, head="none", labels="given")
        for (method,), mine in grouped((r for r in gap if r["owned"] > 1000), "method").items():
            if method not in ("backprop", "head", "control"):
                drawn.append((setting, method, {r["images"]: share(r["recovered_mean"], wanted) for r in mine}))
                rows += [{**row, "images_max": None} for row in _needed(*drawn[-1], None, [drawn[-1][2]])]
    _draw(drawn)
    return rows


def _needed(setting: str, method: str, middle: Curve, surrogate: str | None, curves: list[Any]) -> list[dict[str, Any]]:
    owned = len(load("digits").train) + len(load("digits").validation)
    common = {"data": "digits", "setting": setting, "owned": owned, "labels": "given", "method": method, "head": "none"}
    best = max((value for value in middle.values() if value is not None), default=None)
    return [
        {**common, "surrogate": surrogate, **needed, "seeds": len(SEEDS), "best_share": best, "tested": sorted(middle)}
        for needed in images_needed(curves, SHARES)
    ]


def _table(rows: list[dict[str, Any]]) -> Group:
    columns = {f"{100 * wanted:.0f} %": at("share", wanted, _cell) for wanted in SHARES} | {"best": lambda rows: _best(rows[0])}
    tables = [
        table(mine, ("method",), columns, title=f"{data}, {setting}: images to reach")
        for (data, setting), mine in grouped(rows, "data", "setting").items()
    ]
    return Group(
        *tables, "median over seeds (maximum over seeds in brackets); share of the white-box recovery with 100,000 images, "
        "no head; CIFAR-10: chip by chip at the same query budget, affine head"
    )  # fmt: skip


def _best(row: dict[str, Any]) -> str:
    return "-" if row["best_share"] is None else f"{100 * row['best_share']:.0f} % at {max(row['tested']):,} or fewer"


def _cell(row: dict[str, Any]) -> str:
    if row["images_median"] is None:
        return "-"
    most = f" ({row['images_max']:,})" if row["images_max"] is not None else ""
    return f"{row['images_median']:,}{most}"


def _draw(curves: list[tuple[str, str, Curve]]) -> None:
    with panels(RESULTS / "query_efficiency.svg", 8.8, 3.8, 2, sharey=True) as both:
        for axes, setting in zip(both, SETTINGS, strict=True):
            for where, method, curve in curves:
                if where == setting:
                    points = sorted((max(images, 100), 100 * value) for images, value in curve.items() if value is not None)
                    x, y = zip(*points, strict=True)
                    _line(axes, method, x, y, label=method if method in COLOURS else "_")
            if not any((where, method) == (setting, "guided") for where, method, _ in curves):
                _line(axes, "guided", [], [], label="guided (one chip)")
            axes.plot([], [], color=OTHERS, lw=0.7, label="others")
            level(axes, 100.0, "white box, 100,000 images", "--", GREY, 1.0)
            level(axes, 0.0, "no fuse", width=1.0)
            axes.set(xscale="log", xlabel="images sent for training (none: at 100)", ylim=(-20, 110))
            axes.set_title(TITLES[setting], fontsize=10)
        both[0].set_ylabel("% of the white-box recovery")


def _line(axes: Any, method: str, x: Any, y: Any, label: str) -> None:
    axes.plot(
        x, y, color=COLOURS.get(method, OTHERS), marker="o", markersize=3, lw=1.5 if method in COLOURS else 0.7, label=label
    )  # fmt: skip


STUDY = Study("query_efficiency", _tasks, _record, _table, _rows, more_rows=cifar10.needed)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
