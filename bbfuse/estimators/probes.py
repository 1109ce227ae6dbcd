"""Probes in the space of the fuse's parameters: directions from seeds, and the step's loss at points around the fuse."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bbfuse.estimators.ranks import centred_ranks
from bbfuse.objective import Step
from bbfuse.seeds import fair_signs, stream

__all__ = ["losses_at", "normal", "ranked_pairs", "signs", "simultaneous_perturbation"]


def signs(step: Step, number: int) -> Tensor:
    """Direction ``number`` of a step: independent fair signs (d,)."""
    return fair_signs(step.fuse.vector().shape, stream(step.seed, "probe", step.number, number))


def normal(step: Step, number: int) -> Tensor:
    """Direction ``number`` of a step: independent standard normal numbers (d,)."""
    return torch.randn(step.fuse.vector().shape, generator=stream(step.seed, "probe", step.number, number))


def losses_at(step: Step, points: Iterable[Tensor]) -> list[float | None]:
    """The step's loss with each of ``points`` (d,) in place of the fuse's parameters, which are left alone; all asked at once.

    ``None`` where the probe failed. All probes of a step see the same images, chips and heads (common random numbers).
    """
    with torch.no_grad():
        probes = [step.fuse.at(point, step.images) for point in points]
    return [None if score is None else score.losses.double().sum().item() for score in step.scores(probes)]


def losses_of_pairs(step: Step, moves: Iterable[Tensor]) -> list[tuple[float, float] | None]:
    """The losses at ``theta + move`` and ``theta - move`` for each of ``moves`` (d,); ``None`` if a side failed."""
    centre = step.fuse.vector()
    losses = losses_at(step, (point for move in moves for point in (centre + move, centre - move)))
    pairs = zip(losses[::2], losses[1::2], strict=True)
    return [None if above is None or below is None else (above, below) for above, below in pairs]


def simultaneous_perturbation(step: Step, directions: Iterable[Tensor], size: float) -> Tensor | None:
    """Mean over ``directions`` (d,) of ``(L(theta + c u) - L(theta - c u)) / 2c * u^{-1}``, ``c`` = ``size``, by element (d,).

    Pairs of which a side failed are left out; ``None`` if all of them did.
    """
    drawn = list(directions)
    pairs = zip(drawn, losses_of_pairs(step, (size * u for u in drawn)), strict=True)
    found = [(losses[0] - losses[1]) / (2.0 * size) / u for u, losses in pairs if losses is not None]
    return torch.stack(found).mean(0) if found else None


def ranked_pairs(step: Step, directions: Iterable[Tensor], size: float) -> tuple[Tensor, Tensor] | None:
    """Centred ranks (k, 2) of the losses at ``theta + c u`` and ``theta - c u``, ``c`` = ``size``, and their ``u`` (k, d).

    Pairs of which a side failed are left out; ``None`` if all of them did.
    """
    drawn = list(directions)
    losses: list[float] = []
    kept: list[Tensor] = []
    for u, pair in zip(drawn, losses_of_pairs(step, (size * u for u in drawn)), strict=True):
        if pair is not None:
            losses += pair
            kept.append(u)
    return (centred_ranks(losses).view(-1, 2), torch.stack(kept)) if kept else None
