"""Two-point differences of the step's loss along directions in the space of the fuse's parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from bbfuse.objective import Step

__all__ = ["directional_difference"]


def directional_difference(step: Step, direction: Tensor, size: float) -> float:
    """``(L(theta + c u) - L(theta - c u)) / 2c`` for ``u`` = ``direction`` (d,) and ``c`` = ``size``.

    Both sides see the same images, chips and heads (common random numbers). The fuse itself is not changed.
    """
    centre = step.fuse.vector()
    sides = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            fused = step.fuse.at(centre + sign * size * direction, step.images)
        sides.append(step.score(fused).losses.double().sum().item())
    return (sides[0] - sides[1]) / (2.0 * size)
