"""Do no harm: which of the trained parts, fuse and head, validation supports, and a run that ships nothing else.

On the same validation inputs, sent raw and fused, four combinations are compared: no correction, the head alone (the one fitted
before the fuse was trained), the fuse alone, and both. The simplest one within noise of the best is kept. Of two combinations the
noise of the difference in right predictions is the square root of the number of inputs on which they disagree, and one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from backends.base import Chip
from backends.datasets.base import Split
from bbfuse.fuse.module import Fuse
from bbfuse.heads.per_chip import ChipHeads
from bbfuse.querying.responses import QueryFn

__all__ = ["COMBINATIONS", "Parts", "keep", "right_predictions", "simplest"]

Parts = tuple[str, ...]
"""The parts of a combination: ``fuse``, ``head``, both or none."""

COMBINATIONS: dict[Parts, str] = {
    (): "perturbed", ("head",): "perturbed_head", ("fuse",): "perturbed_fuse", ("fuse", "head"): "perturbed_fused",
}  # fmt: skip
"""The combinations from the simplest on, and the keys of their accuracies in the summary."""


def right_predictions(query: QueryFn, fuse: Fuse, heads: ChipHeads, part: Split, chip: Chip) -> dict[Parts, Tensor]:
    """Whether each combination predicts the label of each input of ``part``, (n,) each; sends them raw and fused."""
    with torch.no_grad():
        raw, fused = query(part.images, chip), query(fuse(part.images), chip)
        head = heads.head_for(chip)
        logits = {(): raw, ("head",): heads.before_training(head)(raw), ("fuse",): fused, ("fuse", "head"): head(fused)}
    return {parts: found.argmax(1) == part.labels for parts, found in logits.items()}


def simplest(right: Mapping[Parts, Tensor]) -> Parts:
    """The first combination of ``right``, in order from the simplest on, that is within noise of the best.

    It is if the best one has at most ``sqrt(m + 1)`` more right predictions, ``m`` the inputs on which the two disagree.
    """
    best = max(right.values(), key=lambda predictions: int(predictions.sum()))

    def within_noise(predictions: Tensor) -> bool:
        behind, disagree = int(best.sum()) - int(predictions.sum()), int((predictions != best).sum())
        return behind <= math.sqrt(disagree + 1)

    return next(parts for parts, predictions in right.items() if within_noise(predictions))


def keep(parts: Parts, fuse: Fuse, heads: ChipHeads) -> None:
    """Make ``fuse`` and ``heads`` what the combination ``parts`` consists of: the others change nothing any more."""
    if "fuse" not in parts:
        unchanged = Fuse(fuse.name, fuse.image_shape, torch.Generator())
        fuse.load_state_dict(unchanged.state_dict())
        heads.restore_fitted()
    if "head" not in parts:
        heads.renew()
