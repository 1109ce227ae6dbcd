"""Images of another domain: another gain, blur, inversion, and the data sets of `experiments.domain_shift`.

Images come from a camera with 8 bits, so that each pixel is rounded to one of 256 levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.datasets.base import Dataset, Split
from backends.datasets.loading import load

__all__ = ["DATA", "SHIFTS", "blurred", "gained", "inverted", "shifted"]

CIFAR10 = "data/cifar10-jpeg"
_CONTRAST, _BRIGHTNESS = 0.3, 0.1
_BLUR = 1.0
"""Standard deviation in pixels."""


def gained(images: Tensor) -> Tensor:
    """Images (n, channels, height, width) in [0, 1] of a camera with less gain and more stray light: ``0.3 x + 0.1``."""
    return _CONTRAST * images + _BRIGHTNESS


def blurred(images: Tensor) -> Tensor:
    """Images out of focus: each channel smoothed by a Gaussian with a standard deviation of 1 pixel, edges repeated."""
    places = torch.arange(-3, 4, dtype=images.dtype)
    weights = torch.exp(-places.square() / (2 * _BLUR**2))
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    channels = images.shape[1]
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, 7, 7), groups=channels)


def inverted(images: Tensor) -> Tensor:
    """Negatives: ``1 - x``."""
    return 1 - images


SHIFTS: dict[str, Callable[[Tensor], Tensor]] = {"gain": gained, "inversion": inverted, "blur": blurred}


def shifted(data: str, shift: str) -> Dataset:
    """The data set ``data`` as a camera of another domain sees it; labels and parts stay."""
    plain = load(data)

    def seen(part: Split) -> Split:
        images = torch.cat([SHIFTS[shift]((some + 1) / 2) for some in part.images.split(1000)])
        return Split((images * 255).round().clamp(0, 255) / 127.5 - 1, part.labels)

    train, validation, test = (seen(part) for part in (plain.train, plain.validation, plain.test))
    return replace(plain, name=f"{plain.name}, {shift}", train=train, validation=validation, test=test)


digits_gain = partial(shifted, "digits", "gain")
digits_inversion = partial(shifted, "digits", "inversion")
digits_blur = partial(shifted, "digits", "blur")
cifar10_gain = partial(shifted, CIFAR10, "gain")
cifar10_inversion = partial(shifted, CIFAR10, "inversion")
cifar10_blur = partial(shifted, CIFAR10, "blur")

DATA = {"digits": "digits", "CIFAR-10 (JPEG)": CIFAR10}
"""The plain data sets by their shown names."""
