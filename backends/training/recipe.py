"""How a network is trained: the settings of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from backends.training.hardening import Hardening, without_unused

__all__ = ["LARGE_RECIPE", "RECIPE", "Recipe", "recipe_for"]


@dataclass(frozen=True)
class Recipe:
    """Steps with a learning rate schedule, on images that are shifted by at most ``shift`` pixels (new pixels are black) and
    mirrored."""

    steps: int = 600
    batch: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-2
    shift: int = 1
    mirror: bool = False
    each: bool = False
    """move every image on its own; otherwise every second batch as a whole"""
    bfloat16: bool = False
    """multiply in bfloat16 with channels last: two to three times as fast on processors that support it"""
    seed: int = 0
    threads: int = 1
    """processor threads: with another number sums round differently, and the weights differ"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum, 0.85 to 0.95 while the learning rate decreases"""
    label_smoothing: float = 0.0
    """share of the target probability that is spread over all classes"""
    schedule: Literal["one-cycle", "steps"] = "one-cycle"
    """learning rate up and then down, or divided by ten after 2/5, 3/5 and 4/5 of the steps"""
    cutout: int = 0
    """side of a grey square at a random place on each image; 0 for none"""
    margin: float | None = None
    """hinge loss with this margin, ``mean max(0, b - y f) / b`` over images and classes, ``y`` 1 or -1 (Buschjäger et al., DATE
    2021); cross-entropy if not given"""
    hardening: Hardening | None = None
    """training for tolerance of bit errors; none if not given"""

    def __repr__(self) -> str:
        return without_unused(self, ("optimizer", "label_smoothing", "schedule", "cutout", "margin", "hardening"))


RECIPE = Recipe()
"""For small images."""
LARGE_RECIPE = Recipe(steps=10_000, weight_decay=5e-2, shift=4, mirror=True, each=True, bfloat16=True)
"""For images of 32x32 and more."""


def recipe_for(image_shape: Sequence[int]) -> Recipe:
    """The recipe for inputs of ``image_shape``, (channels, height, width) for images; nothing else is shifted."""
    return LARGE_RECIPE if len(image_shape) == 3 and min(image_shape[1:]) >= 32 else RECIPE
