"""The start of a fuse under domain shift: the correction with the smallest loss of the target's responses to a few owned inputs.

First some changes of gain and offset, the identity and the inversion among them; then, where the generator is a filter, the best
one with some sharpenings. Each is scored on the same inputs with the head that was fitted to uncorrected responses, and with a
head that was not fitted; both use the same responses. The better head is the one that is trained with the fuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.base import NOMINAL, InputError
from backends.datasets.base import Split
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.corrections import Correction, express, expresses, sharpenings, tones
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from bbfuse.heads.per_chip import ChipHeads
from bbfuse.querying.responses import QueryFn, Responses

__all__ = ["FuseStart", "queries", "starting"]

IMAGES = 64
"""Owned inputs that each correction is scored on."""
_RANGED = 1000
"""Owned inputs whose range the corrections are made for; none of them is sent for it."""


@dataclass(frozen=True)
class FuseStart:
    """The best correction, which the fuse now expresses."""

    correction: Correction
    loss: float
    """The mean cross-entropy of the responses after the better head."""
    fitted_head: bool
    """Whether the fitted head is better than one that was not fitted."""
    received: list[Responses]
    """All responses to corrected inputs."""


def _wanted(config: RunConfig, fuse: Fuse) -> bool:
    possible = any(expresses(generator) for generator in fuse.generators)
    if config.start == "corrections" and not possible:
        raise InputError(
            f"`start=corrections` needs a generator that can express gains and offsets, got {fuse.name}: choose Filter, Mix or "
            "Scale, or a sum such as Filter+MLP"
        )
    return config.no_chip and config.init is None and config.start != "zero" and possible


def queries(config: RunConfig, fuse: Fuse, owned: int) -> tuple[int, ...]:
    """Inputs of each query of `starting`; none where the run starts with a fuse that changes nothing.

    Raises:
        InputError: corrections are wanted, but the generator cannot express them.
    """
    if not _wanted(config, fuse):
        return ()
    some = torch.zeros(1, fuse.image_shape[0], 2)
    corrections = [*tones(some)]
    if any(expresses(generator, kernel=True) for generator in fuse.generators):
        corrections += sharpenings(corrections[0])
    return (min(IMAGES, owned),) * len(corrections)


def starting(config: RunConfig, fuse: Fuse, owned: Split, heads: ChipHeads, query: QueryFn) -> FuseStart | None:
    """Find the best correction; ``fuse`` then expresses it, and the head is the better one.

    ``None`` where the run starts with a fuse that changes nothing.
    """
    if not _wanted(config, fuse):
        return None
    both = heads.head_for(NOMINAL), heads.unfitted()
    some = owned[: min(IMAGES, len(owned))]
    best = _best(tones(owned.images[:_RANGED].cpu()), fuse, some, both, query)
    if any(expresses(generator, kernel=True) for generator in fuse.generators):
        sharper = _best(sharpenings(best.correction), fuse, some, both, query)
        received = best.received + sharper.received
        winner = min(best, sharper, key=lambda start: start.loss)
        best = FuseStart(winner.correction, winner.loss, winner.fitted_head, received)
    express(fuse, best.correction)
    if not best.fitted_head:
        heads.renew()
    return best


def _best(
    corrections: Iterable[Correction], fuse: Fuse, some: Split, heads: tuple[Head, Head], query: QueryFn
) -> FuseStart:  # fmt: skip
    found, received = [], []
    for correction in corrections:
        express(fuse, correction)
        with torch.no_grad():
            images = fuse(some.images)
        responses = query(images, NOMINAL)
        received.append(Responses(images, NOMINAL, responses))
        losses = [_loss(head, responses, some.labels) for head in heads]
        found.append((min(losses), losses[0] <= losses[1], correction))
    loss, fitted, correction = min(found, key=lambda each: each[0])
    return FuseStart(correction, loss, fitted, received)


def _loss(head: Callable[[Tensor], Tensor], responses: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return F.cross_entropy(head(responses), labels).item()
