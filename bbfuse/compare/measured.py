"""Results that are measured without training runs: settings, rows, table and figure; accuracies of a network on chips."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from matplotlib.axes import Axes

from backends.base import NOMINAL, Chip
from backends.datasets.base import Split
from backends.memory.simulator import Simulator
from bbfuse.compare.command import Tabulate
from bbfuse.compare.display.tables import Column, at
from bbfuse.compare.tasks import Row
from bbfuse.training.evaluation import accuracy

__all__ = ["Measurement", "accuracies", "across", "band", "distinct", "value"]


@dataclass(frozen=True)
class Measurement:
    """A result file whose rows one function measures."""

    name: str
    settings: Any
    """What the rows are computed from; or a function that gives it, called after the rows are there."""
    rows: Callable[[], list[Row]]
    table: Tabulate
    draw: Callable[[list[Row]], None] = lambda rows: None
    """Draws the figures from the rows."""

    def compute(self) -> tuple[Any, list[Row]]:
        """Settings and rows, on one thread."""
        torch.set_num_threads(1)
        rows = self.rows()
        self.draw(rows)
        return self.settings() if callable(self.settings) else self.settings, rows


def accuracies(simulator: Simulator, part: Split, rate: float, seeds: Iterable[int]) -> list[float]:
    """Accuracy on each of the chips ``seeds`` at the bit error rate ``rate``; at rate 0 the nominal accuracy alone."""
    chips = [Chip(rate, seed) for seed in seeds] if rate else [NOMINAL]
    with torch.no_grad():
        return [accuracy(simulator.logits(part.images, chip), part.labels) for chip in chips]


def distinct(rows: Iterable[Row], key: str) -> list[Any]:
    """The values of ``key``, in order of appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def across(rows: Iterable[Row], key: str, cell: Callable[[Row], str], heading: Callable[[Any], str] = str) -> dict[str, Column]:
    """One column of a table for each value of ``key``: the text of the line's row with that value, empty where it has none."""
    return {heading(value): at(key, value, cell) for value in distinct(rows, key)}


def value(key: str, form: str = "", scale: float = 1.0) -> Callable[[Row], str]:
    """The text of the value of ``key``; empty where there is none."""

    def text(row: Row) -> str:
        found = row[key]
        return "" if found is None else f"{found if scale == 1.0 else scale * found:{form}}"

    return text


def band(
    axes: Axes,
    x: list[float],
    y: list[float],
    sd: list[float],
    style: str = "-",
    alpha: float = 0.1,
    most: float = inf,
    **line: Any,
) -> None:  # fmt: skip
    """A line of means with a band of one standard deviation, cut at ``most``."""
    axes.plot(x, y, style, **{"marker": "o", "markersize": 3, **line})
    low, high = ([v + sign * s for v, s in zip(y, sd, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, [min(v, most) for v in high], color=line["color"], alpha=alpha, lw=0)
