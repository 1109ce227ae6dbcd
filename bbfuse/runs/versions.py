"""Versions of the libraries that affect results; the same seeds give the same numbers only with the same versions."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["LIBRARIES", "changed", "versions"]

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "nevergrad", "cma", "snntorch", "datasets", "pillow")
"""Distributions that compute, draw or read the numbers of a run."""


def versions() -> dict[str, str]:
    """The version of Python and of each of `LIBRARIES` that is installed, by name."""
    found = {name: _installed(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **{name: number for name, number in found.items() if number is not None}}


@functools.cache
def _installed(name: str) -> str | None:
    """The version of a distribution; ``None`` for an extra that is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def changed(before: dict[str, str], now: dict[str, str]) -> str:
    """The difference between two results of `versions`, such as ``torch 2.12.0 -> 2.13.0``; empty if there is none."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}" for name in names)
