"""A generator: the network of the fuse."""

from __future__ import annotations

from torch import nn

from bbfuse.fuse.generators.base import GENERATORS, Shape, for_images


@GENERATORS.register("Cross")
def cross(shape: Shape) -> nn.Module:
    """One 3x3 convolution."""
    for_images(shape, "Cross")
    return nn.Conv2d(shape[0], shape[0], 3, padding=1)
