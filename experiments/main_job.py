"""The main job on five chips: recovery with strict access, beside the head alone and white-box backpropagation.

Digits target, 5 % bit errors, chips 0 to 4, one seed each; no setting was tuned on these chips or on the test images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from rich.table import Table

from bbfuse.compare.display.plots import BLUE, GREEN, GREY, LIGHT, ORANGE, PURPLE, RED, level, panels
from bbfuse.compare.display.shares import share
from bbfuse.compare.display.tables import average, rows_where, spread, table
from bbfuse.compare.tasks import Task, grid
from bbfuse.config.schema import RunConfig
from bbfuse.runs.folder import events
from experiments.study import RESULTS, Study

__all__ = ["STUDY"]

CHIPS = range(5)
WHITE_BOX: dict[str, Any] = {"backend": "whitebox", "optimizer": "backprop"}
ARMS: dict[str, dict[str, Any]] = {
    "fuse and head, strict": {"budget": 20_000},
    "fuse alone, strict": {"head": "none", "budget": 150_000},
    "fuse alone, white-box": {"head": "none", "budget": 150_000, **WHITE_BOX},
    "fuse and head, white-box": {"budget": 20_000, **WHITE_BOX},
}
COLOURS = dict(zip(ARMS, (BLUE, PURPLE, GREY, LIGHT), strict=True))
LEVELS = {
    "clean": ("nominal voltage", "--", GREEN),
    "head_alone": ("head alone", "-.", ORANGE),
    "perturbed": ("no fuse", ":", RED),
}
COLUMNS = {
    "images": average("images", ",.0f"), "lost": spread("lost_points", 1.0), "accuracy": spread("fused"),
    "recovered": spread("share"), "head alone": spread("head_share"),
}  # fmt: skip


def _tasks() -> list[Task]:
    return list(grid(lambda arm, chip: RunConfig(chip_seed=chip, **ARMS[arm]), arm=ARMS, chip=CHIPS))


def _record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    accuracy, lost = summary["accuracy"], summary["lost_points"]
    head = 100 * (accuracy["perturbed_head"]["mean"] - accuracy["perturbed"]["mean"])
    return {
        "images": summary["queries"]["images"], "budget": summary["queries"]["budget"], "clean": accuracy["clean"],
        "perturbed": accuracy["perturbed"]["mean"], "head_alone": accuracy["perturbed_head"]["mean"],
        "fused": accuracy["perturbed_fused"]["mean"], "lost_points": lost, "recovered_points": summary["recovered_points"],
        "share": share(summary["recovered_points"], lost), "head_share": share(head, lost), "seconds": summary["seconds"],
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Table:
    caption = f"in percent: mean ± sd over {len(CHIPS)} chips; lost in points; recovered: share of the lost points"
    return table(rows, ("arm",), COLUMNS, caption=caption, padding=(0, 0))


def _draw(rows: list[dict[str, Any]], folders: list[Path]) -> None:
    with panels(RESULTS / "main_job.svg", 8.4, 3.8) as (axes,):
        for arm, colour in COLOURS.items():
            mine = [folder for row, folder in zip(rows, folders, strict=True) if row["arm"] == arm]
            seen = [[(line["images"], 100 * line["validation"]) for line in events(f) if "validation" in line] for f in mine]
            images, accuracy = np.moveaxis(np.array(seen), 2, 0)
            x, y, sd = np.maximum(images.mean(0), 100), accuracy.mean(0), accuracy.std(0)
            axes.plot(x, y, "--" if "white-box" in arm else "-", marker="o", markersize=3, color=colour, label=arm)
            axes.fill_between(x, y - sd, y + sd, color=colour, alpha=0.12, lw=0)
        first = rows_where(rows, arm=next(iter(ARMS)))
        for key, (label, style, colour) in LEVELS.items():
            level(axes, 100 * mean(row[key] for row in first), f"{label} (held-out)", style, colour)
        axes.set(xscale="log", xlabel="images sent", ylabel="validation accuracy, %")


STUDY = Study("main_job", _tasks, _record, _table, draw=_draw)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
