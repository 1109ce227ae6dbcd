"""Architectures of the targets, by name.

The five networks of NeuralFuse (Sun et al. 2024, Table 7) in their form for 32x32 images, SimpleNet as Stutz et al. (MLSys 2021)
have it, and small ones of ours. A name that ends in ``-gn`` has group normalisation, ``-bn`` batch normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from backends.base import InputError
from backends.targets import binary, bireal, shiftadd, smartexchange, sparse, spiking
from backends.targets.checkpoint import SUFFIX, read
from backends.training.fitting import Recipe

__all__ = ["TARGETS", "Architecture", "Ensemble", "build", "group"]


_Norm = Callable[[int], nn.Module]


def group(channels: int) -> nn.GroupNorm:
    """32, 24, 16 or 8 groups, the first of them, half the channels at most, that divides them (Stutz et al.'s code)."""
    most = max(channels // 2, 1)
    wished = [min(groups, most) for groups in (32, 24, 16, 8)]
    return nn.GroupNorm(next(groups for groups in (*wished, 1) if channels % groups == 0), channels)


def _digits(norm: _Norm | None = None, width: int = 16) -> Callable[[int], nn.Sequential]:
    """Four 3x3 convolutions and two linear layers for 1 x 8 x 8 images, as VGG has it.

    With ``width`` 16 it has 25,274 parameters, of which 25,104 weights are stored; ``norm`` behind each convolution adds 192.
    """

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), *([] if norm is None else [norm(outputs)]), nn.ReLU()]

    wide = 2 * width
    return lambda classes: nn.Sequential(
        *block(1, width), *block(width, width), nn.MaxPool2d(2), *block(width, wide), *block(wide, wide), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4 * wide, 4 * width), nn.ReLU(), nn.Linear(4 * width, classes),
    )  # fmt: skip


def _simplenet(classes: int) -> nn.Sequential:
    """Thirteen convolutions with group normalisation and five pools: 5,498,378 parameters (Stutz et al., MLSys 2021)."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in (64, 128, 128, 128, 0, 128, 128, 256, 0, 256, 256, 0, 512, 0, -2048, -256, 0, 256):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        kernel, outputs = (3, width) if width > 0 else (1, -width)
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), group(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, classes))


class _Residual(nn.Module):
    """``relu(body(x) + shortcut(x))``, the shortcut a 1x1 convolution where the shape changes."""

    def __init__(self, body: nn.Sequential, inputs: int, outputs: int, stride: int, norm: _Norm) -> None:
        super().__init__()
        self.body = body
        self.activation = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*_conv(inputs, outputs, 1, stride, norm))

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.activation(self.body(images) + self.shortcut(images))
        return output


def _conv(inputs: int, outputs: int, kernel: int, stride: int, norm: _Norm) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), norm(outputs)]


def _basic(inputs: int, width: int, stride: int, norm: _Norm) -> _Residual:
    body = nn.Sequential(*_conv(inputs, width, 3, stride, norm), nn.ReLU(), *_conv(width, width, 3, 1, norm))
    return _Residual(body, inputs, width, stride, norm)


def _bottleneck(inputs: int, width: int, stride: int, norm: _Norm) -> _Residual:
    body = nn.Sequential(
        *_conv(inputs, width, 1, 1, norm), nn.ReLU(), *_conv(width, width, 3, stride, norm), nn.ReLU(),
        *_conv(width, 4 * width, 1, 1, norm),
    )  # fmt: skip
    return _Residual(body, inputs, 4 * width, stride, norm)


def _resnet(
    block: Callable[[int, int, int, _Norm], _Residual],
    expansion: int,
    depths: tuple[int, ...],
    first: int = 64,
    norm: _Norm = nn.BatchNorm2d,
    stride: int = 1,
    channels: int = 3,
) -> Callable[[int], nn.Sequential]:
    """He et al. 2016 for 32x32 images: a 3x3 stem of ``stride``, stages of width ``first``, twice that, ..., global average."""

    def make(classes: int) -> nn.Sequential:
        layers, inputs = [*_conv(channels, first, 3, stride, norm), nn.ReLU()], first
        for stage, depth in enumerate(depths):
            width = first * 2**stage
            for place in range(depth):
                layers.append(block(inputs, width, 2 if stage > 0 and place == 0 else 1, norm))
                inputs = expansion * width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))

    return make


def _vgg(depths: tuple[int, ...]) -> Callable[[int], nn.Sequential]:
    """Simonyan and Zisserman 2015 with batch normalisation for 32x32 images: five pools and a single linear layer."""

    def make(classes: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        inputs = 3
        for depth, width in zip(depths, (64, 128, 256, 512, 512), strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, classes))

    return make


@dataclass(frozen=True)
class Architecture:
    """A network by its number of classes, with fresh weights, and the images it takes (channels, height, width)."""

    make: Callable[[int], nn.Module]
    image_shape: tuple[int, int, int] = (3, 32, 32)
    recipe: Recipe | None = None
    """how it is fitted, where it needs a recipe of its own"""


_SMALL = (1, 8, 8)
_SHORT = Recipe(steps=300)
TARGETS: dict[str, Architecture] = {
    "digits": Architecture(_digits(), _SMALL),
    "digits-bn": Architecture(_digits(nn.BatchNorm2d), _SMALL),
    "digits-gn": Architecture(_digits(group), _SMALL),
    "resnet8-bn": Architecture(_resnet(_basic, 1, (1, 1, 1), first=16, stride=2)),
    "resnet8-gn": Architecture(_resnet(_basic, 1, (1, 1, 1), first=16, norm=group, stride=2)),
    "digits-small": Architecture(_digits(width=8), _SMALL),
    "digits-residual": Architecture(_resnet(_basic, 1, (1, 1), first=16, channels=1), _SMALL),
    "digits-sparse": Architecture(lambda classes: sparse.network(_digits()(classes)), _SMALL),
    "binary": Architecture(binary.network, _SMALL),
    "binary-flip": Architecture(partial(binary.network, flip=0.05), _SMALL),
    "binary-margin": Architecture(binary.network, _SMALL, Recipe(margin=binary.MARGIN)),
    "bireal": Architecture(partial(bireal.network, nonlinearity="none"), _SMALL, _SHORT),
    "bireal-hardtanh": Architecture(partial(bireal.network, nonlinearity="hardtanh"), _SMALL, _SHORT),
    "bireal-prelu": Architecture(partial(bireal.network, nonlinearity="prelu"), _SMALL, _SHORT),
    "shiftadd": Architecture(shiftadd.network, _SMALL, _SHORT),
    "shiftadd-plain": Architecture(partial(shiftadd.network, shift=False), _SMALL, _SHORT),
    "smartexchange": Architecture(lambda classes: smartexchange.network(_digits()(classes)), _SMALL),
    "smartexchange-safe": Architecture(lambda classes: smartexchange.network(_digits()(classes), safe=True), _SMALL),
    "spiking": Architecture(partial(spiking.Spiking, 64), _SMALL),
    "spiking-bnp1": Architecture(partial(spiking.Spiking, 64, bound="zero"), _SMALL),
    "spiking-bnp2": Architecture(partial(spiking.Spiking, 64, bound="limit"), _SMALL),
    "spiking-bnp3": Architecture(partial(spiking.Spiking, 64, bound="usual"), _SMALL),
    "resnet20": Architecture(_resnet(_basic, 1, (3, 3, 3), first=16)),
    "resnet20-gn": Architecture(_resnet(_basic, 1, (3, 3, 3), first=16, norm=group)),
    "resnet18": Architecture(_resnet(_basic, 1, (2, 2, 2, 2))),
    "resnet50": Architecture(_resnet(_bottleneck, 4, (3, 4, 6, 3))),
    "vgg11": Architecture(_vgg((1, 1, 2, 2, 2))),
    "vgg16": Architecture(_vgg((2, 2, 3, 3, 3))),
    "simplenet-gn": Architecture(_simplenet),
    "vgg19": Architecture(_vgg((2, 2, 4, 4, 4))),
}


class Ensemble(nn.Module):
    """Answers every image by one of its members, in turn: the mean loss over a batch is about that over all members."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes), those of image ``i`` by member ``i mod m``."""
        turns = torch.arange(len(images)) % len(self.members)
        order = turns.argsort(stable=True).argsort()
        return torch.cat([member(images[turns == number]) for number, member in enumerate(self.members)])[order]


def build(name: str, image_shape: tuple[int, int, int], classes: int | None = None) -> nn.Module:
    """The network called ``name`` for images of ``image_shape``: an architecture with fresh weights, or a checkpoint; several
    of them, such as ``A+B``, make an `Ensemble`.

    Without ``classes`` it has those of the checkpoint, or 10.

    Raises:
        InputError: no target has that name, it takes other images, or a checkpoint is spoilt or has other classes.
    """
    if "+" in name:
        return Ensemble([build(part, image_shape, classes) for part in name.split("+")])
    found = read(Path(name)) if name.endswith(SUFFIX) else None
    architecture = name if found is None else found.architecture
    if architecture not in TARGETS:
        raise InputError(f"--target must be one of {', '.join(TARGETS)}, or a file FILE{SUFFIX}, got {architecture}")
    if TARGETS[architecture].image_shape != image_shape:
        raise InputError(f"--target {name} takes images {TARGETS[architecture].image_shape}, but the data has {image_shape}")
    if found is None:
        return TARGETS[architecture].make(classes or 10)
    if classes not in (None, found.classes):
        raise InputError(f"--target {name} knows {found.classes} classes, but the data has {classes}")
    network = TARGETS[architecture].make(found.classes)
    network.load_state_dict(found.weights)
    return network
