"""Small generators: from 12 parameters to a small U-Net."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.base import InputError
from bbfuse.fuse.generators.base import GENERATORS, Shape, divisible_by

__all__ = ["UNetXS", "filters", "mix", "mlp", "one_filter"]


@GENERATORS.register("Mix")
def mix(shape: Shape) -> nn.Module:
    """A colour mix: 12 parameters for three channels."""
    return nn.Conv2d(shape[0], shape[0], 1)


@GENERATORS.register("Filter")
def one_filter(shape: Shape) -> nn.Module:
    """One 5x5 convolution: 228 parameters for three channels."""
    return nn.Conv2d(shape[0], shape[0], 5, padding=2)


@GENERATORS.register("Filters")
def filters(shape: Shape) -> nn.Module:
    """Two 3x3 convolutions with 16 channels between: 883 parameters for three channels."""
    return nn.Sequential(nn.Conv2d(shape[0], 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, shape[0], 3, padding=1))


@GENERATORS.register("MLP")
def mlp(shape: Shape) -> nn.Sequential:
    """One hidden layer of 64 units between pixels and pixels, for images of up to 16x16."""
    pixels = shape[0] * shape[1] * shape[2]
    if shape[1] > 16 or shape[2] > 16:
        raise InputError(f"`generator=MLP` is for images of up to 16x16, got {shape[1]}x{shape[2]}: choose UNetXS")
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, pixels), nn.Unflatten(1, shape))


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
