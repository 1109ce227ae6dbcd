"""A protection policy: protected bits of weights and results, recomputed channels, restricted ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from backends.base import InputError

__all__ = ["CODES", "RESULT_BITS", "Code", "Layer", "Protection", "chosen", "residual", "word"]

Code = Literal["tmr", "ecc8", "ecc16", "ecc32", "ecc64", "void"]
CODES: tuple[Code, ...] = get_args(Code)
RESULT_BITS = 16
"""Bits of a result of the processing elements: a symmetric code, as in the fault injector MRFI (Huang et al., TVLSI 2024)."""


@dataclass(frozen=True)
class Protection:
    """A policy. The most vulnerable channels that hold a share of all weights are called important (the share is ours)."""

    code: Code = "tmr"
    """how protected bits of weights are stored: three times (tmr), or in words of 8 to 64 bits with check bits of a SECDED code;
    void stands for bits without errors, which no hardware has: it has no cost"""
    important: float = 1.0
    """share of the weights that lie in important channels"""
    inner: int = 0
    """protected highest bits of the weights of important channels"""
    outer: int = 0
    """protected highest bits of all other weights"""
    logic: int = 0
    """highest bits of 16 whose logic exists three times in every processing element"""
    recomputed: float = 0.0
    """share of the multiplications that belong to channels computed again on a small unit in threefold logic"""
    width: int = 8
    """multiplications a cycle of that unit"""
    restricted: bool = False
    """results outside of the range seen without errors are clamped to it, channel by channel"""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise InputError(f"code must be one of {', '.join(CODES)}, got {self.code}")
        for name in ("important", "recomputed"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name, most in (("inner", 16), ("outer", 16), ("logic", RESULT_BITS)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name} must lie in [0, {most}], got {getattr(self, name)}")
        if self.width < 1:
            raise InputError(f"width must be 1 or more, got {self.width}")


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, as the cost model counts it. Its channels are the first axis of its weights."""

    channels: int
    weights: int
    """of one channel"""
    pixels: int
    """results of one channel for one image"""
    peak: float
    """largest magnitude of a result without errors"""
    low: Tensor
    """(channels,): smallest result of each channel without errors"""
    high: Tensor
    """(channels,): and largest"""


def word(code: Code) -> tuple[int, int]:
    """Data and check bits of a word of a SECDED code: the fewest ``c`` with ``2^(c-1) >= d + c``.

    Raises:
        InputError: ``code`` has no words.
    """
    if not code.startswith("ecc"):
        raise InputError(f"only a code of words has check bits, ecc8 to ecc64, got {code}")
    data = int(code[3:])
    return data, next(check for check in range(2, 10) if 2 ** (check - 1) >= data + check)


def residual(code: Code, rate: float) -> float:
    """Bit error rate of protected bits, where each cell has an error with probability ``rate``, independently.

    Three copies: ``3p^2 - 2p^3``. A word of ``n`` cells that corrects one error and leaves more as they are:
    ``p (1 - (1 - p)^(n - 1))``.
    """
    if code == "void":
        return 0.0
    if code == "tmr":
        return 3 * rate**2 - 2 * rate**3
    return float(rate * (1.0 - (1.0 - rate) ** (sum(word(code)) - 1)))


def chosen(
    layers: Mapping[str, Layer], scores: Mapping[str, Tensor], share: float, by: Literal["weights", "macs"]
) -> dict[str, Tensor]:
    """The chosen channels of each layer, bool (channels,): those with the highest score relative to their cost.

    ``scores`` (channels,) are expected harms, the cost of a channel is its weights or its multiplications for an image. Channels
    are taken in order as long as their sum is at most ``share`` of the whole cost.
    """
    names: Sequence[str] = list(layers)
    cost = torch.cat([
        torch.full((layer.channels,), float(layer.weights * (layer.pixels if by == "macs" else 1))) for layer in layers.values()
    ]).double()  # fmt: skip
    order = torch.argsort(torch.cat([scores[name].double() for name in names]) / cost, descending=True, stable=True)
    taken = torch.zeros(len(cost), dtype=torch.bool)
    taken[order[cost[order].cumsum(0) <= share * cost.sum() * (1 + 1e-9)]] = True
    return dict(zip(names, taken.split([layers[name].channels for name in names]), strict=True))
