"""Do no harm: which of the trained parts, fuse and head, validation supports, and a run that ships nothing else.

On the same validation inputs, sent raw and fused, four combinations are compared: no correction, the head alone (the one fitted
before the fuse was trained), the fuse alone, and both. The one with the most right predictions is kept, of equal ones the
simplest: on these inputs it is at least as good as no correction and as the head alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from backends.base import Chip
from backends.datasets.base import Split
from bbfuse.fuse.module import Fuse
from bbfuse.heads.per_chip import ChipHeads
from bbfuse.querying.responses import QueryFn

__all__ = ["COMBINATIONS", "Parts", "best", "keep", "right_predictions"]

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


def best(right: Mapping[Parts, Tensor]) -> Parts:
    """The combination with the most right predictions; the first of equal ones, which is the simplest."""
    return max(right, key=lambda parts: int(right[parts].sum()))


def keep(parts: Parts, fuse: Fuse, heads: ChipHeads) -> None:
    """Make ``fuse`` and ``heads`` what the combination ``parts`` consists of: the others change nothing any more."""
    if "fuse" not in parts:
        unchanged = Fuse(fuse.name, fuse.image_shape, torch.Generator())
        fuse.load_state_dict(unchanged.state_dict())
        heads.restore_fitted()
    if "head" not in parts:
        heads.renew()
