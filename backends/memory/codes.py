"""Weights as 8-bit fixed-point codes.

Symmetric, signed, per tensor, rounded to nearest, two's complement: ``q = round(w / s)``, ``s = max|w| / 127``
(the scheme of NeuralFuse, Sun et al. 2024, section 4.6; Stutz et al., MLSys 2021, Eq. 1, but rounding).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BITS", "Codes", "quantize"]

BITS = 8


@dataclass(frozen=True)
class Codes:
    """One stored tensor: ``values`` int8 and the step ``scale`` that turns them back into weights."""

    values: Tensor
    scale: float

    def weights(self) -> Tensor:
        """``s * q``, float32. A flipped sign bit may give -128, one step outside the range that was stored."""
        return self.values.float() * self.scale


def quantize(weights: Tensor) -> Codes:
    """Codes of ``weights`` (any shape); the error is at most half a step, ``s / 2``."""
    largest = weights.detach().abs().max().item()
    scale = max(largest / 127.0, torch.finfo(torch.float32).tiny)  # a smaller step would vanish in float32
    return Codes(torch.round(weights.detach() / scale).to(torch.int8), scale)
