"""Targets without multiplications: layers that shift, followed by layers that add (ShiftAddNet, 2010.12785, and its code).

A shift layer's weights are 0 or ``+-2^P``, ``P`` from -14 to 0, stored as 5-bit codes of sign and exponent, where one bit error
may change a weight by a factor of 2^8. An add layer computes ``-sum |x - w|``; its weights are stored as 8-bit fixed point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.memory.number_formats import Code, FixedPoint, PowersOfTwo
from backends.targets.base import TARGETS, architecture
from backends.targets.digits import SHORT, SMALL

__all__ = ["AddConv2d", "ShiftConv2d", "ShiftLinear", "network"]

_SHIFT = PowersOfTwo(5)


def _shifts(weight: Tensor) -> Tensor:
    """The nearest weights that are stored, the gradient straight through (DeepShift's Q; the authors train ``P`` itself)."""
    return _SHIFT.rounded(weight) + (weight - weight.detach())


class ShiftConv2d(nn.Conv2d):
    """A convolution whose weights are signed powers of two or 0."""

    def codes(self) -> Mapping[str, Code]:
        """See `backends.memory.number_formats.HasCodes`."""
        return {"weight": _SHIFT}

    def forward(self, images: Tensor) -> Tensor:
        """As a convolution."""
        return F.conv2d(images, _shifts(self.weight), self.bias, self.stride, self.padding)


class ShiftLinear(nn.Linear):
    """A linear layer whose weights are signed powers of two or 0."""

    def codes(self) -> Mapping[str, Code]:
        """See `backends.memory.number_formats.HasCodes`."""
        return {"weight": _SHIFT}

    def forward(self, vectors: Tensor) -> Tensor:
        """As a linear layer."""
        return F.linear(vectors, _shifts(self.weight), self.bias)


class _Distances(torch.autograd.Function):
    """``-sum_k |x_k - w_k|`` of each row (n, k) and filter (m, k), as (n, m).

    In place of signs the gradient has ``hardtanh(w - x)`` for ``x`` and ``x - w`` for ``w`` (AdderNet, and ShiftAddNet's code).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(rows, filters)
        return -torch.cdist(rows, filters, p=1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        rows, filters = ctx.saved_tensors
        of_rows = torch.zeros_like(rows)
        for place, one in enumerate(filters):
            of_rows.addcmul_((one - rows).clamp_(-1.0, 1.0), gradient[:, place, None])
        return of_rows, gradient.T @ rows - gradient.sum(0)[:, None] * filters


class AddConv2d(nn.Conv2d):
    """``-sum |x - w|`` over 3x3 windows, padded by 1; sides and channels stay what they are."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        """Standard normal weights, as inputs are normalised ones."""
        nn.init.normal_(self.weight)

    def codes(self) -> Mapping[str, Code]:
        """See `backends.memory.number_formats.HasCodes`."""
        return {"weight": FixedPoint.spacious(self.weight)}

    def forward(self, images: Tensor) -> Tensor:
        """Images of the same shape."""
        number, channels, height, width = images.shape
        windows = F.unfold(images, 3, padding=1).transpose(1, 2).reshape(number * height * width, -1)
        filters = self.weight.flatten(1)
        apart: Tensor = (
            _Distances.apply(windows, filters)  # type: ignore[no-untyped-call]
            if self.training
            else -torch.cdist(windows, filters, p=1.0)
        )
        return apart.view(number, height, width, channels).permute(0, 3, 1, 2)


def network(classes: int, shift: bool = True) -> nn.Sequential:
    """For 1 x 8 x 8 images: three pairs of a shift and an add layer, 16, 32 and 32 channels, and a shift layer for the logits.

    Without ``shift`` the same with plain layers in the place of those that shift, stored in the format of the memory.
    """
    convolution, linear = (ShiftConv2d, ShiftLinear) if shift else (nn.Conv2d, nn.Linear)

    def pair(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        # between the two the authors have nothing; without the normalisation ours is not fitted in so few steps
        return [
            convolution(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs),
            AddConv2d(outputs), nn.BatchNorm2d(outputs), nn.ReLU(),
        ]  # fmt: skip

    return nn.Sequential(*pair(1, 16, 2), *pair(16, 32, 1), *pair(32, 32, 2), nn.Flatten(), linear(128, classes))


@TARGETS.register("shiftadd")
@architecture(SMALL, SHORT)
def shiftadd(classes: int) -> nn.Module:
    """ShiftAddNet: layers that shift and layers that add, without multiplications."""
    return network(classes)


@TARGETS.register("shiftadd-plain")
@architecture(SMALL, SHORT)
def shiftadd_plain(classes: int) -> nn.Module:
    """The target shiftadd with plain layers in the place of those that shift."""
    return network(classes, shift=False)
