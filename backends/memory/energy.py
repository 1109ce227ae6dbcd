"""Voltage, bit error rate and energy of an SRAM, and what a fuse in front costs.

Measured points: 14 nm test chip of Chandramoorthy et al. (HPCA 2019), as given by Stutz et al. (MLSys 2021, figure 1);
voltage relative to the lowest one without errors, energy per access exactly its square.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["saving", "voltage", "weight_reads"]

# (relative voltage, bit error rate), rising in both senses of danger
_MEASURED = [
    (23 / 24, 1.90735e-6),
    (22 / 24, 6.86646e-5),
    (21 / 24, 1.29e-3),
    (20 / 24, 1.115e-2),
    (19 / 24, 5.573e-2),
    (18 / 24, 0.2056),
]
_ARRAY_SIDE = 32
_WEIGHTS_PER_WORD = 8


def voltage(bit_error_rate: float) -> float | None:
    """Relative voltage at which the memory has this bit error rate, log-linear between the measured points.

    1 for rates below the smallest measured one; ``None`` above the largest (20.56 %), where nothing was measured.
    """
    rates = [rate for _, rate in _MEASURED]
    if bit_error_rate < rates[0]:
        return 1.0
    if bit_error_rate > rates[-1]:
        return None
    return float(np.interp(math.log10(bit_error_rate), np.log10(rates), [volts for volts, _ in _MEASURED]))


def weight_reads(network: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Words of 64 bits read from the weight memory for one image: ``sum_l weights_l * ceil(E_l / 32) / 8``.

    ``E_l`` is the number of output pixels of layer ``l`` (1 for a linear one): an output-stationary array of 32 rows reads
    all filters again for every 32 pixels. Closed form of NeuralFuse's Table 6 (SCALE-Sim); plain convolutions only.
    """
    reads = 0.0

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal reads
        pixels = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        reads += weight.numel() * math.ceil(pixels / _ARRAY_SIDE) / _WEIGHTS_PER_WORD

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        with torch.no_grad():
            network(torch.zeros(1, *image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return reads


def saving(bit_error_rate: float, target_reads: float, fuse_reads: float) -> float | None:
    """Fraction of the target's weight-read energy saved: ``1 - V^2 - reads(fuse) / reads(target)`` (NeuralFuse, Eq. 6).

    The fuse runs at nominal voltage. Negative where the fuse costs more than the voltage saves; ``None`` without a voltage.
    """
    volts = voltage(bit_error_rate)
    return None if volts is None else 1.0 - volts**2 - fuse_reads / target_reads
