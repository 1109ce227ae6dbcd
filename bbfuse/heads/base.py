"""Heads: small corrections of the target's logits, which need no gradient through the target."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backends.registry import Registry
from backends.settings import NoSettings
from bbfuse.querying.responses import logits_of

__all__ = ["HEADS", "CalibratedHead", "Head", "OfProbabilities", "TrainedHead"]


class Head(nn.Module):
    """No correction: the fuse alone.

    The base of all heads, which map logits (n, classes) to corrected logits (n, classes). A head of your own derives from
    `CalibratedHead` or `TrainedHead`.
    """

    Config: ClassVar[type] = NoSettings
    """Its settings: a frozen dataclass."""
    section: ClassVar[str | None] = None
    """Name of the section of its settings; the head's own name if not given."""
    default_images: ClassVar[int] = 50
    """Raw responses that it is fitted to, unless its settings have ``images``."""

    def forward(self, logits: Tensor) -> Tensor:
        """Corrected logits."""
        return logits

    def penalty(self) -> Tensor:
        """A regulariser that is added to the loss."""
        return torch.zeros(())


HEADS: Registry[type[Head]] = Registry("head", "bbfuse.heads", "bbfuse.heads", Head)
"""All heads by the name that `head` takes."""


HEADS.register("none")(Head)


class CalibratedHead(Head):
    """A head that is calibrated for each chip from raw responses without labels, and not trained any further."""

    @classmethod
    def create(cls, settings: Any, responses: Tensor, reference: Tensor) -> CalibratedHead:
        """The head of a chip, from its logits and the nominal ones to the same images, each (n, classes)."""
        raise NotImplementedError


class TrainedHead(Head):
    """A head that is fitted to labelled responses of one chip and then trained with the fuse.

    Its settings have ``images`` and ``lr``, the learning rate beside the fuse.
    """

    @classmethod
    def create(cls, settings: Any, classes: int) -> TrainedHead:
        """The head before it is fitted."""
        raise NotImplementedError

    def fit(self, responses: Tensor, labels: Tensor) -> None:
        """Fit the head to logits (n, classes) and labels (n,)."""
        raise NotImplementedError


class OfProbabilities(Head):
    """``head`` behind a target that responds with probabilities: it gets their logarithms."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, logits: Tensor) -> Tensor:
        """Corrected logits of probabilities (n, classes)."""
        corrected: Tensor = self.head(logits_of(logits))
        return corrected
