"""Number formats: they encode the numbers of a tensor as patterns of a few bits, and decode any such pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from backends.base import InputError
from backends.memory.config import Quantization

__all__ = ["Binary", "Code", "FixedPoint", "HasCodes", "PowersOfTwo", "integers"]


class Code(Protocol):
    """The format of one tensor. A number that `decode` returns survives `encode` and `decode` unchanged."""

    @property
    def bits(self) -> int:
        """Bits of a pattern, 1 to 16."""
        ...

    def encode(self, tensor: Tensor) -> Tensor:
        """The pattern nearest to each number of ``tensor``, int64 below ``2^bits``, in its shape."""
        ...

    def decode(self, patterns: Tensor) -> Tensor:
        """The float32 number that each of ``patterns`` stands for: uint8 up to 8 bits, else uint16, and all of them valid."""
        ...


@runtime_checkable
class HasCodes(Protocol):
    """A layer or network that declares how it is stored.

    The declaration covers all modules within it: tensors that it does not name are stored elsewhere, without errors.
    """

    def codes(self) -> Mapping[str, Code]:
        """The format of each of its parameters and buffers that is stored, by its name below this module."""
        ...


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """``c + s q`` with whole numbers ``q`` (`Quantization`); ``step`` and ``centre`` are float64 and broadcast to the tensor."""

    quantization: Quantization
    step: Tensor
    centre: Tensor

    @classmethod
    def between(cls, low: Tensor, high: Tensor, quantization: Quantization) -> FixedPoint:
        """The format with the range from ``low`` to ``high``, or the symmetric range that contains both (Stutz et al. 2021, Eq.
        1)."""
        if quantization.symmetric:
            low, high = -torch.maximum(high, -low), torch.maximum(high, -low)
        # a smaller step would vanish in float32
        step = ((high - low) / (2 * _largest(quantization))).clamp(min=torch.finfo(torch.float32).tiny)
        return cls(quantization, step, (high + low) / 2)

    @classmethod
    def spacious(cls, tensor: Tensor, bits: int = 8, spare: int = 0) -> FixedPoint:
        """Two's complement of ``bits`` bits, ``spare`` of them above those that the largest number of ``tensor`` needs."""
        limit = tensor.detach().double().abs().amax() * 2**spare
        return cls.between(-limit, limit, Quantization(bits))

    @property
    def bits(self) -> int:
        """Bits of a pattern."""
        return self.quantization.bits

    def encode(self, tensor: Tensor) -> Tensor:
        """See `Code`."""
        largest = _largest(self.quantization)
        codes = (tensor.double() - self.centre) / self.step
        codes = (codes.round() if self.quantization.rounding else codes.trunc()).clamp(-largest, largest).long()
        patterns: Tensor = (codes if self.quantization.signed else codes + largest) & (2**self.bits - 1)
        return patterns

    def decode(self, patterns: Tensor) -> Tensor:
        """See `Code`."""
        weights = integers(patterns, self.quantization).mul_(self.step.to(patterns.device, torch.float32))
        if not self.quantization.symmetric:
            weights += self.centre.to(patterns.device, torch.float32)
        return weights


def _largest(quantization: Quantization) -> int:
    return int(2 ** (quantization.bits - 1) - 1)


def integers(patterns: Tensor, quantization: Quantization) -> Tensor:
    """``q`` of each of ``patterns`` in that format, float32, in their shape."""
    container = 8 * patterns.itemsize
    values: Tensor = patterns.view(torch.int8 if container == 8 else torch.int16).float()
    if not quantization.signed:
        values.add_(values < 0, alpha=2**container)
        return values.sub_(_largest(quantization))
    if quantization.bits < container:
        values.add_(values >= 2 ** (quantization.bits - 1), alpha=-(2**quantization.bits))
    return values


@dataclass(frozen=True)
class Binary:
    """One bit a number: 1 for +1 (numbers from 0 on), 0 for -1."""

    bits: int = 1

    def encode(self, tensor: Tensor) -> Tensor:
        """See `Code`."""
        return (tensor >= 0).long()

    def decode(self, patterns: Tensor) -> Tensor:
        """See `Code`."""
        return patterns.float().mul_(2.0).sub_(1.0)


@dataclass(frozen=True)
class PowersOfTwo:
    """A sign, the highest bit, and an exponent: 0, or ``+-2^P`` with ``P`` up to ``highest``.

    An exponent field of 0 stands for the number 0, one of ``k`` for ``P = highest - (2^(bits-1) - 1) + k``. With 5 bits these are
    the weights of ShiftAddNet's shift layers, ``P`` from -14 to 0 (its code).
    """

    bits: int
    highest: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise InputError(f"bits of a power of two must be 2 to 8, sign and exponent, got {self.bits}")

    @property
    def _fields(self) -> int:
        return int(2 ** (self.bits - 1))

    def encode(self, tensor: Tensor) -> Tensor:
        """See `Code`."""
        lowest = self.highest - self._fields + 2
        size = tensor.detach().double().abs()
        # the nearest power by distance, not by ratio: from 3/4 of one on it is the one itself
        exponent = torch.log2(size * (4.0 / 3.0)).floor()
        field = (exponent - lowest + 1).clamp(1, self._fields - 1).long() * (size >= 2.0 ** (lowest - 1))
        return field + self._fields * ((tensor < 0) & (field > 0)).long()

    def decode(self, patterns: Tensor) -> Tensor:
        """See `Code`."""
        patterns = patterns.long()
        field = patterns % self._fields
        size = torch.exp2((field + (self.highest - self._fields + 1)).float()) * (field > 0)
        return size * (1.0 - 2.0 * (patterns >= self._fields).float())

    def rounded(self, tensor: Tensor) -> Tensor:
        """Each number of ``tensor`` as it would be read back."""
        return self.decode(self.encode(tensor))
