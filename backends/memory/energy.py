"""Voltage, bit error rate and energy of an SRAM, and what a network costs to run from it.

Measured points: 14 nm test chip of Chandramoorthy et al. (HPCA 2019), as given by Stutz et al. (MLSys 2021, figure 1);
voltage relative to the lowest one without errors, energy per access exactly its square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backends.memory.hooks import watching

__all__ = ["bit_error_rate", "macs", "saving", "voltage", "weight_reads"]

# relative voltage and bit error rate, downwards in voltage
_MEASURED = [
    (23 / 24, 1.90735e-6), (22 / 24, 6.86646e-5), (21 / 24, 1.29e-3), (20 / 24, 1.115e-2), (19 / 24, 5.573e-2), (18 / 24, 0.2056),
]  # fmt: skip
_ARRAY_SIDE = 32
_WEIGHTS_PER_WORD = 8
_POOLS = (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


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


def bit_error_rate(relative_voltage: float) -> float | None:
    """The inverse of `voltage`: 0 above the highest measured voltage with errors (23/24), ``None`` below the lowest (18/24)."""
    volts = [volts for volts, _ in reversed(_MEASURED)]
    if relative_voltage > volts[-1]:
        return 0.0
    if relative_voltage < volts[0]:
        return None
    return float(10 ** np.interp(relative_voltage, volts, [math.log10(rate) for _, rate in reversed(_MEASURED)]))


def weight_reads(network: nn.Module, image_shape: tuple[int, ...], padding: Mapping[str, int] | None = None) -> float:
    """Words of 64 bits read from the weight memory for one image: ``sum_l weights_l * ceil(E_l / 32) / 8``.

    ``E_l`` is the number of output pixels of layer ``l``, 1 for a linear one: an output-stationary array of 32 rows reads all
    filters again for every 32 pixels. It reproduces NeuralFuse's Table 6 with SCALE-Sim's habits: a side has
    ``ceil((padded - k + s) / s)`` pixels, and a transposed convolution of side ``h`` counts as a plain one with stride 1 on
    ``2h`` pixels padded by 1. ``padding`` overrides what a layer's own padding is taken to be, by the layer's name.
    """
    assumed = padding or {}
    total = 0.0

    def count(name: str, layer: nn.Module, image: Tensor, _: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            pixels = 1
        elif isinstance(layer, nn.Conv1d | nn.Conv2d):
            pads: Any = (assumed[name],) * len(layer.kernel_size) if name in assumed else layer.padding
            pixels = math.prod(
                math.ceil((h + 2 * pad - k) / s + 1)
                for h, pad, k, s in zip(image.shape[2:], pads, layer.kernel_size, layer.stride, strict=True)
            )
        elif isinstance(layer, nn.ConvTranspose2d):
            pixels = math.prod(2 * h + 2 - k + 1 for h, k in zip(image.shape[2:], layer.kernel_size, strict=True))
        else:
            return
        total += layer.weight.numel() * math.ceil(pixels / _ARRAY_SIDE) / _WEIGHTS_PER_WORD

    _visit(network, image_shape, count)
    return total


def macs(network: nn.Module, image_shape: tuple[int, ...]) -> float:
    """Multiply-accumulates of one image as NeuralFuse's Table 7 counts them (ptflops).

    Convolutions by their weights at every output pixel (transposed ones too, four times too many at stride 2), linear layers by
    their weights, and on top 1 for each output of a biased layer, 2 for each element of a batch normalisation, 1 for each element
    of a ReLU, of a pool's input and of an upsampling's output.
    """
    total = 0.0

    def count(_: str, layer: nn.Module, image: Tensor, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            pixels = output.numel() // output.shape[1]
            total += layer.weight.numel() * pixels + (output.numel() if layer.bias is not None else 0)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            total += 2 * output.numel()
        elif isinstance(layer, nn.ReLU | nn.Upsample):
            total += output.numel()
        elif isinstance(layer, _POOLS):
            total += image.numel()

    _visit(network, image_shape, count)
    return total


def saving(access_energy: float, target_cost: float, fuse_cost: float) -> float:
    """Fraction of the target's energy saved: ``1 - e - cost(fuse) / cost(target)`` (NeuralFuse, Eq. 6 by reads, Eq. 7 by MACs).

    ``e`` = ``access_energy`` is what the target pays for an access, relative to nominal voltage; the fuse pays 1. Negative where
    the fuse costs more than the voltage saves.
    """
    return 1.0 - access_energy - fuse_cost / target_cost


def _visit(network: nn.Module, image_shape: tuple[int, ...], see: Callable[[str, nn.Module, Tensor, Tensor], None]) -> None:
    """Run one black image through ``network`` in evaluation mode and show ``see`` every layer with its input and output."""

    layers = {name: module for name, module in network.named_modules() if not list(module.children())}
    training = network.training
    try:
        with torch.no_grad(), watching(layers, see):
            device = next((p.device for p in network.parameters()), torch.device("cpu"))
            network.eval()(torch.zeros(1, *image_shape, device=device))
    finally:
        network.train(training)
