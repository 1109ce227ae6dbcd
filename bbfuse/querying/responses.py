"""Responses: checks of their form, and probabilities converted to logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.base import BackendInfo, Chip, TargetError

__all__ = ["Query", "QueryAllFn", "QueryFn", "ResponseCheck", "Responses", "logits_of"]

_SMALLEST_PROBABILITY = 1e-8
"""Lower bound of a probability that was rounded to 0."""

Query = tuple[Tensor, Chip]
"""A query: images (n, channels, height, width), and the chip that they go to."""

QueryFn = Callable[[Tensor, Chip], Tensor]
"""Images (n, channels, height, width) and a chip in, logits (n, classes) out."""

QueryAllFn = Callable[[Sequence[Query]], list[Tensor]]
"""Several queries in, the logits (n, classes) of each out, in order."""


@dataclass(frozen=True)
class Responses:
    """Logits (n, classes) of ``chip`` for ``images`` (n, channels, height, width), received once."""

    images: Tensor
    chip: Chip
    logits: Tensor


class ResponseCheck:
    """Checks the responses of one target; all of them become logits."""

    def __init__(self, info: BackendInfo) -> None:
        self._info = info
        self.kind: str | None = None
        """What the target responds with, ``logits`` or ``probabilities``, recognised by its first response."""

    def logits(self, response: Tensor, count: int) -> Tensor:
        """The logits (count, classes) of a ``response`` to ``count`` images.

        Raises:
            TargetError: another shape, numbers that are not finite, or logits and probabilities mixed.
        """
        name, classes = self._info.name, self._info.classes
        if tuple(response.shape) != (count, classes):
            raise TargetError(
                f"{name} responded with shape {tuple(response.shape)}, expected {(count, classes)}"
                f"{_recognised(response, count, classes)}"
            )
        if not torch.isfinite(response).all():
            raise TargetError(f"{name} responded with logits that are not finite (NaN or infinity)")
        if self.kind is None:
            self.kind = "probabilities" if _are_probabilities(response) else "logits"
        if self.kind == "logits":
            return response
        if not _are_probabilities(response):
            raise TargetError(f"{name} responded with probabilities first and with something else now")
        return logits_of(response)


def logits_of(probabilities: Tensor) -> Tensor:
    """Logits (n, classes) with these ``probabilities``: their logarithms, those below 1e-8 raised to it."""
    return probabilities.clamp_min(_SMALLEST_PROBABILITY).log()


def _are_probabilities(response: Tensor) -> bool:
    """Whether every row (n, classes) has entries of 0 or more that sum to 1, up to rounding to 16 bits."""
    return bool((response >= 0.0).all() and ((response.sum(1) - 1.0).abs() < 5e-3).all())


def _recognised(response: Tensor, count: int, classes: int) -> str:
    """A guess what a response of the wrong shape to ``count`` images is, and how to solve it."""
    shape = tuple(response.shape)
    if shape in ((count,), (count, 1)):
        found = "one label per image"
    elif len(shape) == 2 and shape[0] == count and shape[1] < classes:
        found = f"the top {shape[1]} of {classes} classes"
    else:
        return ""
    return f": it seems to be {found}; configure the server to return logits or probabilities of all classes"
