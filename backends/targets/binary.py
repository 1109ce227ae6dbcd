"""Binary targets: weights and activations are signs, a weight takes one bit of the memory.

The targets of Buschjäger et al. (2002.00909) on resistive memory. Bit errors flip signs; 0 -> 1 and 1 -> 0 on their own
are the errors ``stuck-at-1`` and ``stuck-at-0``. Against them a layer can be fitted with random flips, or the network
with the hinge loss of `backends.training.recipe.Recipe.margin`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.special import ndtr

from backends.memory.number_formats import Binary, Code
from backends.targets.base import TARGETS, architecture
from backends.targets.digits import SMALL
from backends.training.recipe import Recipe

__all__ = ["MARGIN", "BinaryConv2d", "BinaryLinear", "Signs", "network", "sign_errors", "signs"]

_WIDTH = 512
MARGIN = 128 / _WIDTH**0.5
"""The margin of 128 of the published code, whose logits are sums of signs; here they are divided by the root of their number."""


def signs(numbers: Tensor) -> Tensor:
    """1.0 from 0 on, else -1.0; the gradient goes straight through."""
    hard = torch.where(numbers >= 0, 1.0, -1.0)
    return hard + (numbers - numbers.detach())


class Signs(nn.Module):
    """`signs` of the activations, clipped to [-1, 1] first, so that no gradient passes from outside."""

    def forward(self, images: Tensor) -> Tensor:
        """Activations of the same shape."""
        return signs(F.hardtanh(images))


def _read(weight: Tensor, flip: float) -> Tensor:
    """The signs of ``weight``, each flipped with probability ``flip``; the gradient ignores the flips."""
    read = signs(weight)
    return read - 2.0 * (read * (torch.rand_like(weight) < flip)).detach() if flip else read


class BinaryConv2d(nn.Conv2d):
    """A 3x3 convolution with the signs of its weights; during a fit each is flipped with probability ``flip``."""

    def __init__(self, inputs: int, outputs: int, flip: float = 0.0) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)
        self.flip = flip

    def codes(self) -> Mapping[str, Code]:
        """See `backends.memory.number_formats.HasCodes`."""
        return {"weight": Binary()}

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, outputs, height, width) of sums of signed inputs."""
        return F.conv2d(images, _read(self.weight, self.flip * self.training), padding=1)


class BinaryLinear(nn.Linear):
    """A linear layer with the signs of its weights; during a fit each is flipped with probability ``flip``."""

    def __init__(self, inputs: int, outputs: int, flip: float = 0.0) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.flip = flip

    def codes(self) -> Mapping[str, Code]:
        """See `backends.memory.number_formats.HasCodes`."""
        return {"weight": Binary()}

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (n, outputs) of sums of signed inputs."""
        return F.linear(vectors, _read(self.weight, self.flip * self.training))


class _Answers(nn.Module):
    """Sums of signs over the root of their number. The name is part of the keys of cached fits."""

    def forward(self, sums: Tensor) -> Tensor:
        return sums.div(_WIDTH**0.5)


def network(classes: int, flip: float = 0.0) -> nn.Sequential:
    """For 1 x 8 x 8 images: two convolutions of 32 filters and two linear layers, 80,160 weights of one bit.

    The published code has 64 filters, twice, and 2048 hidden units for images of 28 x 28.
    """

    def activated(width: int, kind: type[nn.BatchNorm1d | nn.BatchNorm2d] = nn.BatchNorm2d) -> list[nn.Module]:
        return [kind(width), Signs()]

    return nn.Sequential(
        BinaryConv2d(1, 32, flip), nn.MaxPool2d(2), *activated(32),
        BinaryConv2d(32, 32, flip), nn.MaxPool2d(2), *activated(32), nn.Flatten(),
        BinaryLinear(128, _WIDTH, flip), *activated(_WIDTH, nn.BatchNorm1d),
        BinaryLinear(_WIDTH, classes, flip), _Answers(),
    )  # fmt: skip


@torch.no_grad()
def sign_errors(target: nn.Sequential, images: Tensor, rate: float) -> dict[str, float]:
    """The share of signs of each layer that bit errors in its own weights flip, by the name of the layer, from a formula.

    ``n`` weights on inputs of size 1, each flipped with probability ``p``, move a sum ``s`` to one with mean ``(1 - 2p) s`` and
    variance ``4 p (1 - p) n``, so that a sign with the threshold ``t`` behind it turns with probability
    ``Phi(-|(1 - 2p) s - t| / sqrt(4 p (1 - p) n))``, as long as the mean stays on its side. A large margin of sums to thresholds
    is tolerance (2102.01344 measures by margins; the formula is ours). Behind a pool it sees the largest sums alone.
    """
    shares, hidden = {}, images
    layers = dict(target.eval().named_children())
    norms = {name: layer for name, layer in layers.items() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)}
    weighed = ""
    for name, layer in layers.items():
        if isinstance(layer, BinaryConv2d | BinaryLinear):
            weighed, inputs = name, layer.weight[0].numel()
        if name in norms:
            norm = norms[name]
            mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            threshold = (mean - norm.bias * (variance + norm.eps).sqrt() / norm.weight).view(-1, *[1] * (hidden.ndim - 2))
            distance = ((1 - 2 * rate) * hidden - threshold) * torch.where(hidden >= threshold, 1.0, -1.0)
            shares[weighed] = float(ndtr(-distance / (4 * rate * (1 - rate) * inputs) ** 0.5).mean())
        hidden = layer(hidden)
    return shares


@TARGETS.register("binary")
@architecture(SMALL)
def binary(classes: int) -> nn.Module:
    """Binary weights and activations: two convolutions and two linear layers, 80,160 weights of one bit."""
    return network(classes)


@TARGETS.register("binary-flip")
@architecture(SMALL)
def binary_flip(classes: int) -> nn.Module:
    """The target binary, trained with 5 % random flips of its weights."""
    return network(classes, flip=0.05)


@TARGETS.register("binary-margin")
@architecture(SMALL, Recipe(margin=MARGIN))
def binary_margin(classes: int) -> nn.Module:
    """The target binary, trained with a hinge loss of large margin."""
    return network(classes)
