"""Corrections of a domain shift in the parameters of a generator: gain and offset of each channel, inversion, sharpening.

A correction maps an input ``x`` to ``gain * (kernel * x) + offset``, clipped by the fuse. A generator ``G``, to whose output the
fuse adds ``x``, expresses it as ``G(x) = gain * (kernel * x) - x + offset``: an inversion is ``G(x) = -2 x``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bbfuse.fuse.module import Fuse

__all__ = ["Correction", "express", "expresses", "sharpenings", "tones"]

_BLURS = (0.5, 0.75, 1.0, 1.25)
"""Standard deviations, in pixels, of the Gaussian blurs that `sharpenings` undo."""
_RIDGE = 3e-3
_REACH = 3
"""Radius in pixels to which a blur is computed."""
_SIDE = 5


@dataclass(frozen=True)
class Correction:
    """``gain`` and ``offset`` (channels,), and a ``kernel`` (side, side) that all channels share; ``None`` changes nothing."""

    name: str
    gain: Tensor
    offset: Tensor
    kernel: Tensor | None = None


def tones(inputs: Tensor) -> list[Correction]:
    """Corrections of gain and offset, the identity first; ``inputs`` (n, channels, ...) show what range they have.

    ``stretched`` maps the 1 % and 99 % quantiles of each channel to -1 and 1.
    """
    channels = inputs.transpose(0, 1).flatten(1)
    points = torch.tensor([0.01, 0.99])
    low, high = (torch.stack([channel.quantile(point) for channel in channels]) for point in points)
    gain = 2.0 / (high - low).clamp_min(0.1)
    offset = -gain * (low + high) / 2.0
    one = torch.ones(len(channels))
    plain = {"unchanged": (1.0, 0.0), "inverted": (-1.0, 0.0), "twice as bright": (2.0, 1.0), "half as bright": (0.5, -0.5),
             "twice the contrast": (2.0, 0.0), "half the contrast": (0.5, 0.0)}  # fmt: skip
    found = [Correction(name, scale * one, shift * one) for name, (scale, shift) in plain.items()]
    stretched = [Correction("stretched", gain, offset), Correction("stretched and inverted", -gain, -offset)]
    return found + stretched


def sharpenings(tone: Correction) -> Iterator[Correction]:
    """``tone`` after a kernel that undoes a Gaussian blur, for some widths of the blur."""
    for sd in _BLURS:
        yield replace(tone, name=f"{tone.name}, sharpened by {sd} pixels", kernel=_inverse(sd))


def _inverse(sd: float) -> Tensor:
    """The kernel ``k`` (5, 5), scaled to the sum 1, that minimises ``|k * g - delta|^2 + ridge |k|^2``, ``g`` the blur."""
    places = torch.arange(-_REACH, _REACH + 1, dtype=torch.float64)
    weights = torch.exp(-places.square() / (2.0 * sd * sd))
    blur = torch.outer(weights, weights) / weights.sum() ** 2
    whole, side = _SIDE + 2 * _REACH, 2 * _REACH + 1
    moved = torch.zeros(_SIDE * _SIDE, whole, whole, dtype=torch.float64)
    for place in range(_SIDE * _SIDE):
        row, column = divmod(place, _SIDE)
        moved[place, row : row + side, column : column + side] = blur
    blurs = moved.flatten(1)
    goal = torch.zeros(whole, whole, dtype=torch.float64)
    goal[whole // 2, whole // 2] = 1.0
    system = blurs @ blurs.T + _RIDGE * torch.eye(len(blurs), dtype=torch.float64)
    kernel = torch.linalg.solve(system, blurs @ goal.flatten())
    scaled: Tensor = kernel / kernel.sum()
    return scaled.view(_SIDE, _SIDE).float()


def expresses(generator: nn.Module, kernel: bool = False) -> bool:
    """Whether ``generator`` can express gains and offsets of channels, with ``kernel`` sharpening, too."""
    if not isinstance(generator, nn.Conv2d):
        return not kernel and hasattr(generator, "correct")
    return not kernel or min(generator.kernel_size) >= _SIDE


def express(fuse: Fuse, correction: Correction) -> None:
    """Make the first generator of ``fuse`` that can express ``correction`` do so; the others have to be zero."""
    chosen = next(g for g in fuse.generators if expresses(g, correction.kernel is not None))
    with torch.no_grad():
        if not isinstance(chosen, nn.Conv2d):
            chosen.correct(correction.gain, correction.offset)  # type: ignore[operator]
            return
        assert chosen.bias is not None
        middle = chosen.kernel_size[0] // 2
        chosen.weight.zero_()
        chosen.bias.copy_(correction.offset)
        for channel, gain in enumerate(correction.gain):
            if correction.kernel is None:
                chosen.weight[channel, channel, middle, middle] = gain
            else:
                reach = len(correction.kernel) // 2
                around = slice(middle - reach, middle + reach + 1)
                chosen.weight[channel, channel, around, around] = gain * correction.kernel.to(chosen.weight.device)
            chosen.weight[channel, channel, middle, middle] -= 1.0
