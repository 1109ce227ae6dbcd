"""The six generators of NeuralFuse (Sun et al. 2024, Tables 4 and 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bbfuse.fuse.generators.base import GENERATORS, Shape, divisible_by

__all__ = ["UNet", "conv_l", "conv_s", "deconv_l", "deconv_s", "unet_l", "unet_s"]


def _block(inputs: int, outputs: int, bias: bool = True) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU()]


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


def _normalised_up(inputs: int, outputs: int) -> list[nn.Module]:
    return [_up(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]


def _encoder(channels: int, widths: tuple[int, ...], depth: int) -> list[nn.Module]:
    """``depth`` convolutions and a pool for each width."""
    layers: list[nn.Module] = []
    for width in widths:
        for _ in range(depth):
            layers += _block(channels, width)
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers


def _bounded(last: nn.Module, channels: int) -> list[nn.Module]:
    return [last, nn.BatchNorm2d(channels), nn.Tanh()]


def _doubled() -> nn.Upsample:
    return nn.Upsample(scale_factor=2)


@GENERATORS.register("ConvL")
def conv_l(shape: Shape) -> nn.Sequential:
    """NeuralFuse's ConvL: convolutions down and up, 723,273 parameters in colour."""
    divisible_by(8, shape, "ConvL")
    return nn.Sequential(
        *_encoder(shape[0], (32, 64, 128), 2),
        *_block(128, 128), _doubled(), *_block(128, 128), *_block(128, 64), _doubled(), *_block(64, 64),
        *_block(64, 32), _doubled(), *_block(32, 32), *_bounded(nn.Conv2d(32, shape[0], 3, padding=1), shape[0]),
    )  # fmt: skip


@GENERATORS.register("ConvS")
def conv_s(shape: Shape) -> nn.Sequential:
    """NeuralFuse's ConvS."""
    divisible_by(8, shape, "ConvS")
    return nn.Sequential(
        *_encoder(shape[0], (32, 64, 64), 1),
        *_block(64, 64), _doubled(), *_block(64, 32), _doubled(), *_block(32, shape[0]), _doubled(),
        *_bounded(nn.Conv2d(shape[0], shape[0], 3, padding=1), shape[0]),
    )  # fmt: skip


@GENERATORS.register("DeConvL")
def deconv_l(shape: Shape) -> nn.Sequential:
    """NeuralFuse's DeConvL: convolutions down, transposed convolutions up."""
    divisible_by(8, shape, "DeConvL")
    return nn.Sequential(
        *_encoder(shape[0], (32, 64, 128), 2),
        *_block(128, 128), *_normalised_up(128, 64), *_block(64, 64), *_normalised_up(64, 32), *_block(32, 32),
        *_bounded(_up(32, shape[0]), shape[0]),
    )  # fmt: skip


@GENERATORS.register("DeConvS")
def deconv_s(shape: Shape) -> nn.Sequential:
    """NeuralFuse's DeConvS."""
    divisible_by(8, shape, "DeConvS")
    return nn.Sequential(
        *_encoder(shape[0], (32, 64, 64), 1),
        *_normalised_up(64, 64), *_normalised_up(64, 32), *_bounded(_up(32, shape[0]), shape[0]),
    )  # fmt: skip


class UNet(nn.Module):
    """Four levels of two convolutions, skips joined by concatenation, and a bare 1x1 convolution at the end (no tanh)."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]

        def twice(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(*_block(inputs, outputs, bias=False), *_block(outputs, outputs, bias=False))

        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(twice(i, o) for i, o in zip([shape[0], *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.join = nn.ModuleList(twice(2 * w, w) for w in reversed(widths[:-1]))
        self.out = nn.Conv2d(width, shape[0], 1)

    def forward(self, images: Tensor) -> Tensor:
        """What is added to ``images``, of the same shape."""
        x, skips = images, []
        for level, down in enumerate(self.down):
            x = down(self.pool(x) if level else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips[:-1]), strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        output: Tensor = self.out(x)
        return output


@GENERATORS.register("UNetL")
def unet_l(shape: Shape) -> UNet:
    """NeuralFuse's UNetL: a U-Net of width 16."""
    divisible_by(8, shape, "UNetL")
    return UNet(shape, 16)


@GENERATORS.register("UNetS")
def unet_s(shape: Shape) -> UNet:
    """NeuralFuse's UNetS: a U-Net of width 8."""
    divisible_by(8, shape, "UNetS")
    return UNet(shape, 8)
