"""The networks that a fuse adds to the image, by name: NeuralFuse's six (its Tables 4 and 5) and smaller ones of ours.

Each is made for an image shape (channels, height, width) and gives the same shape back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.base import InputError

__all__ = ["GENERATORS", "Shape", "UNet"]

Shape = tuple[int, int, int]


def _mix(shape: Shape) -> nn.Module:
    """A colour mix: 12 parameters for three channels."""
    return nn.Conv2d(shape[0], shape[0], 1)


def _filter(shape: Shape) -> nn.Module:
    """One 5x5 convolution: 228 parameters for three channels."""
    return nn.Conv2d(shape[0], shape[0], 5, padding=2)


def _filters(shape: Shape) -> nn.Module:
    """Two 3x3 convolutions with 16 channels between: 883 parameters for three channels."""
    return nn.Sequential(nn.Conv2d(shape[0], 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, shape[0], 3, padding=1))


def _mlp(shape: Shape) -> nn.Sequential:
    """Pixels, 64 hidden units, pixels: for images so small that every pixel may look at every other."""
    pixels = shape[0] * shape[1] * shape[2]
    if shape[1] > 16 or shape[2] > 16:
        raise InputError(f"--generator MLP is for images of up to 16x16, got {shape[1]}x{shape[2]}: choose UNetXS")
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, pixels), nn.Unflatten(1, shape))


class _UNetXS(nn.Module):
    """Two levels down and up with a skip connection, widths 16 and 32, no normalisation."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(shape[0], 16, 3, padding=1)
        self.down2 = nn.Conv2d(16, 32, 3, padding=1)
        self.middle = nn.Conv2d(32, 32, 3, padding=1)
        self.up = nn.Conv2d(32, 16, 3, padding=1)
        self.join = nn.Conv2d(32, 16, 3, padding=1)
        self.out = nn.Conv2d(16, shape[0], 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = F.relu(self.down1(images))
        coarse = F.relu(self.down2(F.max_pool2d(fine, 2)))
        coarse = coarse + F.interpolate(F.relu(self.middle(F.max_pool2d(coarse, 2))), scale_factor=2)
        up = F.interpolate(F.relu(self.up(coarse)), scale_factor=2)
        output: Tensor = self.out(F.relu(self.join(torch.cat([up, fine], 1))))
        return output


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


def _conv_l(shape: Shape) -> nn.Sequential:
    return nn.Sequential(
        *_encoder(shape[0], (32, 64, 128), 2),
        *_block(128, 128), _doubled(), *_block(128, 128), *_block(128, 64), _doubled(), *_block(64, 64),
        *_block(64, 32), _doubled(), *_block(32, 32), *_bounded(nn.Conv2d(32, shape[0], 3, padding=1), shape[0]),
    )  # fmt: skip


def _conv_s(shape: Shape) -> nn.Sequential:
    return nn.Sequential(
        *_encoder(shape[0], (32, 64, 64), 1),
        *_block(64, 64), _doubled(), *_block(64, 32), _doubled(), *_block(32, shape[0]), _doubled(),
        *_bounded(nn.Conv2d(shape[0], shape[0], 3, padding=1), shape[0]),
    )  # fmt: skip


def _deconv_l(shape: Shape) -> nn.Sequential:
    return nn.Sequential(
        *_encoder(shape[0], (32, 64, 128), 2),
        *_block(128, 128), *_normalised_up(128, 64), *_block(64, 64), *_normalised_up(64, 32), *_block(32, 32),
        *_bounded(_up(32, shape[0]), shape[0]),
    )  # fmt: skip


def _deconv_s(shape: Shape) -> nn.Sequential:
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


def _of_sides(divisor: int, name: str, make: Callable[[Shape], nn.Module]) -> Callable[[Shape], nn.Module]:
    """``make`` for images whose sides can be halved as often as it does."""

    def checked(shape: Shape) -> nn.Module:
        if shape[1] % divisor or shape[2] % divisor:
            raise InputError(f"--generator {name} needs image sides divisible by {divisor}, got {shape[1]}x{shape[2]}")
        return make(shape)

    return checked


GENERATORS: dict[str, Callable[[Shape], nn.Module]] = {
    "Mix": _mix,
    "Filter": _filter,
    "Filters": _filters,
    "MLP": _mlp,
    "UNetXS": _of_sides(4, "UNetXS", _UNetXS),
    "ConvL": _of_sides(8, "ConvL", _conv_l),
    "ConvS": _of_sides(8, "ConvS", _conv_s),
    "DeConvL": _of_sides(8, "DeConvL", _deconv_l),
    "DeConvS": _of_sides(8, "DeConvS", _deconv_s),
    "UNetL": _of_sides(8, "UNetL", lambda shape: UNet(shape, 16)),
    "UNetS": _of_sides(8, "UNetS", lambda shape: UNet(shape, 8)),
}
