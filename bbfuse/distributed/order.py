"""Which probe a worker gets next."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

__all__ = ["next_probe"]


def next_probe(waiting: Sequence[int], last: int | None) -> int:
    """The next probe for a worker that was given ``last``. Probes 2k and 2k + 1 are usually the two sides of a pair, which share
    most of their computation."""
    if last is not None and _has(waiting, last ^ 1):
        return last ^ 1
    return next((number for number in waiting if _has(waiting, number ^ 1)), waiting[0])


def _has(waiting: Sequence[int], number: int) -> bool:
    place = bisect.bisect_left(waiting, number)
    return place < len(waiting) and waiting[place] == number
