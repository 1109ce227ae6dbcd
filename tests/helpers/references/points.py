"""A closed-form target for searchers, and the loss of a point as the equations have it, in float64 and without the project."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.base import NOMINAL, Chip
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from bbfuse.objective.eopm import Term
from bbfuse.objective.step import Probe, Score, Step
from tests.helpers.targets import CHIP, SMALL

Vector = NDArray[np.float64]
TERMS: list[tuple[Chip, float]] = [(NOMINAL, 0.7), (CHIP, 1.9)]
PARAMETERS = 26
"""Those of `Filter` for one channel: 25 weights, one bias."""


def named(seed: int, *name: str | int) -> torch.Generator:
    """The stream of that name: the first eight bytes of SHA-256 of the tuple's text, without the lowest bit."""
    digest = hashlib.sha256(repr((seed, *name)).encode()).hexdigest()
    return torch.Generator().manual_seed(int(digest[:16], 16) // 2)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def images_of(number: int, count: int = 7) -> Tensor:
    return (0.8 * drawn(100 + number, count, *SMALL)).clamp(-1.0, 1.0)


def labels_of(number: int, count: int = 7) -> Tensor:
    return torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(200 + number))


def weights_of(number: int, count: int = 7) -> Tensor:
    return torch.linspace(0.4, 1.9, count).roll(number)


def answers(images: Tensor, chip: Chip) -> Tensor:
    """Logits (n, 3), another saturating map of the pixels for each chip."""
    return 4.0 * torch.tanh(images.flatten(1) @ (drawn(7 if chip == NOMINAL else 8, 16, 3) / 3.0)) - 0.3


def small_fuse() -> Fuse:
    fuse = Fuse("Filter", SMALL, torch.Generator().manual_seed(1))
    fuse.assign(0.05 * drawn(2, PARAMETERS))
    return fuse


def step_for(number: int, fuse: Fuse, seed: int = 0, lost: Collection[int] = ()) -> Step:
    """Step ``number`` with images of its own; the probes whose numbers are in ``lost`` are lost."""

    def scorer(step: Step, probes: Sequence[Probe]) -> list[Score | None]:
        return [None if place in lost else score for place, score in enumerate(step.scored_here(probes))]

    terms = [Term(chip, Head(), weight) for chip, weight in TERMS]
    return Step(
        number=number, seed=seed, fuse=fuse, index=torch.arange(7), images=images_of(number), labels=labels_of(number),
        weights=weights_of(number), terms=terms, query=answers, query_with_gradient=answers, scorer=scorer,
    )  # fmt: skip


def loss_at(theta: Vector, number: int) -> float:
    """``1/n sum_i w_i sum_t v_t / sum(v) CE`` of the images ``clip(x + 5x5 filter of x + bias)``."""
    x = images_of(number).double().numpy()[:, 0]
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2)))
    kernel, added = theta[:25].reshape(5, 5), np.full_like(x, theta[25])
    for row in range(5):
        for column in range(5):
            added += kernel[row, column] * padded[:, row : row + 4, column : column + 4]
    fused = torch.from_numpy(np.clip(x + added, -1.0, 1.0)).float()
    labels, weights, loss = labels_of(number).numpy(), weights_of(number).double().numpy(), 0.0
    for chip, share in ((NOMINAL, 0.7 / 2.6), (CHIP, 1.9 / 2.6)):
        logits = answers(fused, chip).double().numpy()
        for logit, label, weight in zip(logits, labels, weights, strict=True):
            loss += share * weight / 7 * (np.log(np.exp(logit).sum()) - logit[label])
    return float(loss)
