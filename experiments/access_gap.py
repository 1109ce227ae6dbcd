"""What each method wins back from answers alone, at equal numbers of images, as a share of what gradients win back.

Digits, 5 % bit errors, five seeds: `chip`, chips 0 to 4, one for each seed; `population`, five runs on ten unseen chips each.
Every method at the learning rate that `experiments.tuning` found for it on other chips and other images. ``images`` are those
sent for training, the closing report is not counted in them. ``owned`` images, all or 200, with the labels `given` or with the
`target`'s own answers at nominal voltage in their place. Points are recovered on held-out images; the share is that of the white
box with the same setting, images, head and seed. ``method`` `head` is the head alone, `control` a classifier of the fuse's own
size, trained on the owned images and used instead of the target. The rows of CIFAR-10 (JPEG) are those of `experiments.cifar10`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table

from backends.datasets.loading import load
from bbfuse.compare.baselines import control
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import ReportConfig, ValidationConfig
from bbfuse.runs.figures import legend_beside, svg, without_frame
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
"""The others end here, to spare hours: for the population no method that probes parameters has won much more than a point."""

Key = tuple[str, int, str, str, str]
"""Setting, images owned, labels, method, head."""


def _tasks() -> list[Task]:
    return [task for setting in SETTINGS for task in _of_setting(setting)]


def _of_setting(setting: str) -> Iterator[Task]:
    pool = len(load("digits").train) + len(load("digits").validation)
    for arm in ARMS:
        for images in BUDGETS:
            if images > STOP_AT[setting] and arm not in TO_THE_END[setting]:
                continue
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
    config = replace(config, head=head, images=None if owned > OWNED else owned)  # type: ignore[arg-type]
    for seed in SEEDS:
        named = {
            "data": "digits", "setting": setting, "owned": owned, "labels": labels, "method": arm, "head": head, "images": images,
            "seed": seed,
        }  # fmt: skip
        if setting == "chip":
            yield Task(named, replace(config, chip_seed=seed))
        else:
            yield Task(named, replace(config, seed=seed, report=ReportConfig(chips=REPORTED_CHIPS)))


def _record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    found = summary["accuracy"]
    low = found["perturbed"]["mean"]
    return {
        "recovered": summary["recovered_points"], "lost": summary["lost_points"], "perturbed": low,
        "head_recovered": 100 * (found["perturbed_head"]["mean"] - low),
    }  # fmt: skip


def _key(row: dict[str, Any]) -> Key:
    return row["setting"], row["owned"], row["labels"], row["method"], row["head"]


def _rows(records: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
    relaxed = {(*_key({**r, "method": ""}), r["images"], r["seed"]): r["recovered"] for r in records if r["method"] == "backprop"}
    groups: dict[tuple[Key, int], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((_key(record), record["images"]), []).append(record)
    rows = []
    for (key, images), mine in groups.items():
        against = [relaxed.get((*_key({**r, "method": ""}), images, r["seed"])) for r in mine]
        rows.append(_row(key, images, [r["recovered"] for r in mine], against, mine))
        if key[3] == "rge" and key[4] != "none" and images == BUDGETS[1]:
            # the head alone has cost its warm-up only
            taken = key[1] * 4 // 5 if key[4] == "affine" else STANDARDIZED
            rows.append(_row((*key[:3], "head", key[4]), taken, [r["head_recovered"] for r in mine], against, mine))
        if key[3] == "rge" and key[4] == "none" and key[2] == "given" and images == BUDGETS[1]:
            few = OWNED if key[1] <= OWNED else None
            own = [100 * (control("digits", few, r["seed"]) - r["perturbed"]) for r in mine]
            rows.append(_row((*key[:3], "control", "none"), 0, own, against, mine))
    for setting in SETTINGS:
        _draw(rows, setting)
    return rows


def _row(
    key: Key, images: int, recovered: list[float], relaxed: list[float | None], records: list[dict[str, Any]]
) -> dict[str, Any]:
    shares = [points / base for points, base in zip(recovered, relaxed, strict=True) if base]
    setting, owned, labels, method, head = key
    return {
        "data": "digits", "setting": setting, "owned": owned, "labels": labels, "method": method, "head": head, "images": images,
        "seeds": len(recovered), "lost_mean": mean(r["lost"] for r in records), "recovered_mean": mean(recovered),
        "recovered_sd": pstdev(recovered), "share_mean": mean(shares) if shares else None,
        "share_sd": pstdev(shares) if shares else None,
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Group:
    parts: list[RenderableType] = []
    digits = [row for row in rows if row["data"] == "digits"]
    for setting in SETTINGS:
        table = Table("method", "head", *(f"{images // 1000}k" for images in BUDGETS), title=f"{setting}: points won back")
        mine = [row for row in digits if row["setting"] == setting and row["owned"] > OWNED]
        for method, head in dict.fromkeys((row["method"], row["head"]) for row in mine):
            these = {row["images"]: row for row in mine if (row["method"], row["head"]) == (method, head)}
            if method in ("head", "control"):
                cells = [_cell(next(iter(these.values()))), "", "", ""]
            else:
                cells = [_cell(these[images]) if images in these else "" for images in BUDGETS]
            table.add_row(method, head, *cells)
        parts.append(table)
    small = Table("setting", "labels", "method", "head", "won back", title=f"{OWNED} images owned, 30k sent")
    for row in digits:
        if row["owned"] == OWNED:
            small.add_row(row["setting"], row["labels"], row["method"], row["head"], _cell(row))
    parts += [small, "digits: mean ± sd of 5 seeds, and share of what the white box wins back with as much data\n"]
    return Group(*parts, cifar10.STUDY.table([row for row in rows if row["data"] != "digits"]))


def _cell(row: dict[str, Any]) -> str:
    share = "" if row["share_mean"] is None or row["method"] == "backprop" else f"\n{100 * row['share_mean']:.0f} %"
    return f"{row['recovered_mean']:.1f}±{row['recovered_sd']:.1f}{share}"


def _draw(rows: list[dict[str, Any]], setting: str) -> None:
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = figure.subplots()
    mine = [row for row in rows if row["setting"] == setting and row["owned"] > OWNED]
    colours = iter(colormaps["tab20"].colors)  # type: ignore[attr-defined]
    for method, head in dict.fromkeys((row["method"], row["head"]) for row in mine):
        these = sorted((row for row in mine if (row["method"], row["head"]) == (method, head)), key=lambda row: row["images"])
        y, sd = ([row[name] for row in these] for name in ("recovered_mean", "recovered_sd"))
        if method == "control":
            axes.axhline(y[0], color="#999999", lw=0.7, label="classifier of the fuse's size")
        elif method == "head":
            axes.axhline(y[0], color="#dd8452", linestyle="-.", lw=1.2, label=f"head alone ({head})")
        else:
            name = {"backprop": "white-box"}.get(method, method) + (f" and {head} head" if head != "none" else "")
            colour, style = ("#555555" if head == "none" else "#aaaaaa", "--") if method == "backprop" else (next(colours), "-")
            axes.errorbar(
                [row["images"] for row in these], y, sd, color=colour, linestyle=style, marker="o", markersize=3, capsize=2,
                elinewidth=0.7, lw=1.8 if method in ("rge", "backprop") else 1.0, label=name,
            )  # fmt: skip
    axes.axhline(0.0, color="#c44e52", linestyle=":", lw=1.2, label="no fuse")
    axes.set_xscale("log")
    axes.set_xlabel("images sent for training")
    axes.set_ylabel("points won back")
    axes.set_ylim(bottom=max(-15.0, axes.get_ylim()[0]))
    without_frame(axes)
    legend_beside(axes)
    (RESULTS / f"access_gap_{setting}.svg").write_text(svg(figure))


STUDY = Study("access_gap", _tasks, _record, _table, _rows, more_rows=lambda: rows_of("cifar10"))

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
