"""Tables of rows: grouping, mean ± standard deviation, and Markdown of what the console shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, pstdev
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from bbfuse.compare.tasks import Row

__all__ = [
    "Column",
    "at",
    "average",
    "first",
    "grouped",
    "least",
    "lines",
    "markdown",
    "mean_sd",
    "percent",
    "rows_where",
    "spread",
    "table",
]

Column = Callable[[list[Row]], str]
"""The text of a cell, from the rows of its line."""


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """``rows`` by their values of ``keys``, in order of appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def rows_where(rows: Iterable[Row], **values: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def table(rows: Iterable[Row], by: Sequence[str], columns: Mapping[str, Column], **options: Any) -> Table:
    """One line for each combination of values of ``by``, which are its first cells; ``options`` are those of rich's `Table`."""
    shown = Table(**options)
    for name in by:
        shown.add_column(name)
    for name in columns:
        shown.add_column(name, justify="right")
    for values, group in grouped(rows, *by).items():
        shown.add_row(*map(str, values), *(column(group) for column in columns.values()))
    return shown


def lines(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]], **options: Any) -> Table:
    """One line for each row."""
    shown = Table(*columns, **options)
    for row in rows:
        shown.add_row(*(column(row) for column in columns.values()))
    return shown


def mean_sd(values: Sequence[float]) -> str:
    """Mean and population standard deviation to one decimal place."""
    return f"{mean(values):.1f} ± {pstdev(values):.1f}"


def percent(value: float | None, places: int = 1, unit: str = "") -> str:
    """A fraction in percent; ``-`` for ``None``."""
    return "-" if value is None else f"{100 * value:.{places}f}{unit}"


def spread(key: str, scale: float = 100.0) -> Column:
    """Mean and standard deviation of ``key``; rows without a value are left out, ``-`` if none has one."""
    return _column(key, scale, mean_sd)


def least(key: str, scale: float = 100.0) -> Column:
    """The smallest value of ``key``."""
    return _column(key, scale, lambda values: f"{min(values):.1f}")


def average(key: str, form: str = ".1f", scale: float = 1.0) -> Column:
    """The mean of ``key``, formatted by ``form``."""
    return _column(key, scale, lambda values: f"{mean(values):{form}}")


def first(key: str, form: str = "") -> Column:
    """The value of ``key`` in the first row."""
    return lambda rows: f"{rows[0][key]:{form}}"


def at(key: str, value: Any, cell: Callable[[Row], str]) -> Column:
    """The ``cell`` of the row of the line that has this ``value`` of ``key``; empty if there is none."""
    return lambda rows: next((cell(row) for row in rows if row[key] == value), "")


def _column(key: str, scale: float, text: Callable[[list[float]], str]) -> Column:
    def column(rows: list[Row]) -> str:
        values = [scale * row[key] for row in rows if row[key] is not None]
        return text(values) if values else "-"

    return column


def markdown(shown: RenderableType) -> str:
    """The same table, group of tables or text in Markdown."""
    if isinstance(shown, Group):
        return "\n\n".join(markdown(part) for part in shown.renderables)
    if not isinstance(shown, Table):
        return str(shown).strip()
    lines = [_line(str(column.header) for column in shown.columns), _line("---" for _ in shown.columns)]
    lines += [_line(map(str, cells)) for cells in zip(*(column.cells for column in shown.columns), strict=True)]
    parts = [f"**{shown.title}**" if shown.title else "", "\n".join(lines), str(shown.caption or "")]
    return "\n\n".join(part for part in parts if part)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), '<br>') for cell in cells)} |"
