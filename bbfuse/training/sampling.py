"""The owned images of a batch.

``hard``: image ``i`` is drawn with probability ``n p_i``, ``p_i`` mostly proportional to the square root of its difficulty (one
minus the probability of its label in the last responses), and weighted by ``1 / (N p_i)``, so that the
weighted mean over the batch is unbiased for the mean over all (Horvitz and Thompson 1952; systematic sampling, so no image is
drawn twice). ``uniform`` is the same with equal ``p_i``.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Sampler"]

_UNIFORM_SHARE = 0.2
_SMALLEST = 1e-3


class Sampler:
    """Draws batches of ``batch`` out of ``owned`` images."""

    def __init__(self, owned: int, batch: int, hard: bool) -> None:
        self._batch = min(batch, owned)
        self._hard = hard
        self.difficulty = torch.ones(owned, dtype=torch.float64)
        """One minus the probability of the label in the last responses, in [0, 1]; 1 for images that were never sent."""

    def probabilities(self) -> Tensor:
        """``p`` (owned,), sums to one, none above ``1 / n``."""
        owned = len(self.difficulty)
        p = torch.full((owned,), 1.0 / owned, dtype=torch.float64)
        if self._hard:
            share = self.difficulty.clamp_min(_SMALLEST).sqrt()
            p = (1 - _UNIFORM_SHARE) * share / share.sum() + _UNIFORM_SHARE * p
        top = 1.0 / self._batch
        capped = torch.zeros(owned, dtype=torch.bool)
        while (p[~capped] > top).any():
            capped |= p > top
            p[capped] = top
            p[~capped] *= (1.0 - top * capped.sum()) / p[~capped].sum()
        return p

    def draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Indices (n,) and weights (n,) with mean one in expectation."""
        p = self.probabilities()
        order = torch.randperm(len(p), generator=rng)
        edges = p[order].cumsum(0) * self._batch
        points = torch.arange(self._batch) + torch.rand((), generator=rng, dtype=torch.float64)
        index = order[torch.searchsorted(edges, points, right=True).clamp_max(len(p) - 1)]
        return index, (1.0 / (len(p) * p[index])).float()

    def observe(self, index: Tensor, difficulty: Tensor) -> None:
        """Record the ``difficulty`` of images ``index``."""
        self.difficulty[index] = difficulty.double()
