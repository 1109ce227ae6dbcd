"""How a memory stores a network: number format, which tensors are stored, and the kind of errors. Settings only, without
torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backends.base import InputError

__all__ = ["PRESETS", "Memory", "Quantization"]

BITS = (2, 3, 4, 5, 6, 7, 8, 16)


@dataclass(frozen=True)
class Quantization:
    """Fixed-point codes of ``bits`` bits: ``w = c + s q`` with integers ``|q| <= 2^(bits-1) - 1 = Q`` and ``s = r / Q``.

    Symmetric: ``c = 0``, ``r = max|w|``. Asymmetric: ``c`` and ``r`` are the middle and half the width of ``[min w, max w]``.
    Stutz et al., MLSys 2021, section 3 and Eq. 1. A bit error may give a code one step outside of that range; it is not clipped.
    """

    bits: int = 8
    """2 to 8, or 16"""
    symmetric: bool = True
    """range around zero, or from the smallest to the largest weight"""
    signed: bool = True
    """``q`` as two's complement of exactly ``bits`` bits, or ``q + Q`` as an unsigned number"""
    rounding: bool = True
    """to nearest, or truncation towards zero"""
    ranges: Literal["tensor", "global", "channel"] = "tensor"
    """one range for each tensor, for all together, or for each index of a tensor's first axis"""

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise InputError(f"`bits` must be 2 to 8, or 16, got {self.bits}")


PRESETS: dict[str, tuple[Quantization, Literal["weights", "parameters"]]] = {
    "neuralfuse": (Quantization(), "weights"),
    "normal": (Quantization(rounding=False), "parameters"),
    "rquant": (Quantization(symmetric=False, signed=False), "parameters"),
}
"""The 8-bit schemes of the papers and what they store: Sun et al. 2024, section 4.6; NORMAL and RQUANT of Stutz et al. 2021."""


@dataclass(frozen=True)
class Memory:
    """The memory that holds the target."""

    quantization: Literal["neuralfuse", "normal", "rquant"] = "neuralfuse"
    """number format: neuralfuse (symmetric, rounded), normal (symmetric, truncated), rquant (asymmetric, unsigned, rounded)"""
    bits: int = 8
    """bits a weight: 2 to 8, or 16"""
    stored: Literal["weights", "parameters"] | None = None
    """weights of convolutions and linear layers, or all parameters; if not given weights for neuralfuse, else parameters"""
    errors: Literal["random", "stuck", "stuck-at-0", "stuck-at-1", "column", "neuralfuse-map", "profile"] = "random"
    """random flips; cells stuck at 0 or 1, at 0 (1 -> 0 alone), at 1 (0 -> 1 alone); cells stuck along bit lines; the map of
    NeuralFuse's code; a measured chip (profile)"""
    profile: str | None = None
    """.npz of the measured chip"""
    offset: int = 0
    """column and profile: the cell in which the first stored bit lies"""

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise InputError(f"`memory.bits` must be 2 to 8, or 16, got {self.bits}")
        if (self.errors == "profile") != (self.profile is not None):
            raise InputError("`memory.errors=profile` and `memory.profile` go together: give both or none")
        if self.offset < 0:
            raise InputError(f"`memory.offset` must be 0 or more, got {self.offset}")
        if self.offset and self.errors not in ("column", "profile"):
            raise InputError(f"`memory.offset` has no effect with `memory.errors={self.errors}`: remove it")
        if self.errors == "neuralfuse-map" and self.bits > 8:
            raise InputError(f"`memory.errors=neuralfuse-map` needs codes of at most 8 bits, got `memory.bits={self.bits}`")
