"""Normalisations behind a convolution, by its number of channels. A name that ends in ``-gn`` has group normalisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

__all__ = ["Norm", "group"]

Norm = Callable[[int], nn.Module]


def group(channels: int) -> nn.GroupNorm:
    """32, 24, 16 or 8 groups, the first of them, half the channels at most, that divides them (Stutz et al.'s code)."""
    most = max(channels // 2, 1)
    wished = [min(groups, most) for groups in (32, 24, 16, 8)]
    return nn.GroupNorm(next(groups for groups in (*wished, 1) if channels % groups == 0), channels)
