"""Area, energy and time of a protected design, by a model whose constants are those of `Hardware`.

A memory of weights beside ``pes`` processing elements, each with a multiplier, an adder for sums of 32 bits and registers::

    A = S b (W + extra) + D                      memory: W weights' bits, copies or check bits, voters and decoders at its port
      + pes (P (1 + 2 l / 16) + v l + r)         elements: l of 16 bits threefold, their voters, comparators of ranges
      + 3 w P                                    unit of w elements in threefold logic that computes channels again
      + S b W_fuse                               weights of a fuse, in cells at nominal voltage

    E = V^2 (reads of bits + multiplications, protected ones as often as they are there) + those of a fuse at nominal voltage
    T = max(1, recomputed / w : all / pes) + fuse / all              in multiplications, relative to no protection

The form follows from the policies; that logic grows in proportion to protected bits, the sizes of arrays and ports, and how
areas shrink with bits (multipliers as the square, adders in proportion) are our own choices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from backends.base import InputError
from backends.memory.energy import voltage
from backends.memory.protection.policy import RESULT_BITS, Layer, Protection, word

__all__ = ["HARDWARE", "Cost", "Hardware", "cost"]


@dataclass(frozen=True)
class Hardware:
    """All constants. Areas in square micrometres at 40 nm, energies in pJ at 45 nm and nominal voltage."""

    cell: float = 140 * 0.04**2
    """bit of SRAM: 140 F^2 (Lim et al., Scientific Reports 7:12436, 2017, table 2) with F = 40 nm"""
    multiplier: float = 6350 / 16
    """of 8 bits: Aladdin's 40 nm table has 6350 for 32 bits; as the square"""
    adder: float = 278
    """of 32 bits (Aladdin, 40 nm)"""
    register: float = 5.98
    """bit of a register (Aladdin, 40 nm)"""
    gate: float = 50.4 / 32
    """logic gate: Aladdin's bitwise operation on 32 bits has 50.4"""
    multiply: float = 3.1 / 16
    """8-bit multiplication: 3.1 for 32 bits (Horowitz, ISSCC 2014), as the square"""
    add: float = 0.1
    """32-bit addition (Horowitz)"""
    read: float = 10 / 64
    """bit read: 10 for 64 bits of an 8 kB memory (Horowitz)"""
    pes: int = 64
    """processing elements"""
    port: int = 64
    """bits that the memory gives at once"""
    rows: int = 32
    """results for which a weight that was read is used, as in `backends.memory.energy.weight_reads`"""

    @property
    def element(self) -> float:
        """A processing element: multiplier, adder, registers for two factors and a sum."""
        return self.multiplier + self.adder + 48 * self.register

    @property
    def voter(self) -> float:
        """Majority of three bits: three gates and one that joins them."""
        return 4 * self.gate


HARDWARE = Hardware()


@dataclass(frozen=True)
class Cost:
    """Cost of a design."""

    area: float
    """square micrometres"""
    energy: float
    """pJ an image"""
    time: float
    """cycles an image, relative to the target without protection"""


def cost(
    layers: Mapping[str, Layer], bits: int, protection: Protection, important: Mapping[str, Tensor],
    recomputed: Mapping[str, Tensor], rate: float, fuse: Mapping[str, Layer] | None = None, hardware: Hardware = HARDWARE,
) -> Cost:  # fmt: skip
    """Cost of a target with ``layers``, stored in ``bits`` bits at the voltage that gives bit error rate ``rate``.

    ``important`` and ``recomputed``: the channels of each layer that the policy selects, bool (channels,). ``fuse``: the layers
    of a fuse in front of it.

    Raises:
        InputError: the policy has no cost, or no voltage gives that rate.
    """
    volts = voltage(rate)
    if volts is None:
        raise InputError(f"rate must be a measured one, at most 20.56 %, got {100 * rate:g} %")
    inner, outer = min(protection.inner, bits), min(protection.outer, bits)
    if protection.code == "void" and (inner or outer):
        raise InputError("code must be tmr or ecc8 to ecc64 where bits are protected, got void, which has no cost")
    if protection.code == "tmr":
        more, decoding = 2.0, hardware.voter
    elif protection.code == "void":
        more, decoding = 0.0, 0.0
    else:
        data, check = word(protection.code)
        # for each bit: half of the check bits, when written and when read; one gate that finds it and one that turns it
        more, decoding = check / data, hardware.gate * (check + 2)
    cells, read, macs, again = 0.0, 0.0, 0.0, 0.0
    for name, layer in layers.items():
        protected = outer + (inner - outer) * float(important[name].double().mean())
        stored = layer.channels * layer.weights * (bits + more * protected)
        cells += stored
        read += stored * math.ceil(layer.pixels / hardware.rows)
        macs += layer.channels * layer.weights * layer.pixels
        again += int(recomputed[name].sum()) * layer.weights * layer.pixels
    share = protection.logic / RESULT_BITS
    area = cells * hardware.cell + hardware.port / bits * max(inner, outer) * decoding
    area += hardware.pes * hardware.element * (1 + 2 * share) + hardware.pes * protection.logic * hardware.voter
    energy = read * hardware.read + (macs * (1 + 2 * share) + 3 * again) * (hardware.multiply + hardware.add)
    if protection.restricted:  # two comparisons of 16 bits
        area += hardware.pes * hardware.adder
        energy += hardware.add * sum(layer.channels * layer.pixels for layer in layers.values())
    time = 1.0
    if again:
        area += 3 * protection.width * hardware.element
        time = max(time, again / protection.width / (macs / hardware.pes))
    energy *= volts**2
    for layer in (fuse or {}).values():
        weights = layer.channels * layer.weights
        area += 8 * weights * hardware.cell
        energy += 8 * weights * math.ceil(layer.pixels / hardware.rows) * hardware.read
        energy += weights * layer.pixels * (hardware.multiply + hardware.add)
        time += weights * layer.pixels / macs
    return Cost(area, energy, time)
