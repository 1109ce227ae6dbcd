"""Rows of committed results, picked by their values, and sentences about them."""

from __future__ import annotations

from functools import cache
from typing import Any

from experiments.study import rows_of

__all__ = ["Claim", "one", "points", "rows", "with_sd"]


class Claim:
    """A sentence and the results that its numbers come from."""

    def __init__(self, text: str, *results: str) -> None:
        self.text = text
        self.results = results


_rows_of = cache(rows_of)


def rows(result: str, **values: Any) -> list[dict[str, Any]]:
    """The rows of a committed result that have all these values."""
    return [row for row in _rows_of(result) if all(key in row and row[key] == value for key, value in values.items())]


def one(result: str, **values: Any) -> dict[str, Any]:
    """The only row that has all these values."""
    (row,) = rows(result, **values)
    return row


def with_sd(mean: float, sd: float, scale: float = 1.0) -> str:
    """Mean and standard deviation, to one decimal place."""
    return f"{scale * mean:.1f} ± {scale * sd:.1f}"


def points(row: dict[str, Any]) -> str:
    """The recovered points of a row."""
    return with_sd(row["recovered_mean"], row["recovered_sd"])
