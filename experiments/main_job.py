"""The main job on five chips: what strict access wins back, beside the head alone and white-box backpropagation.

Digits target, 5 % bit errors, chips 0 to 4, one seed each; nothing was tuned on these chips or on the test images.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig
from bbfuse.runs.figures import legend_beside, svg, without_frame
from bbfuse.runs.folder import events
from experiments.study import RESULTS, Study

__all__ = ["STUDY"]

CHIPS = range(5)
ARMS: dict[str, RunConfig] = {
    "fuse and head, strict": RunConfig(budget=20_000),
    "fuse alone, strict": RunConfig(head="none", budget=150_000),
    "fuse alone, white-box": RunConfig(head="none", budget=150_000, backend="whitebox", optimizer="backprop"),
    "fuse and head, white-box": RunConfig(budget=20_000, backend="whitebox", optimizer="backprop"),
}
COLOURS = dict(zip(ARMS, ("#4c72b0", "#8172b3", "#555555", "#999999"), strict=True))


def _tasks() -> list[Task]:
    return [Task({"arm": arm, "chip": chip}, replace(config, chip_seed=chip)) for arm, config in ARMS.items() for chip in CHIPS]


def _record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    accuracy, lost = summary["accuracy"], summary["lost_points"]
    head = 100 * (accuracy["perturbed_head"]["mean"] - accuracy["perturbed"]["mean"])
    return {
        "images": summary["queries"]["images"], "budget": summary["queries"]["budget"], "clean": accuracy["clean"],
        "perturbed": accuracy["perturbed"]["mean"], "head_alone": accuracy["perturbed_head"]["mean"],
        "fused": accuracy["perturbed_fused"]["mean"], "lost_points": lost, "recovered_points": summary["recovered_points"],
        "share": summary["recovered_points"] / lost, "head_share": head / lost, "seconds": summary["seconds"],
    }  # fmt: skip


def _spread(rows: Sequence[dict[str, Any]], key: str, scale: float = 100.0) -> str:
    values = [scale * row[key] for row in rows]
    return f"{mean(values):.1f} ± {pstdev(values):.1f}"


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(caption=f"mean ± sd over {len(CHIPS)} chips; won back: share of the lost points", padding=(0, 0))
    for name in ("per cent", "images", "lost", "accuracy", "won back", "head alone"):
        table.add_column(name, justify="left" if name == "per cent" else "right")
    for arm in ARMS:
        these = [row for row in rows if row["arm"] == arm]
        table.add_row(
            arm, f"{mean(row['images'] for row in these):,.0f}", _spread(these, "lost_points", 1.0), _spread(these, "fused"),
            _spread(these, "share"), _spread(these, "head_share"),
        )  # fmt: skip
    return table


def _drawn(rows: list[dict[str, Any]], folders: list[Path]) -> None:
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for arm, colour in COLOURS.items():
        curves = []
        for row, folder in zip(rows, folders, strict=True):
            if row["arm"] == arm:
                seen = [line for line in events(folder) if "validation" in line]
                curves.append(([line["images"] for line in seen], [100 * line["validation"] for line in seen]))
        images = np.mean([x for x, _ in curves], axis=0)
        values = np.array([y for _, y in curves])
        style = "--" if "white-box" in arm else "-"
        axes.plot(np.maximum(images, 100), values.mean(0), style, marker="o", markersize=3, color=colour, label=arm)
        axes.fill_between(
            np.maximum(images, 100),
            values.mean(0) - values.std(0),
            values.mean(0) + values.std(0),
            color=colour,
            alpha=0.12,
            lw=0,
        )
    for key, label, style, colour in (
        ("clean", "nominal voltage", "--", "#55a868"),
        ("head_alone", "head alone", "-.", "#dd8452"),
        ("perturbed", "no fuse", ":", "#c44e52"),
    ):
        first = [row for row in rows if row["arm"] == next(iter(ARMS))]
        axes.axhline(100 * mean(row[key] for row in first), linestyle=style, color=colour, label=f"{label} (held-out)", lw=1.2)
    axes.set_xscale("log")
    axes.set_xlabel("images sent")
    axes.set_ylabel("validation accuracy, %")
    without_frame(axes)
    legend_beside(axes)
    (RESULTS / "main_job.svg").write_text(svg(figure))


STUDY = Study("main_job", _tasks, _record, _table, draw=_drawn)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
