"""A target: the architecture of a classifier that is fitted and then frozen."""

from __future__ import annotations

from torch import nn

from backends.targets.base import TARGETS, architecture


@TARGETS.register("tiny")
@architecture(image_shape=(1, 8, 8))
def tiny(classes: int) -> nn.Module:
    """Two linear layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))
