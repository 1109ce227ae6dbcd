"""Encodes tensors as bit patterns in one memory, and decodes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.base import Chip, InputError
from backends.memory.config import Quantization
from backends.memory.number_formats import Code, FixedPoint, integers

__all__ = ["Errors", "Patterns", "Places", "Reading", "Stored", "store", "store_by_codes"]

Places = NDArray[np.int64] | slice
"""Indices of patterns."""
Patterns = NDArray[np.unsignedinteger]
"""Bit patterns, one of uint8 (up to 8 bits a weight) or uint16 for each weight; bits above the code's are 0."""


@dataclass(frozen=True)
class _Slot:
    """Place of a tensor, and its format."""

    shape: torch.Size
    start: int
    code: Code

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.shape.numel())


@dataclass(frozen=True)
class Stored:
    """Tensors of one width, one after the other: bit ``j`` of number ``i`` in cell ``first + bits * i + j``, lowest first."""

    bits: int
    patterns: Patterns
    """The written patterns of all tensors (weights,); those that a chip reads have the same form."""
    slots: Mapping[str, _Slot]
    first: int
    """The first cell."""

    @property
    def end(self) -> int:
        """The cell behind the last one."""
        return self.first + self.bits * self.patterns.size

    @property
    def places(self) -> list[slice]:
        """The part of `patterns` that each tensor takes."""
        return [slot.place for slot in self.slots.values()]

    @property
    def quantization(self) -> Quantization:
        """The fixed-point format of its tensors.

        Raises:
            InputError: they have other formats.
        """
        return self._fixed()[0].quantization

    @property
    def steps(self) -> NDArray[np.float32]:
        """The step ``s`` of the fixed-point code of each weight (weights,)."""
        codes = zip(self._fixed(), self.slots.values(), strict=True)
        steps = [code.step.cpu().float().expand(slot.shape).flatten() for code, slot in codes]
        return torch.cat(steps).numpy()

    def _fixed(self) -> list[FixedPoint]:
        codes = [slot.code for slot in self.slots.values()]
        fixed = [code for code in codes if isinstance(code, FixedPoint)]
        if len(fixed) < len(codes) or any(code.quantization != fixed[0].quantization for code in fixed):
            raise InputError(f"{', '.join(self.slots)} must be stored as fixed-point codes of one kind, and are not")
        return fixed

    def integers(self, patterns: Patterns | None = None) -> NDArray[np.int64]:
        """The fixed-point codes ``q`` (weights,) that ``patterns`` (the written ones, if not given) stand for."""
        read = self.patterns if patterns is None else patterns
        return integers(torch.from_numpy(read), self.quantization).numpy().astype(np.int64)

    def encoded(self, integers: NDArray[np.int64]) -> Patterns:
        """The inverse of `integers`, for some or all weights."""
        raised = integers if self.quantization.signed else integers + 2 ** (self.bits - 1) - 1
        patterns: Patterns = (raised & (2**self.bits - 1)).astype(self.patterns.dtype)
        return patterns

    def tensors(self, patterns: Patterns | None = None, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The float32 tensors that ``patterns`` (the written ones, if not given) stand for, by name."""
        read = self.patterns if patterns is None else patterns
        return {
            name: slot.code.decode(torch.from_numpy(read[slot.place]).view(slot.shape).to(device))
            for name, slot in self.slots.items()
        }


Errors = Callable[[Stored, Patterns, Chip], list[Places]]
"""A kind of errors: changes its second argument, a copy of the written patterns, into those that the chip reads; returns the
changed places."""


class Reading:
    """The patterns that a chip reads, in one array that is reused for every chip; the written patterns do not change."""

    def __init__(self, stored: Stored, errors: Errors) -> None:
        self.stored = stored
        self._errors = errors
        self._patterns = stored.patterns.copy()
        self._changed: list[Places] = []

    def on(self, chip: Chip) -> Patterns:
        """The patterns as ``chip`` reads them, valid until the next call."""
        for places in self._changed:
            self._patterns[places] = self.stored.patterns[places]
        self._changed = [slice(None)]  # an error in the next line can be undone
        self._changed = self._errors(self.stored, self._patterns, chip)
        return self._patterns


def store(tensors: Mapping[str, Tensor], quantization: Quantization) -> Stored:
    """``tensors`` as codes; each weight is off by at most half a step, with truncation by less than one.

    Raises:
        InputError: there is nothing to store, or a value that is not finite.
    """
    if not tensors:
        raise InputError("there is nothing to store: no tensors were given")
    flat = _finite(tensors)
    ranges = _ranges(list(flat.values()), quantization)
    codes = {
        name: FixedPoint.between(low, high, quantization) for name, (low, high) in zip(flat, ranges, strict=True)
    }  # fmt: skip
    return _written(quantization.bits, flat, codes, 0)


def store_by_codes(tensors: Mapping[str, Tensor], codes: Mapping[str, Code], first: int = 0) -> list[Stored]:
    """``tensors`` in formats of their own, those of one width together, the first of them from cell ``first`` on.

    Raises:
        InputError: a value is not finite, or a width is not 1 to 16.
    """
    flat, found = _finite(tensors), []
    for bits in dict.fromkeys(codes[name].bits for name in tensors):
        if not 1 <= bits <= 16:
            raise InputError(f"a code must have 1 to 16 bits, got {bits}")
        these = {name: tensor for name, tensor in flat.items() if codes[name].bits == bits}
        found.append(_written(bits, these, codes, first))
        first = found[-1].end
    return found


def _finite(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    flat = {name: tensor.detach().double() for name, tensor in tensors.items()}
    for name, tensor in flat.items():
        if not tensor.isfinite().all():
            raise InputError(f"{name} cannot be stored: it holds {tensor[~tensor.isfinite()][0].item()}")
    return flat


def _written(bits: int, tensors: Mapping[str, Tensor], codes: Mapping[str, Code], first: int) -> Stored:
    starts = itertools.accumulate((tensor.numel() for tensor in tensors.values()), initial=0)
    slots = {
        name: _Slot(tensor.shape, start, codes[name]) for (name, tensor), start in zip(tensors.items(), starts, strict=False)
    }  # fmt: skip
    kind = torch.uint8 if bits <= 8 else torch.uint16  # narrow before it leaves a device
    written = torch.cat([codes[name].encode(tensor).flatten().to(kind).cpu() for name, tensor in tensors.items()])
    return Stored(bits, written.numpy(), slots, first)


def _ranges(tensors: list[Tensor], quantization: Quantization) -> list[tuple[Tensor, Tensor]]:
    """Smallest and largest weight that each tensor's range covers, of a shape that broadcasts against it."""
    if quantization.ranges == "global":
        low, high = torch.stack([t.min() for t in tensors]).min(), torch.stack([t.max() for t in tensors]).max()
        return [(low, high)] * len(tensors)
    if quantization.ranges == "tensor":
        return [(t.min(), t.max()) for t in tensors]
    axes = [tuple(range(1, t.ndim)) or 0 for t in tensors]
    return [(t.amin(axis, keepdim=True), t.amax(axis, keepdim=True)) for t, axis in zip(tensors, axes, strict=True)]
