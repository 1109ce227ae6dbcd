"""Probes in the space of the fuse's parameters: directions from seeds, and the step's loss at points around the fuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bbfuse.objective.step import Probe, Step
from bbfuse.optimizers.ranks import centred_ranks
from bbfuse.seeds import fair_signs, stream

__all__ = ["Direction", "ParameterProbe", "drawn", "losses_of", "normal", "ranked_pairs", "signs", "simultaneous_perturbation"]

Direction = Callable[[Step, int], Tensor]
"""Gives a direction (d,) by the step and its number; a module-level function, so that workers have it too."""


def signs(step: Step, number: int) -> Tensor:
    """Direction ``number`` of a step: independent fair signs (d,)."""
    return fair_signs(_centre(step).shape, stream(step.seed, "probe", step.number, number))


def normal(step: Step, number: int) -> Tensor:
    """Direction ``number`` of a step: independent standard normal numbers (d,)."""
    return torch.randn(_centre(step).shape, generator=stream(step.seed, "probe", step.number, number))


def _centre(step: Step) -> Tensor:
    """The fuse's parameters (d,), joined once per step."""
    theta: Tensor = step.once("centre", step.fuse.vector)
    return theta


def drawn(step: Step, direction: Direction, number: int) -> Tensor:
    """Direction ``number`` (d,), drawn once per step."""
    u: Tensor = step.once((direction, number), lambda: direction(step, number))
    return u


@dataclass(frozen=True, eq=False)
class ParameterProbe:
    """The output of the fuse with parameters ``theta + size * scale * u`` for the step's images, ``u`` a direction by number.

    All probes of a step have the same images, chips and heads (common random numbers).
    """

    direction: Direction
    number: int
    size: float
    scale: Tensor | None = None
    """(d,); one if not given"""
    per_image = False

    def images(self, step: Step) -> Tensor:
        """See `Probe`."""
        u = drawn(step, self.direction, self.number)
        move = self.size * (u if self.scale is None else self.scale * u)
        return step.fuse.at(_centre(step) + move, step.images)

    def prepare(self, step: Step) -> None:
        """See `Probe`; its direction."""
        drawn(step, self.direction, self.number)


def losses_of(step: Step, probes: Sequence[Probe]) -> list[float | None]:
    """The step's loss with each of ``probes``, all sent at once; ``None`` where a probe failed."""
    return [None if score is None else score.loss for score in step.scores(probes)]


def losses_of_pairs(
    step: Step, direction: Direction, pairs: int, size: float, scale: Tensor | None = None
) -> list[tuple[float, float] | None]:
    """The losses at ``theta + size * scale * u`` and ``theta - size * scale * u`` for the first ``pairs`` directions.

    ``None`` if a side failed.
    """
    losses = losses_of(
        step, [ParameterProbe(direction, pair, sign * size, scale) for pair in range(pairs) for sign in (1.0, -1.0)]
    )
    sides = zip(losses[::2], losses[1::2], strict=True)
    return [None if above is None or below is None else (above, below) for above, below in sides]


def simultaneous_perturbation(step: Step, direction: Direction, pairs: int, size: float) -> Tensor | None:
    """Mean over ``pairs`` of ``(L(theta + c u) - L(theta - c u)) / 2c * u^{-1}``, ``c`` = ``size``, by element (d,).

    Pairs of which a side failed are left out; ``None`` if all of them did.
    """
    found = [
        (losses[0] - losses[1]) / (2.0 * size) / drawn(step, direction, pair)
        for pair, losses in enumerate(losses_of_pairs(step, direction, pairs, size))
        if losses is not None
    ]
    return torch.stack(found).mean(0) if found else None


def ranked_pairs(
    step: Step, direction: Direction, pairs: int, size: float, scale: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """Centred ranks (k, 2) of the losses at ``theta`` plus and minus ``size * scale * u``, and their ``u`` (k, d).

    Pairs of which a side failed are left out; ``None`` if all of them did.
    """
    losses: list[float] = []
    kept: list[Tensor] = []
    for pair, sides in enumerate(losses_of_pairs(step, direction, pairs, size, scale)):
        if sides is not None:
            losses += sides
            kept.append(drawn(step, direction, pair))
    return (centred_ranks(losses).view(-1, 2), torch.stack(kept)) if kept else None
