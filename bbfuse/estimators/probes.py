"""Probes in the space of the fuse's parameters: directions from seeds, and the step's loss at points around the fuse."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bbfuse.estimators.ranks import centred_ranks
from bbfuse.objective import Step
from bbfuse.seeds import fair_signs, stream

__all__ = ["loss_at", "normal", "ranked_pairs", "signs", "simultaneous_perturbation"]


def signs(step: Step, number: int) -> Tensor:
    """Direction ``number`` of a step: independent fair signs (d,)."""
    return fair_signs(step.fuse.vector().shape, stream(step.seed, "probe", step.number, number))


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


def losses_of_pair(step: Step, move: Tensor) -> tuple[float, float] | None:
    """The losses at ``theta + move`` and ``theta - move``, ``move`` (d,); ``None`` if a side failed."""
    centre = step.fuse.vector()
    above, below = loss_at(step, centre + move), loss_at(step, centre - move)
    return None if above is None or below is None else (above, below)


def simultaneous_perturbation(step: Step, directions: Iterable[Tensor], size: float) -> Tensor | None:
    """Mean over ``directions`` (d,) of ``(L(theta + c u) - L(theta - c u)) / 2c * u^{-1}``, ``c`` = ``size``, by element (d,).

    Pairs of which a side failed are left out; ``None`` if all of them did.
    """
    found = []
    for u in directions:
        losses = losses_of_pair(step, size * u)
        if losses is not None:
            found.append((losses[0] - losses[1]) / (2.0 * size) / u)
    return torch.stack(found).mean(0) if found else None


def ranked_pairs(step: Step, directions: Iterable[Tensor], size: float) -> tuple[Tensor, Tensor] | None:
    """Centred ranks (k, 2) of the losses at ``theta + c u`` and ``theta - c u``, ``c`` = ``size``, and their ``u`` (k, d).

    Pairs of which a side failed are left out; ``None`` if all of them did.
    """
    losses: list[float] = []
    kept: list[Tensor] = []
    for u in directions:
        pair = losses_of_pair(step, size * u)
        if pair is not None:
            losses += pair
            kept.append(u)
    return (centred_ranks(losses).view(-1, 2), torch.stack(kept)) if kept else None
