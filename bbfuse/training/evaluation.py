"""Accuracies on held-out images, without and with fuse and head: for the closing report and for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from backends.datasets.base import Split
from bbfuse.fuse.module import Fuse
from bbfuse.heads.per_chip import ChipHeads
from bbfuse.querying.responses import QueryFn

__all__ = ["Spread", "accuracies", "accuracy", "report_images"]


@dataclass(frozen=True)
class Spread:
    """Mean and population standard deviation of an accuracy over chips (NeuralFuse reports the same)."""

    mean: float
    sd: float
    chips: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Over ``values``, one per chip."""
        v = torch.tensor(values, dtype=torch.float64)
        return Spread(v.mean().item(), v.std(correction=0).item(), len(values))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows of ``logits`` (n, classes) whose largest entry is the label's, in [0, 1]."""
    return (logits.argmax(1) == labels).double().mean().item()


def report_images(images: int, chips: int, images_per_chip: int = 0) -> int:
    """Images that `accuracies` sends: ``images`` raw and fused, at nominal voltage and on each chip, and those for its head.

    Without ``chips`` the target has no bit errors, and they are sent once.
    """
    return 2 * images * (1 + chips) + chips * images_per_chip


def accuracies(query: QueryFn, fuse: Fuse, heads: ChipHeads, test: Split, chips: Sequence[Chip]) -> dict[str, Any]:
    """The part ``accuracy`` of the summary.

    ``perturbed`` is the target alone, ``perturbed_head`` with the head alone, ``perturbed_fuse`` with the trained fuse alone,
    ``perturbed_fused`` with both. The head alone is the one fitted before the fuse was trained. Without ``chips`` these are the
    accuracies of the target without bit errors on inputs of another domain, and ``clean`` and ``clean_fused`` are ``None``.
    Without labels, which are -1 then, the classes that the target gives at nominal voltage take their place.
    """
    labels = test.labels
    with torch.no_grad():
        fused = fuse(test.images)
        rows: dict[str, list[float]] = {name: [] for name in ("perturbed", "perturbed_head", "perturbed_fuse", "perturbed_fused")}
        clean = clean_fused = None
        if chips:
            nominal = heads.head_for(NOMINAL)
            nominal_logits = query(test.images, NOMINAL)
            labels = labels if (labels >= 0).all() else nominal_logits.argmax(1)
            clean = accuracy(nominal_logits, labels)
            clean_fused = accuracy(nominal(query(fused, NOMINAL)), labels)
        for chip in chips or [NOMINAL]:
            head = heads.head_for(chip)
            raw, repaired = query(test.images, chip), query(fused, chip)
            rows["perturbed"].append(accuracy(raw, labels))
            rows["perturbed_head"].append(accuracy(heads.before_training(head)(raw), labels))
            rows["perturbed_fuse"].append(accuracy(repaired, labels))
            rows["perturbed_fused"].append(accuracy(head(repaired), labels))
    return {
        "clean": clean,
        "clean_fused": clean_fused,
        **{name: vars(Spread.of(values)) for name, values in rows.items()},
    }
