"""What a study drew and printed, read back as numbers: the figures it would have written, and the cells of its tables."""

from __future__ import annotations

import io
import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from rich.console import Console, RenderableType
from rich.table import Table

import experiments
from bbfuse.compare.display import plots

Points = tuple[list[float], list[float]]


def figures_of(monkeypatch: pytest.MonkeyPatch, module: ModuleType, folder: Path) -> list[Figure]:
    """A list that grows by every figure that ``module`` draws from now on; its files go to ``folder``."""
    figures: list[Figure] = []

    def keep(figure: Figure) -> str:
        figures.append(figure)
        return "<svg/>"

    monkeypatch.setattr(module, "RESULTS", folder)
    monkeypatch.setattr(plots, "svg", keep)
    if hasattr(module, "svg"):
        monkeypatch.setattr(module, "svg", keep)
    return figures


def points(axes: Axes) -> dict[str, Points]:
    """Every line of ``axes`` by its label; those of an error bar by the label of the whole."""
    found = {str(line.get_label()): line for line in axes.lines}
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer) and container.lines[0] is not None:
            found[container.get_label()] = container.lines[0]
    return {label: ([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]) for label, line in found.items()}


def unlabelled(axes: Axes) -> list[Points]:
    """All lines of ``axes`` without a label, in the order in which they were drawn."""
    return [
        ([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()])
        for line in axes.lines if str(line.get_label()).startswith("_")
    ]  # fmt: skip


def deviations(axes: Axes, across: int = 1) -> list[list[float]]:
    """Half the length of every error bar of ``axes``, by containers; along y, or along x with ``across`` 0."""
    return [
        [float(abs(end[across] - start[across]) / 2) for bars in container.lines[2] for start, end in bars.get_segments()]
        for container in axes.containers if isinstance(container, ErrorbarContainer)
    ]  # fmt: skip


def rectangles(axes: Axes) -> dict[str, list[tuple[float, float, float, float]]]:
    """The bars of ``axes`` by their label: left, bottom, width, height."""
    return {
        container.get_label(): [(bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()) for bar in container.patches]
        for container in axes.containers if isinstance(container, BarContainer)
    }  # fmt: skip


def segments(axes: Axes) -> list[list[list[list[float]]]]:
    """What `hlines` and `vlines` drew, call by call: each piece's two ends."""
    within = {id(part) for c in axes.containers if isinstance(c, ErrorbarContainer) for part in c.lines[2]}
    return [
        [piece.tolist() for piece in lines.get_segments()]  # type: ignore[attr-defined]
        for lines in axes.collections if id(lines) not in within and hasattr(lines, "get_segments")
    ]  # fmt: skip


def cells(table: Table) -> list[list[str]]:
    """The rows of a table."""
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]  # type: ignore[arg-type]


def headers(table: Table) -> list[str]:
    """The names of its columns."""
    return [str(column.header) for column in table.columns]


def text_of(shown: RenderableType, width: int = 200) -> str:
    """What a console of that ``width`` prints."""
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return written


def written_events(folder: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """A run folder with these lines as its events."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def shown_as_a_program(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The result that ``python -m experiments.NAME --json`` prints."""
    program = Path(experiments.__file__).parent / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(program), "--json"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(program), run_name="__main__")
    assert ended.value.code == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def committed(name: str) -> dict[str, Any]:
    """The whole committed result."""
    found: dict[str, Any] = json.loads((Path(experiments.__file__).parent / "results" / f"{name}.json").read_text())
    return found
