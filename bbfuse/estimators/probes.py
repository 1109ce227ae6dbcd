"""Probes in the space of the fuse's parameters: directions from seeds, and the step's loss at points around the fuse."""

from __future__ import annotations

import torch
from torch import Tensor

from bbfuse.objective import Step
from bbfuse.seeds import stream

__all__ = ["directional_difference", "loss_at", "normal", "signs"]


def signs(step: Step, number: int) -> Tensor:
    """Direction ``number`` of a step: independent fair signs (d,)."""
    shape = step.fuse.vector().shape
    return torch.randint(0, 2, shape, generator=stream(step.seed, "probe", step.number, number)).float() * 2.0 - 1.0


def normal(step: Step, number: int) -> Tensor:
    """Direction ``number`` of a step: independent standard normal numbers (d,)."""
    return torch.randn(step.fuse.vector().shape, generator=stream(step.seed, "probe", step.number, number))


def loss_at(step: Step, point: Tensor) -> float | None:
    """The step's loss with ``point`` (d,) in place of the fuse's parameters, which are left alone; ``None`` if the probe failed.

    All probes of a step see the same images, chips and heads (common random numbers).
    """
    with torch.no_grad():
        fused = step.fuse.at(point, step.images)
    score = step.score(fused)
    return None if score is None else score.losses.double().sum().item()


def directional_difference(step: Step, direction: Tensor, size: float) -> float | None:
    """``(L(theta + c u) - L(theta - c u)) / 2c``, ``u`` = ``direction`` (d,), ``c`` = ``size``; ``None`` if a side failed."""
    centre = step.fuse.vector()
    above, below = (loss_at(step, centre + sign * size * direction) for sign in (1.0, -1.0))
    return None if above is None or below is None else (above - below) / (2.0 * size)
