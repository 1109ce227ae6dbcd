"""``report.html``: one self-contained page with the results of a run."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from bbfuse.runs.figures import legend_beside, svg, without_frame
from bbfuse.runs.folder import events

__all__ = ["LABELS", "write_report"]

_SHOWN = 8

LABELS = {
    "no protection": "perturbed",
    "head alone": "perturbed_head",
    "fuse alone": "perturbed_fuse",
    "fuse and head": "perturbed_fused",
}
"""Rows of the closing table and bars of the report, in order."""

_COLOURS = {
    "nominal": "#555555",
    "perturbed": "#c44e52",
    "perturbed_head": "#dd8452",
    "perturbed_fuse": "#8172b3",
    "perturbed_fused": "#4c72b0",
}


def write_report(folder: Path, summary: dict[str, Any], images: torch.Tensor, fused: torch.Tensor) -> None:
    """Write the page into the run folder ``folder``.

    ``images`` and ``fused`` (n, channels, height, width), in [-1, 1], are the same images before and after the fuse.
    """
    figures = {
        "Accuracy on held-out images": _bars(summary),
        "Images before and after the fuse": _grid(images[:_SHOWN], fused[:_SHOWN]),
    }
    if summary["energy"]["saving"] is not None:
        figures["Recovered points against energy saved"] = _trade_off(summary)
    if validations := [line for line in events(folder) if "validation" in line]:
        figures = {"Accuracy on owned validation images against images sent": _curve(validations, summary), **figures}
    parts = "\n".join(f"<figure><figcaption>{title}</figcaption>{svg(figure)}</figure>" for title, figure in figures.items())
    accuracy, queries = summary["accuracy"], summary["queries"]
    rate = summary["config"]["bit_error_rate"]
    clean, bare, repaired = accuracy["clean"], accuracy["perturbed"]["mean"], accuracy["perturbed_fused"]["mean"]
    lead = (
        f"{100 * clean:.1f} % at nominal voltage, {100 * bare:.1f} % at {100 * rate:g} % bit errors, "
        f"{100 * repaired:.1f} % with all that was trained; {queries['images']:,} images sent."
    )
    page = _PAGE.format(lead=lead, parts=parts, summary=html.escape(json.dumps(summary, indent=2)))
    (folder / "report.html").write_text(page)


def _curve(validations: list[dict[str, Any]], summary: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [line["images"] for line in validations],
        [100 * line["validation"] for line in validations],
        "o-",
        color=_COLOURS["perturbed_fused"],
        label="fuse and head",
    )
    for value, name, style in (
        (summary["accuracy"]["clean"], "nominal", "--"), (summary["accuracy"]["perturbed_head"]["mean"], "perturbed_head", "-."),
        (summary["accuracy"]["perturbed"]["mean"], "perturbed", ":"),
    ):  # fmt: skip
        label = {"nominal": "nominal voltage", "perturbed_head": "head alone", "perturbed": "no protection"}[name]
        axes.axhline(100 * value, linestyle=style, color=_COLOURS[name], label=f"{label} (held-out)")
    axes.set_xscale("log")
    axes.set_xlabel("images sent")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(max(0.0, 100 * summary["accuracy"]["perturbed"]["mean"] - 15), 103)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    without_frame(axes)
    return figure


def _bars(summary: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    accuracy = summary["accuracy"]
    rows = [("nominal voltage", accuracy["clean"], 0.0, _COLOURS["nominal"])]
    rows += [(label, accuracy[key]["mean"], accuracy[key]["sd"], _COLOURS[key]) for label, key in LABELS.items()]
    for place, (_, mean, sd, colour) in enumerate(rows):
        axes.barh(place, 100 * mean, xerr=100 * sd if sd else None, color=colour, height=0.65)
        axes.text(1.5, place, f"{100 * mean:.1f} %", va="center", color="white", fontsize=9)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 103)
    axes.set_xlabel("accuracy, %")
    without_frame(axes)
    return figure


def _trade_off(summary: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.subplots()
    accuracy, energy = summary["accuracy"], summary["energy"]
    points = [("nominal voltage", accuracy["clean"], 0.0, _COLOURS["nominal"])]
    for label, key in LABELS.items():
        saved = energy["saving"] if key in ("perturbed_fuse", "perturbed_fused") else energy["saving_bare"]
        points.append((label, accuracy[key]["mean"], saved, _COLOURS[key]))
    for label, value, saved, colour in points:
        recovered = 100 * (value - accuracy["perturbed"]["mean"])
        axes.plot(100 * saved, recovered, "o", color=colour, label=label)
    axes.axhline(summary["lost_points"], linestyle="--", color=_COLOURS["nominal"], lw=1)
    axes.axvline(0.0, color="#bbbbbb", lw=1)
    axes.set_xlabel("energy of the target's weight reads saved, %")
    axes.set_ylabel("recovered points")
    legend_beside(axes)
    without_frame(axes)
    return figure


def _grid(images: torch.Tensor, fused: torch.Tensor) -> Figure:
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    grid = figure.subplots(3, len(images), squeeze=False)
    for column, (before, after) in enumerate(zip(images, fused, strict=True)):
        for row, (picture, low, high) in enumerate(((before, -1, 1), (after, -1, 1), (after - before, -1, 1))):
            axes = grid[row][column]
            pixels = ((picture.permute(1, 2, 0) - low) / (high - low)).clamp(0, 1).numpy()
            axes.imshow(
                pixels if pixels.shape[2] == 3 else pixels[:, :, 0],
                cmap="RdBu_r" if row == 2 else "gray",
                vmin=0,
                vmax=1,
            )
            axes.set_xticks([])
            axes.set_yticks([])
    for row, name in enumerate(("before", "after", "change")):
        grid[row][0].set_ylabel(name, fontsize=9)
    return figure


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>bbfuse run</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
figure {{ margin: 2rem 0; }} figcaption {{ font-weight: 600; margin-bottom: .4rem; }} svg {{ width: 100%; height: auto; }}
pre {{ background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: 13px; }}
</style></head><body>
<h1>bbfuse run</h1>
<p>{lead}</p>
{parts}
<p>Head alone: fitted before the fuse was trained. Fuse alone: this run's fuse with the head taken away.</p>
<details><summary>summary.json</summary><pre>{summary}</pre></details>
</body></html>
"""
