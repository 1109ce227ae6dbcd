"""Small convolutional networks for 8x8 images."""

from __future__ import annotations

from torch import nn

from backends.targets.base import TARGETS, architecture
from backends.targets.norms import Norm, group
from backends.training.recipe import Recipe

__all__ = ["SHORT", "SMALL", "convolutions"]

SMALL = (1, 8, 8)
"""The images of the data set ``digits``."""
SHORT = Recipe(steps=300)
"""For targets that take long for a step."""


def convolutions(classes: int, norm: Norm | None = None, width: int = 16) -> nn.Sequential:
    """Four 3x3 convolutions and two linear layers for 1 x 8 x 8 images, as VGG has it.

    With ``width`` 16 and 10 classes it has 25,274 parameters, of which 25,104 weights are stored; ``norm`` adds 192.
    """

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), *([] if norm is None else [norm(outputs)]), nn.ReLU()]

    wide = 2 * width
    return nn.Sequential(
        *block(1, width), *block(width, width), nn.MaxPool2d(2), *block(width, wide), *block(wide, wide), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4 * wide, 4 * width), nn.ReLU(), nn.Linear(4 * width, classes),
    )  # fmt: skip


@TARGETS.register("digits")
@architecture(SMALL)
def digits(classes: int) -> nn.Module:
    """Four convolutions and two linear layers, 25,104 weights."""
    return convolutions(classes)


@TARGETS.register("digits-bn")
@architecture(SMALL)
def digits_bn(classes: int) -> nn.Module:
    """The target digits with batch normalisation."""
    return convolutions(classes, nn.BatchNorm2d)


@TARGETS.register("digits-gn")
@architecture(SMALL)
def digits_gn(classes: int) -> nn.Module:
    """The target digits with group normalisation."""
    return convolutions(classes, group)


@TARGETS.register("digits-small")
@architecture(SMALL)
def digits_small(classes: int) -> nn.Module:
    """The target digits with half as many channels."""
    return convolutions(classes, width=8)
