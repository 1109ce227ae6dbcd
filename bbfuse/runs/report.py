"""``report.html``: one self-contained page with the results of a run."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from bbfuse.runs.figures import legend_beside, svg, without_frame
from bbfuse.runs.folder import events

__all__ = ["LABELS", "kept_by", "labels_of", "write_report"]

_SHOWN = 8

LABELS = {
    "no protection": "perturbed",
    "head alone": "perturbed_head",
    "fuse alone": "perturbed_fuse",
    "fuse and head": "perturbed_fused",
}
"""Rows of the closing table and bars of the report, in order."""

_KEPT = {(): "uncorrected", ("head",): "head alone", ("fuse",): "fuse alone", ("fuse", "head"): "fuse and head"}


def labels_of(summary: dict[str, Any]) -> dict[str, str]:
    """`LABELS` in the words of the run: a target without bit errors needs no protection."""
    healthy = summary["config"].get("no_chip")
    return {"uncorrected" if healthy and key == "perturbed" else label: key for label, key in LABELS.items()}


def kept_by(summary: dict[str, Any]) -> str | None:
    """The row of the closing table that validation chose, such as ``head alone``; ``None`` if the run did not choose."""
    return _KEPT[tuple(summary["kept_parts"])] if summary.get("kept_parts") is not None else None


_COLOURS = {
    "nominal": "#555555",
    "perturbed": "#c44e52",
    "perturbed_head": "#dd8452",
    "perturbed_fuse": "#8172b3",
    "perturbed_fused": "#4c72b0",
}


def write_report(folder: Path, summary: dict[str, Any], images: torch.Tensor, fused: torch.Tensor) -> None:
    """Write the page into the run folder ``folder``.

    ``images`` and ``fused`` (n, *shape), in [-1, 1], are the same inputs before and after the fuse; what is no image is drawn as
    lines.
    """
    shown, draw = ("Images", _grid) if images.ndim == 4 else ("Inputs", _lines)
    figures = {
        "Accuracy on held-out images": _bars(summary),
        f"{shown} before and after the fuse": draw(images[:_SHOWN], fused[:_SHOWN]),
    }
    if summary["energy"]["saving"] is not None:
        figures["Recovered points against energy saved"] = _trade_off(summary)
    if validations := [line for line in events(folder) if "validation" in line]:
        figures = {"Accuracy on owned validation images against images sent": _curve(validations, summary), **figures}
    parts = "\n".join(f"<figure><figcaption>{title}</figcaption>{svg(figure)}</figure>" for title, figure in figures.items())
    page = _PAGE.format(lead=_lead(summary), parts=parts, summary=html.escape(json.dumps(summary, indent=2)))
    (folder / "report.html").write_text(page)


def _lead(summary: dict[str, Any]) -> str:
    accuracy = summary["accuracy"]
    bare, repaired = (100 * accuracy[key]["mean"] for key in ("perturbed", "perturbed_fused"))
    if accuracy["clean"] is None:
        before = f"{bare:.1f} % uncorrected"
    else:
        rate = summary["config"]["bit_error_rate"]
        before = f"{100 * accuracy['clean']:.1f} % at nominal voltage, {bare:.1f} % at {100 * rate:g} % bit errors"
    kept = f" Kept after validation: {kept_by(summary)}, {100 * accuracy['kept']['mean']:.1f} %." if kept_by(summary) else ""
    return f"{before}, {repaired:.1f} % with all that was trained; {summary['queries']['images']:,} images sent.{kept}"


def _rows(summary: dict[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """Label, key of the colour, mean and sd of each accuracy, the nominal one first where there is one."""
    accuracy = summary["accuracy"]
    if accuracy["clean"] is not None:
        yield "nominal voltage", "nominal", accuracy["clean"], 0.0
    for label, key in labels_of(summary).items():
        yield label, key, accuracy[key]["mean"], accuracy[key]["sd"]


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
    styles, rows = {"nominal": "--", "perturbed_head": "-.", "perturbed": ":"}, {row[1]: row for row in _rows(summary)}
    for label, key, mean, _ in (rows[key] for key in styles if key in rows):
        axes.axhline(100 * mean, linestyle=styles[key], color=_COLOURS[key], label=f"{label} (held-out)")
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
    rows = list(_rows(summary))
    for place, (_, key, mean, sd) in enumerate(rows):
        axes.barh(place, 100 * mean, xerr=100 * sd if sd else None, color=_COLOURS[key], height=0.65)
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


def _lines(images: torch.Tensor, fused: torch.Tensor) -> Figure:
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    grid = figure.subplots(3, len(images), squeeze=False, sharey="row")
    for column, (before, after) in enumerate(zip(images, fused, strict=True)):
        for row, values in enumerate((before, after, after - before)):
            axes = grid[row][column]
            axes.plot(values.reshape(-1, values.shape[-1]).T.numpy(), color=_COLOURS["nominal"], lw=0.7)
            axes.set_xticks([])
            without_frame(axes)
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
