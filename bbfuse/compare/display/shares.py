"""Recovery compared with a reference such as white-box training: shares, statistics over runs, images needed for a share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from statistics import mean, median, pstdev

from bbfuse.compare.tasks import Row

__all__ = ["images_needed", "mean_curve", "mean_or_none", "recovery", "share"]

Curve = Mapping[int, float | None]
"""A share for each number of images sent."""


def share(part: float, whole: float | None) -> float | None:
    """``part / whole``; ``None`` where ``whole`` is missing or 0 (nothing was lost, so there is no share of it)."""
    return part / whole if whole else None


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there; ``None`` if none is."""
    found = [value for value in values if value is not None]
    return mean(found) if found else None


def recovery(recovered: Sequence[float], reference: Sequence[float | None]) -> Row:
    """Mean and sd over runs of the ``recovered`` points, and of their share of ``reference``."""
    shares = [value for value in map(share, recovered, reference) if value is not None]
    return {
        "recovered_mean": mean(recovered), "recovered_sd": pstdev(recovered),
        "share_mean": mean(shares) if shares else None, "share_sd": pstdev(shares) if shares else None,
    }  # fmt: skip


def mean_curve(curves: Sequence[Curve]) -> dict[int, float | None]:
    """The mean of several runs' curves, which have the same numbers of images."""
    return {images: mean_or_none([curve[images] for curve in curves]) for images in curves[0]}


def images_needed(curves: Sequence[Curve], shares: Sequence[float]) -> Iterator[Row]:
    """For each of ``shares`` the median and the maximum over runs of the smallest number of images that reached it.

    ``None`` if no tested number of images did.
    """
    for wanted in shares:
        each = [
            min((n for n, reached in curve.items() if reached is not None and reached >= wanted), default=inf) for curve in curves
        ]
        middle, most = median(each), max(each)
        yield {
            "share": wanted, "images_median": None if middle == inf else middle, "images_max": None if most == inf else most,
        }  # fmt: skip
