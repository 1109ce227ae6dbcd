"""How many images have to be sent to win back 50, 80, 90 and 95 % of what gradients win back, with and without a surrogate.

Digits, 5 % bit errors, no head: `chip`, chips 0 to 4, one for each seed; `population`, five runs on ten unseen chips each. The
measure is the white box with 100,000 images, chip by chip and seed by seed. Every number of images is a run of its own, trained
from nothing; ``images_median`` and ``images_max`` are over the seeds the smallest number that was enough, ``null`` if none of the
tested ones was. ``surrogate`` is its architecture; where there is none the rows are made from the means of
`experiments.access_gap`, whose smallest number of images is 10,000. The target is a network of four convolutions, the surrogate
one of four wider ones. The rows of CIFAR-10 (JPEG) are made from `experiments.cifar10`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table

from backends.datasets.loading import load
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import ReportConfig, RunConfig, ValidationConfig
from bbfuse.optimizers.settings import TransferConfig
from bbfuse.runs.figures import legend_beside, svg, without_frame
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


def _tasks() -> Iterator[Task]:
    for setting in SETTINGS:
        for method, budgets in BUDGETS.items():
            if setting == "population" and method in ONLY_CHIP:
                continue
            for images in budgets:
                for seed in SEEDS:
                    named = {"setting": setting, "method": method, "images": images, "seed": seed}
                    yield Task(named, _config(setting, method, images, seed))


def _config(setting: str, method: str, images: int, seed: int) -> RunConfig:
    chips = 1 if setting == "chip" else REPORTED_CHIPS
    # one request is kept back in every run
    budget = max(images, 200) + report_images(len(load("digits").test), chips)
    common: dict[str, Any] = {"budget": budget, "validation": ValidationConfig(times=0)}
    where = {"chip_seed": seed} if setting == "chip" else {"seed": seed, "report": ReportConfig(chips=REPORTED_CHIPS)}
    if method == "backprop":
        return ARMS[method].config(tuned(setting, method), **common, **where)
    if method == "transfer":
        common |= {"transfer": TransferConfig(steps=3000, images=images), "budget": budget + 200}
    return RunConfig(optimizer=method, head="none", **common, **where)


def _record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"recovered": summary["recovered_points"], "lost": summary["lost_points"]}


def _rows(records: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
    relaxed = {(r["setting"], r["seed"]): r["recovered"] for r in records if r["method"] == "backprop"}
    rows, curves = [], []
    for setting in SETTINGS:
        for method in BUDGETS:
            mine = [r for r in records if (r["setting"], r["method"]) == (setting, method)]
            if not mine or method == "backprop":
                continue
            shares = {
                seed: {r["images"]: r["recovered"] / relaxed[setting, seed] for r in mine if r["seed"] == seed} for seed in SEEDS
            }
            curves.append((setting, method, {
                images: mean(shares[seed][images] for seed in SEEDS) for images in BUDGETS[method]
            }))  # fmt: skip
            for share in SHARES:
                needed = [min((i for i, s in shares[seed].items() if s >= share), default=float("inf")) for seed in SEEDS]
                rows.append(_row(setting, method, "plain", share, median(needed), max(needed), curves[-1][2]))
        wanted = mean(relaxed[setting, seed] for seed in SEEDS)
        gap = [r for r in rows_of("access_gap") if (r["setting"], r["head"], r["labels"]) == (setting, "none", "given")]
        gap = [r for r in gap if r["owned"] > 1000 and r["method"] not in ("backprop", "head", "control")]
        for method in dict.fromkeys(r["method"] for r in gap):
            curve = {r["images"]: r["recovered_mean"] / wanted for r in gap if r["method"] == method}
            curves.append((setting, method, curve))
            for share in SHARES:
                enough = min((images for images, s in curve.items() if s >= share), default=float("inf"))
                rows.append(_row(setting, method, None, share, enough, float("inf"), curve))
    _draw(curves)
    return rows


def _row(
    setting: str, method: str, surrogate: str | None, share: float, middle: float, most: float, curve: dict[int, float]
) -> dict[str, Any]:
    return {
        "data": "digits", "setting": setting, "owned": len(load("digits").train) + len(load("digits").validation),
        "labels": "given", "method": method, "head": "none", "surrogate": surrogate, "share": share,
        "images_median": None if middle == float("inf") else middle, "images_max": None if most == float("inf") else most,
        "seeds": len(SEEDS), "best_share": max(curve.values()), "tested": sorted(curve),
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Group:
    parts: list[Table | str] = []
    for data, setting in dict.fromkeys((row["data"], row["setting"]) for row in rows):
        title = f"{data}, {setting}: images to reach"
        table = Table("method", *(f"{100 * share:.0f} %" for share in SHARES), "best", title=title)
        mine = [row for row in rows if (row["data"], row["setting"]) == (data, setting)]
        for method in dict.fromkeys(row["method"] for row in mine):
            these = {row["share"]: row for row in mine if row["method"] == method}
            best = next(iter(these.values()))
            at = f"{100 * best['best_share']:.0f} % at {max(best['tested']):,} or fewer"
            table.add_row(method, *(_cell(these[share]) for share in SHARES), at)
        parts.append(table)
    return Group(
        *parts, "median over seeds (most over seeds in brackets); share of what the white box wins back with 100,000 images, no "
        "head; CIFAR-10: chip by chip with as many images, affine head"
    )  # fmt: skip


def _cell(row: dict[str, Any]) -> str:
    if row["images_median"] is None:
        return "-"
    most = f" ({row['images_max']:,})" if row["images_max"] is not None else ""
    return f"{row['images_median']:,}{most}"


def _draw(curves: list[tuple[str, str, dict[int, float]]]) -> None:
    figure = Figure(figsize=(8.8, 3.8), layout="constrained")
    colours = {"follow": "#4c72b0", "guided": "#8172b3", "transfer": "#dd8452", "rge": "#55a868"}
    all_axes = figure.subplots(1, 2, sharey=True)
    for axes, setting in zip(all_axes, SETTINGS, strict=True):
        for where, method, curve in curves:
            if where == setting:
                points = sorted((max(images, 100), 100 * share) for images, share in curve.items())
                axes.plot(
                    *zip(*points, strict=True), color=colours.get(method, "#bbbbbb"), marker="o", markersize=3,
                    lw=1.5 if method in colours else 0.7, label=method if method in colours else "_",
                )  # fmt: skip
        if not any((where, method) == (setting, "guided") for where, method, _ in curves):
            axes.plot([], [], color=colours["guided"], marker="o", markersize=3, lw=1.5, label="guided (one chip)")
        axes.plot([], [], color="#bbbbbb", lw=0.7, label="others")
        axes.axhline(100.0, color="#555555", linestyle="--", lw=1.0, label="white box, 100,000 images")
        axes.axhline(0.0, color="#c44e52", linestyle=":", lw=1.0, label="no fuse")
        axes.set_xscale("log")
        axes.set_title({"chip": "one chip", "population": "population of chips"}[setting], fontsize=10)
        axes.set_xlabel("images sent for training (none: at 100)")
        axes.set_ylim(-20, 110)
        without_frame(axes)
    all_axes[0].set_ylabel("% of the white box's recovery")
    legend_beside(all_axes[1])
    (RESULTS / "query_efficiency.svg").write_text(svg(figure))


STUDY = Study("query_efficiency", lambda: list(_tasks()), _record, _table, _rows, more_rows=cifar10.needed)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
