"""Figures of comparisons as SVG files: panels side by side, without frame, the legend beside the last one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbfuse.runs.figures import legend_beside, svg, without_frame

__all__ = ["BLUE", "GREEN", "GREY", "LIGHT", "ORANGE", "PURPLE", "RED", "error_bars", "level", "panels"]

BLUE, ORANGE, GREEN, RED, PURPLE = "#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3"
GREY, LIGHT = "#555555", "#999999"


@contextmanager
def panels(file: Path, width: float, height: float, count: int = 1, legend: bool = True, **options: Any) -> Iterator[list[Axes]]:
    """``count`` axes side by side in a figure of so many inches, written to ``file`` as SVG when the block ends.

    ``options`` are those of `matplotlib.figure.Figure.subplots`, such as ``sharey=True``.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False, **options).flat)
    yield axes
    for each in axes:
        without_frame(each)
    if legend:
        legend_beside(axes[-1])
    file.write_text(svg(figure))


def level(axes: Axes, y: float, label: str, style: str = ":", colour: str = RED, width: float = 1.2) -> None:
    """A horizontal line, such as the accuracy without a fuse."""
    axes.axhline(y, linestyle=style, color=colour, lw=width, label=label)


def error_bars(axes: Axes, x: list[float], y: list[float], sd: list[float], **style: Any) -> None:
    """A line of means with bars of one standard deviation."""
    axes.errorbar(x, y, sd, **{"marker": "o", "markersize": 3, "capsize": 2, "elinewidth": 0.7, **style})
