"""Tensors as fixed-point codes in one memory, and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.interface import Chip, InputError
from backends.memory.scheme import Quantization

__all__ = ["Errors", "Patterns", "Places", "Reading", "Stored", "store"]

Places = NDArray[np.int64] | slice
"""Indices of patterns."""
Patterns = NDArray[np.unsignedinteger]
"""Bit patterns, one of uint8 (up to 8 bits a weight) or uint16 for each weight; bits above the code's are 0."""


@dataclass(frozen=True)
class _Slot:
    """Where a tensor lies and what turns its integers back into weights, ``c + s q``."""

    shape: torch.Size
    start: int
    step: Tensor
    centre: Tensor

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.shape.numel())


@dataclass(frozen=True)
class Stored:
    """Tensors one after the other from address 0: bit ``j`` of weight ``i`` in cell ``bits * i + j``, ``j = 0`` the lowest."""

    quantization: Quantization
    patterns: Patterns
    """What was written, for all tensors (weights,); what a chip reads back has the same form."""
    slots: Mapping[str, _Slot]

    @property
    def places(self) -> list[slice]:
        """The part of `patterns` that each tensor takes."""
        return [slot.place for slot in self.slots.values()]

    def tensors(self, patterns: Patterns | None = None, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The float32 tensors that ``patterns`` (what was written, if not given) stand for, by name."""
        read = self.patterns if patterns is None else patterns
        weights = {}
        for name, slot in self.slots.items():
            weights[name] = _integers(read[slot.place], self.quantization, device).view(slot.shape).mul_(slot.step.to(device))
            if not self.quantization.symmetric:
                weights[name] += slot.centre.to(device)
        return weights


Errors = Callable[[Stored, Patterns, Chip], list[Places]]
"""A kind of errors: turns the second argument, a copy of what was written, into what the chip reads, and says where it wrote."""


class Reading:
    """What a chip reads, in one array that every chip is applied to and taken back from; what was written stays as it is."""

    def __init__(self, stored: Stored, errors: Errors) -> None:
        self.stored = stored
        self._errors = errors
        self._patterns = stored.patterns.copy()
        self._changed: list[Places] = []

    def on(self, chip: Chip) -> Patterns:
        """The patterns as ``chip`` reads them, valid until the next call."""
        for places in self._changed:
            self._patterns[places] = self.stored.patterns[places]
        self._changed = [slice(None)]  # whatever happens in the next line can be taken back
        self._changed = self._errors(self.stored, self._patterns, chip)
        return self._patterns


def store(tensors: Mapping[str, Tensor], quantization: Quantization) -> Stored:
    """``tensors`` as codes; each weight is off by at most half a step, with truncation by less than one.

    Raises:
        InputError: there is nothing to store, or a value that is not finite.
    """
    if not tensors:
        raise InputError("there is nothing to store: no tensors were given")
    flat = {name: tensor.detach().double() for name, tensor in tensors.items()}
    for name, tensor in flat.items():
        if not tensor.isfinite().all():
            raise InputError(f"{name} cannot be stored: it holds {tensor[~tensor.isfinite()][0].item()}")
    largest = 2 ** (quantization.bits - 1) - 1
    starts = itertools.accumulate((tensor.numel() for tensor in flat.values()), initial=0)
    slots, written = {}, []
    for (name, tensor), (low, high), start in zip(flat.items(), _ranges(list(flat.values()), quantization), starts, strict=False):
        if quantization.symmetric:
            low, high = -torch.maximum(high, -low), torch.maximum(high, -low)
        # a smaller step would vanish in float32
        step = ((high - low) / (2 * largest)).clamp(min=torch.finfo(torch.float32).tiny)
        centre = (high + low) / 2
        codes = (tensor - centre) / step
        codes = (codes.round() if quantization.rounding else codes.trunc()).clamp(-largest, largest).long()
        written.append((codes if quantization.signed else codes + largest).flatten() & (2**quantization.bits - 1))
        slots[name] = _Slot(tensor.shape, start, step.float(), centre.float())
    cells = np.uint8 if quantization.bits <= 8 else np.uint16
    return Stored(quantization, torch.cat(written).cpu().numpy().astype(cells), slots)


def _ranges(tensors: list[Tensor], quantization: Quantization) -> list[tuple[Tensor, Tensor]]:
    """Smallest and largest weight that each tensor's range covers, of a shape that broadcasts against it."""
    if quantization.ranges == "global":
        low, high = torch.stack([t.min() for t in tensors]).min(), torch.stack([t.max() for t in tensors]).max()
        return [(low, high)] * len(tensors)
    if quantization.ranges == "tensor":
        return [(t.min(), t.max()) for t in tensors]
    axes = [tuple(range(1, t.ndim)) or 0 for t in tensors]
    return [(t.amin(axis, keepdim=True), t.amax(axis, keepdim=True)) for t, axis in zip(tensors, axes, strict=True)]


def _integers(patterns: Patterns, quantization: Quantization, device: torch.device | str) -> Tensor:
    """``q`` of each pattern, float32."""
    container = 8 * patterns.itemsize
    values = torch.from_numpy(patterns.view(np.int8 if container == 8 else np.int16)).to(device).float()
    if not quantization.signed:
        values.add_(values < 0, alpha=2**container)
        return values.sub_(2 ** (quantization.bits - 1) - 1)
    if quantization.bits < container:
        values.add_(values >= 2 ** (quantization.bits - 1), alpha=-(2**quantization.bits))
    return values
