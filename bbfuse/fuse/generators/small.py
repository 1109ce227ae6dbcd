"""Small generators: from 6 parameters to a small U-Net."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.base import InputError
from bbfuse.fuse.generators.base import GENERATORS, Shape, divisible_by, for_images

__all__ = ["Scale", "UNetXS", "conv1d", "filters", "mix", "mlp", "one_filter"]

_MOST_VALUES = 1024


@GENERATORS.register("Mix")
def mix(shape: Shape) -> nn.Module:
    """A colour mix: 12 parameters for three channels."""
    for_images(shape, "Mix")
    return nn.Conv2d(shape[0], shape[0], 1)


@GENERATORS.register("Filter")
def one_filter(shape: Shape) -> nn.Module:
    """One 5x5 convolution: 228 parameters for three channels."""
    for_images(shape, "Filter")
    return nn.Conv2d(shape[0], shape[0], 5, padding=2)


@GENERATORS.register("Filters")
def filters(shape: Shape) -> nn.Module:
    """Two 3x3 convolutions with 16 channels between: 883 parameters for three channels."""
    for_images(shape, "Filters")
    return nn.Sequential(nn.Conv2d(shape[0], 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, shape[0], 3, padding=1))


@GENERATORS.register("MLP")
def mlp(shape: Shape) -> nn.Sequential:
    """One hidden layer of 64 units between values and values, for images of up to 16x16 and others of up to 1,024 values."""
    values = math.prod(shape)
    if len(shape) == 3 and max(shape[1:]) > 16:
        raise InputError(f"`generator=MLP` is for images of up to 16x16, got {shape[1]}x{shape[2]}: choose UNetXS")
    if len(shape) != 3 and values > _MOST_VALUES:
        other = "Scale or Conv1d" if len(shape) == 2 else "Scale"
        raise InputError(
            f"`generator=MLP` is for inputs of up to {_MOST_VALUES:,} values, got {values:,} of {shape}: choose {other}"
        )
    return nn.Sequential(nn.Flatten(), nn.Linear(values, 64), nn.ReLU(), nn.Linear(64, values), nn.Unflatten(1, shape))


@GENERATORS.register("Conv1d")
def conv1d(shape: Shape) -> nn.Sequential:
    """Two convolutions of length 5 along time with 16 channels between, for sequences (channels, time)."""
    if len(shape) != 2:
        raise InputError(
            f"`generator=Conv1d` is for sequences (channels, time), got inputs of the shape {shape}: choose MLP or Scale"
        )
    return nn.Sequential(nn.Conv1d(shape[0], 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, shape[0], 5, padding=2))


@GENERATORS.register("Scale")
class Scale(nn.Module):
    """A scale and a shift of each value, or of each channel of an image: 6 parameters for three channels."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        sides = (shape[0], 1, 1) if len(shape) == 3 else shape
        self.weight = nn.Parameter(torch.zeros(sides))
        self.bias = nn.Parameter(torch.zeros(sides))

    def forward(self, inputs: Tensor) -> Tensor:
        """What is added to ``inputs``, of the same shape: they become ``(1 + weight) * inputs + bias``."""
        return self.weight * inputs + self.bias

    @torch.no_grad()
    def correct(self, gain: Tensor, offset: Tensor) -> None:
        """Make the fuse ``gain * x + offset``, both (shape[0],)."""
        sides = (-1,) + (1,) * (self.weight.ndim - 1)
        self.weight.copy_((gain - 1.0).view(sides).expand_as(self.weight))
        self.bias.copy_(offset.view(sides).expand_as(self.bias))


@GENERATORS.register("UNetXS")
class UNetXS(nn.Module):
    """Two levels down and up with a skip connection, widths 16 and 32, no normalisation."""

    def __init__(self, shape: Shape) -> None:
        divisible_by(4, shape, "UNetXS")
        super().__init__()
        self.down1 = nn.Conv2d(shape[0], 16, 3, padding=1)
        self.down2 = nn.Conv2d(16, 32, 3, padding=1)
        self.middle = nn.Conv2d(32, 32, 3, padding=1)
        self.up = nn.Conv2d(32, 16, 3, padding=1)
        self.join = nn.Conv2d(32, 16, 3, padding=1)
        self.out = nn.Conv2d(16, shape[0], 1)

    def forward(self, images: Tensor) -> Tensor:
        """What is added to ``images``, of the same shape."""
        fine = F.relu(self.down1(images))
        coarse = F.relu(self.down2(F.max_pool2d(fine, 2)))
        coarse = coarse + F.interpolate(F.relu(self.middle(F.max_pool2d(coarse, 2))), scale_factor=2)
        up = F.interpolate(F.relu(self.up(coarse)), scale_factor=2)
        output: Tensor = self.out(F.relu(self.join(torch.cat([up, fine], 1))))
        return output
