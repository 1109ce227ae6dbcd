"""The form in which the user's data and target hold inputs, and the way from it to the project's own form and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.base import InputError

__all__ = ["Form"]

_BYTE = 255


@dataclass(frozen=True)
class Form:
    """The form in which the user's target takes inputs. The project's own form is float32 (n, *shape) in [-1, 1].

    ``low`` and ``high`` are the range of the values. ``channels_last``: channels are the last axis, (n, height, width, channels).
    ``integers``: values are whole numbers, of type uint8 where the range lies in [0, 255] and int64 elsewhere. ``squeezed``: the
    one channel has no axis, (n, height, width).

    Raises:
        InputError: the range is empty or not finite, or has other ends than whole numbers for whole numbers; or both layouts.
    """

    low: float = -1.0
    high: float = 1.0
    channels_last: bool = False
    integers: bool = False
    squeezed: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"`value_range` must be two finite numbers, the lower one first, got ({self.low}, {self.high})")
        if self.integers and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise InputError(f"`value_range` of whole numbers must be two whole numbers, got ({self.low}, {self.high})")
        if self.squeezed and self.channels_last:
            raise InputError("`channels_last` must be false for inputs without an axis of channels, got true")

    def inward(self, values: Tensor) -> Tensor:
        """``values`` in the user's form as float32 (n, *shape) in [-1, 1], contiguous."""
        moved = values.unsqueeze(1) if self.squeezed else values.movedim(-1, 1) if self.channels_last else values
        inputs = moved.to(torch.float32).contiguous()
        return inputs if self._unscaled else (inputs - self.low) / self._half - 1.0

    def outward(self, inputs: Tensor) -> Tensor:
        """``inputs``, float32 (n, *shape) in [-1, 1], in the user's form; differentiable unless the values are whole numbers."""
        values = inputs if self._unscaled else (inputs + 1.0) * self._half + self.low
        if self.integers:
            byte = self.low >= 0 and self.high <= _BYTE
            values = values.round().clamp(self.low, self.high).to(torch.uint8 if byte else torch.int64)
        return values.squeeze(1) if self.squeezed else values.movedim(1, -1) if self.channels_last else values

    @property
    def eight_bits(self) -> bool:
        """Whether values are the 256 levels of 8 bits, 0 to 255."""
        return self.integers and (self.low, self.high) == (0.0, 255.0)

    @property
    def _half(self) -> float:
        return (self.high - self.low) / 2.0

    @property
    def _unscaled(self) -> bool:
        return (self.low, self.high) == (-1.0, 1.0)
