"""1-bit targets with shortcuts around each binary convolution, and a choice of what follows it.

FTBNN (2010.09294) is about the non-linearity of such networks, not about faults: fitting for small quantization errors makes
binary convolutions behave linearly, so what stands beside them matters. The choice here is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from backends.targets.base import TARGETS, architecture
from backends.targets.binary import BinaryConv2d, Signs
from backends.targets.digits import SHORT, SMALL

__all__ = ["Nonlinearity", "network"]

Nonlinearity = Literal["none", "hardtanh", "prelu"]
_KINDS: dict[Nonlinearity, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(), "hardtanh": lambda width: nn.Hardtanh(), "prelu": nn.PReLU,
}  # fmt: skip


class _Block(nn.Module):
    """``x + f(norm(conv(sign x)))``; with ``halve`` on half the side and with ``x`` twice, one behind the other, as channels."""

    def __init__(self, width: int, nonlinearity: Nonlinearity, halve: bool = False) -> None:
        super().__init__()
        outputs = 2 * width if halve else width
        self.halve = halve
        self.body = nn.Sequential(Signs(), BinaryConv2d(width, outputs), nn.BatchNorm2d(outputs), _KINDS[nonlinearity](outputs))
        self.pool = nn.AvgPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        body: Tensor = self.body(images)
        return self.pool(torch.cat([images, images], 1) + body) if self.halve else images + body


def network(classes: int, nonlinearity: Nonlinearity) -> nn.Sequential:
    """For 1 x 8 x 8 images: four blocks, 8 and 16 channels, 6,336 weights of one bit; first and last layer in the format of the
    memory."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8),
        _Block(8, nonlinearity), _Block(8, nonlinearity, halve=True), _Block(16, nonlinearity), _Block(16, nonlinearity),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip


@TARGETS.register("bireal")
@architecture(SMALL, SHORT)
def bireal(classes: int) -> nn.Module:
    """Bi-Real network: binary convolutions with shortcuts, without a further nonlinearity."""
    return network(classes, "none")


@TARGETS.register("bireal-hardtanh")
@architecture(SMALL, SHORT)
def bireal_hardtanh(classes: int) -> nn.Module:
    """The target bireal with hardtanh."""
    return network(classes, "hardtanh")


@TARGETS.register("bireal-prelu")
@architecture(SMALL, SHORT)
def bireal_prelu(classes: int) -> nn.Module:
    """The target bireal with PReLU."""
    return network(classes, "prelu")
