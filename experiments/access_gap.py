"""Recovery of each method from queries alone, at equal query budgets, as a share of the white-box recovery.

Digits, 5 % bit errors, five seeds: `chip`, chips 0 to 4, one for each seed; `population`, five runs on ten unseen chips each.
Every method has the learning rate that `experiments.tuning` found for it on other chips and other images. ``images`` are those
sent for training; the closing report is not counted. ``owned`` images, all or 200, have the labels `given`, or the `target`'s own
predictions at nominal voltage in their place. Points are recovered on held-out images; the share is that of the white box with
the same setting, images, head and seed. ``method`` `head` is the head alone, `control` a classifier of the fuse's own size,
trained on the owned images and used instead of the target. The rows of CIFAR-10 (JPEG) are those of `experiments.cifar10`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean
from typing import Any

from matplotlib import colormaps
from rich.console import Group

from backends.datasets.loading import load
from bbfuse.compare.baselines import control
from bbfuse.compare.display.plots import GREY, LIGHT, ORANGE, error_bars, level, panels
from bbfuse.compare.display.shares import recovery
from bbfuse.compare.display.tables import at, grouped, rows_where, table
from bbfuse.compare.tasks import Task
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.training.evaluation import report_images
from experiments import cifar10
from experiments.study import RESULTS, Study, rows_of
from experiments.tuning import ARMS, SETTINGS, tuned

__all__ = ["STUDY"]

BUDGETS = (10_000, 30_000, 100_000, 300_000)
SEEDS = range(5)
REPORTED_CHIPS = 10
OWNED = 200
STANDARDIZED = 50
HEADS = {"chip": "affine", "population": "standardize"}
TO_THE_END = {"chip": ("backprop", "rge", "spsa-gc", "cma, subspace"), "population": ("backprop", "rge")}
"""Methods that are run with the largest budgets too."""
STOP_AT = {"chip": 100_000, "population": 30_000}
"""Largest budget of the others, to save hours: for the population no method that probes parameters recovers two points."""
KEY = ("setting", "owned", "labels", "method", "head")
BASELINES = ("head", "control")


def _tasks() -> list[Task]:
    return [task for setting in SETTINGS for task in _of_setting(setting)]


def _of_setting(setting: str) -> Iterator[Task]:
    pool = len(load("digits").train) + len(load("digits").validation)
    for arm in ARMS:
        for images in BUDGETS:
            if images <= STOP_AT[setting] or arm in TO_THE_END[setting]:
                yield from _of_arm(setting, arm, images, "none", pool, "given")
    for arm in ("backprop", "rge"):
        for images in BUDGETS:
            yield from _of_arm(setting, arm, images, HEADS[setting], pool, "given")
        for labels in ("given", "target"):
            for head in ("none", HEADS[setting]):
                yield from _of_arm(setting, arm, 30_000, head, OWNED, labels)


def _of_arm(setting: str, arm: str, images: int, head: str, owned: int, labels: str) -> Iterator[Task]:
    chips = 1 if setting == "chip" else REPORTED_CHIPS
    report = report_images(len(load("digits").test), chips, STANDARDIZED if head == "standardize" else 0)
    config = ARMS[arm].config(
        tuned(setting, arm), budget=images + report, labels=labels, validation=ValidationConfig(times=0)
    )  # fmt: skip
    config = replace(config, head=head, images=None if owned > OWNED else owned)
    for seed in SEEDS:
        named = dict(
            zip(("data", *KEY, "images", "seed"), ("digits", setting, owned, labels, arm, head, images, seed), strict=True)
        )
        where = {"chip_seed": seed} if setting == "chip" else {"seed": seed, "report": ReportConfig(chips=REPORTED_CHIPS)}
        yield Task(named, replace(config, **where))


def _record(summary: dict[str, Any], folder: object) -> dict[str, Any]:
    found = summary["accuracy"]
    low = found["perturbed"]["mean"]
    return {
        "recovered": summary["recovered_points"], "lost": summary["lost_points"], "perturbed": low,
        "head_recovered": 100 * (found["perturbed_head"]["mean"] - low),
    }  # fmt: skip


def _rows(records: list[dict[str, Any]], folders: object) -> list[dict[str, Any]]:
    same = ("setting", "owned", "labels", "head", "images", "seed")
    relaxed = {tuple(r[key] for key in same): r["recovered"] for r in rows_where(records, method="backprop")}
    rows = []
    for (*key, images), mine in grouped(records, *KEY, "images").items():
        setting, owned, labels, method, head = key
        reference = [relaxed.get(tuple(r[name] for name in same)) for r in mine]

        def row(method: str, images: int, points: list[float], mine: Any = mine, reference: Any = reference) -> dict[str, Any]:
            named = {"data": "digits", **{name: mine[0][name] for name in KEY}, "method": method, "images": images}
            return {**named, "seeds": len(points), "lost_mean": mean(r["lost"] for r in mine), **recovery(points, reference)}

        rows.append(row(method, images, [r["recovered"] for r in mine]))
        if method != "rge" or images != BUDGETS[1]:
            continue
        if head != "none":  # the head alone sends the images of its calibration only
            rows.append(row("head", owned * 4 // 5 if head == "affine" else STANDARDIZED, [r["head_recovered"] for r in mine]))
        elif labels == "given":
            few = OWNED if owned <= OWNED else None
            rows.append(row("control", 0, [100 * (control("digits", few, r["seed"]) - r["perturbed"]) for r in mine]))
    for setting in SETTINGS:
        _draw(rows, setting)
    return rows


def _table(rows: list[dict[str, Any]]) -> Group:
    digits = rows_where(rows, data="digits")
    columns = {f"{images // 1000}k": at("images", images, _cell) for images in BUDGETS}
    first = [{**row, "images": BUDGETS[0]} if row["method"] in BASELINES else row for row in digits if row["owned"] > OWNED]
    parts = [
        table(rows_where(first, setting=setting), ("method", "head"), columns, title=f"{setting}: points recovered")
        for setting in SETTINGS
    ]
    small = table(
        rows_where(digits, owned=OWNED), ("setting", "labels", "method", "head"), {"recovered": lambda rows: _cell(rows[0])},
        title=f"{OWNED} images owned, 30k sent",
    )  # fmt: skip
    note = "digits: mean ± sd of 5 seeds, and share of the white-box recovery with as much data\n"
    larger = [row for row in rows if row["data"] != "digits"]
    return Group(*parts, small, note, *([cifar10.STUDY.table(larger)] if larger else []))


def _cell(row: dict[str, Any]) -> str:
    share = "" if row["share_mean"] is None or row["method"] == "backprop" else f"\n{100 * row['share_mean']:.0f} %"
    return f"{row['recovered_mean']:.1f}±{row['recovered_sd']:.1f}{share}"


def _draw(rows: list[dict[str, Any]], setting: str) -> None:
    colours = iter(colormaps["tab20"].colors)  # type: ignore[attr-defined]
    mine = sorted((row for row in rows_where(rows, setting=setting) if row["owned"] > OWNED), key=lambda row: row["images"])
    order = dict.fromkeys((r["method"], r["head"]) for r in rows if r["setting"] == setting and r["owned"] > OWNED)
    with panels(RESULTS / f"access_gap_{setting}.svg", 8.4, 4.4) as (axes,):
        for method, head in order:
            these = rows_where(mine, method=method, head=head)
            x, y, sd = ([row[name] for row in these] for name in ("images", "recovered_mean", "recovered_sd"))
            if method == "control":
                level(axes, y[0], "classifier of the fuse's size", "-", LIGHT, 0.7)
            elif method == "head":
                level(axes, y[0], f"head alone ({head})", "-.", ORANGE)
            else:
                white = method == "backprop"
                error_bars(
                    axes, x, y, sd, color=(GREY if head == "none" else "#aaaaaa") if white else next(colours),
                    linestyle="--" if white else "-", lw=1.8 if method in ("rge", "backprop") else 1.0,
                    label=("white-box" if white else method) + (f" and {head} head" if head != "none" else ""),
                )  # fmt: skip
        level(axes, 0.0, "no fuse")
        axes.set(xscale="log", xlabel="images sent for training", ylabel="points recovered")
        axes.set_ylim(bottom=max(-15.0, axes.get_ylim()[0]))


STUDY = Study("access_gap", _tasks, _record, _table, _rows, more_rows=lambda: rows_of("cifar10"))

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
