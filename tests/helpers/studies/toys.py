"""Toys for studies: a data set and a network that take no time, and what a study draws of toy rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from torch import nn

from backends.datasets.base import Dataset, Split
from bbfuse.compare.display import plots
from tests.helpers.studies.drawn import cells, headers

__all__ = ["TOY_SHAPE", "band", "cells", "headers", "kept_figures", "lines", "tables_of", "toy_data", "toy_network"]

TOY_SHAPE = (1, 3, 4)


def kept_figures(module: ModuleType, patch: pytest.MonkeyPatch, folder: Path) -> dict[str, Figure]:
    """The figures that ``module`` writes from now on, by their file's name; the files lie in ``folder``."""
    waiting: list[Figure] = []
    found: dict[str, Figure] = {}

    class Kept:
        """Stands for the folder of results."""

        def __truediv__(self, name: str) -> Kept:
            self.name = name
            return self

        def write_text(self, text: str) -> None:
            found[self.name] = waiting.pop()
            (folder / self.name).write_text(text)

    def svg(figure: Figure) -> str:
        waiting.append(figure)
        return "<svg/>"

    patch.setattr(module, "RESULTS", Kept())
    patch.setattr(plots, "svg", svg)
    patch.setattr(module, "svg", svg, raising=False)
    return found


def lines(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """x and y of every line of ``axes``, in the order they were drawn."""
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.lines]


def band(axes: Axes, number: int) -> dict[float, tuple[float, float]]:
    """Lower and upper end of the shaded band with this number, by x."""
    (path,) = axes.collections[number].get_paths()
    at: dict[float, list[float]] = {}
    for x, y in np.asarray(path.vertices).tolist():
        at.setdefault(round(x, 9), []).append(y)
    return {x: (min(y), max(y)) for x, y in at.items()}


def tables_of(shown: RenderableType) -> list[Table]:
    """The tables in what a study prints."""
    parts: Iterable[Any] = shown.renderables if isinstance(shown, Group) else [shown]
    return [part for part in parts if isinstance(part, Table)]


def toy_data(name: str = "toy") -> Dataset:
    """Images of 3x4 pixels in three classes; no two parts and no two images are alike."""
    rng = torch.Generator().manual_seed(11)

    def part(count: int) -> Split:
        return Split(torch.rand((count, *TOY_SHAPE), generator=rng) * 2 - 1, torch.randint(3, (count,), generator=rng))

    return Dataset(name, 3, part(29), part(17), part(23))


def toy_network(seed: int = 0) -> nn.Module:
    """A linear classifier of the toy's images whose layer is called ``1``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval().requires_grad_(False)
