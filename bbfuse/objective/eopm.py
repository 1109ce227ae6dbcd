"""EOPM, the objective that a fuse is trained on (NeuralFuse, Sun et al. 2024, Eq. 2 to 5).

For one image with label ``y``::

    loss = (w_clean * CE(h_0(f(F(x), nominal)), y)
            + w_perturbed * mean over chips c of CE(h_c(f(F(x), c)), y)) / (w_clean + w_perturbed)

with the fuse ``F``, the target ``f``, the heads ``h`` and the cross-entropy ``CE``. The division makes the learning rate
independent of the scale of the weights. With ``terms=one`` a step takes one of the two parts, the clean one with probability
``w_clean / (w_clean + w_perturbed)``: the expected gradient is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.base import NOMINAL, Chip
from backends.settings import Count, NonNegative, Positive
from bbfuse import seeds
from bbfuse.heads.base import Head

__all__ = ["Eopm", "EopmConfig", "Term", "losses"]


@dataclass(frozen=True)
class EopmConfig:
    """The objective: clean-weight * clean loss + perturbed-weight * mean over chips of the perturbed loss."""

    clean_weight: NonNegative | None = None
    """weight of the loss at nominal voltage; if not given 1 for the population of chips, 0 for one chip"""
    perturbed_weight: Positive = 5.0
    """weight of the loss on chips with bit errors (NeuralFuse's lambda)"""
    chips: Count = 1
    """fresh chips per step, for the population"""
    pool: Count | None = None
    """number of chips that they are drawn from, whose weights a simulator can keep; 30,000 if not given"""
    terms: Literal["one", "all"] = "one"
    """terms per step where nominal voltage has a weight: one of the two, drawn by the weights, or all of them"""


@dataclass(frozen=True)
class Term:
    """One summand of a step's loss: a chip, its head and its weight."""

    chip: Chip
    head: Head
    weight: float


class Eopm:
    """The terms of every step, for the one ``chip`` or, without it, the population at ``bit_error_rate``."""

    def __init__(self, settings: EopmConfig, bit_error_rate: float, chip: Chip | None, seed: int) -> None:
        """``seed`` is the root of the random streams that draw terms and chips."""
        self._settings = settings
        self._rate = bit_error_rate
        self._chip = chip
        self._seed = seed
        given = settings.clean_weight
        self.clean_weight = given if given is not None else float(chip is None)

    @property
    def chips_per_step(self) -> int:
        """Chips with bit errors in one step."""
        return self._settings.chips if self._chip is None else 1

    @property
    def terms_per_step(self) -> int:
        """Terms of a step at most."""
        return self.chips_per_step + (self.clean_weight > 0 and self._settings.terms == "all")

    def is_nominal(self, step: int) -> bool:
        """Whether step ``step`` has the clean term alone, with probability ``w_clean / (w_clean + w_perturbed)``."""
        clean, perturbed = self.clean_weight, self._settings.perturbed_weight
        if clean == 0 or self._settings.terms == "all":
            return False
        return torch.rand((), generator=seeds.stream(self._seed, "term", step)).item() < clean / (clean + perturbed)

    def terms(self, step: int, head_for: Callable[[Chip], Head], simulated: bool = False) -> list[Term]:
        """The terms of step ``step``, the clean one first; ``head_for`` gives a chip's head.

        With ``simulated`` chips fresh ones are drawn even for a run on one chip.
        """
        if self.is_nominal(step):
            return [Term(NOMINAL, head_for(NOMINAL), self.clean_weight)]
        chips = [self._chip] if self._chip is not None and not simulated else self._drawn(step)
        weight = self._settings.perturbed_weight / len(chips)
        terms = [Term(chip, head_for(chip), weight) for chip in chips]
        if self.clean_weight > 0 and self._settings.terms == "all":
            terms.insert(0, Term(NOMINAL, head_for(NOMINAL), self.clean_weight))
        return terms

    def _drawn(self, step: int) -> list[Chip]:
        numbers = seeds.training_chips(self._seed, step, self._settings.chips, self._settings.pool)
        return [Chip(self._rate, number) for number in numbers]


def losses(terms: Sequence[Term], responses: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The loss of each image (n,), differentiable; ``responses`` has the raw logits (n, classes) of each term."""
    total = sum(term.weight for term in terms)
    per_image = torch.zeros(len(labels))
    for term, logits in zip(terms, responses, strict=True):
        per_image = per_image + term.weight / total * F.cross_entropy(term.head(logits), labels, reduction="none")
    return per_image
