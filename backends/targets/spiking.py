"""A spiking target: leaky neurons of snnTorch that count spikes, its weights in fixed point with room above the largest one.

SoftSNN (2203.05523) bounds the weights that are read: a weight beyond the largest clean one of its layer must have a bit error.
Weights are stored with spare integer bits, so that a bit error can move them there; without these no bit could. Faults
of the neurons themselves are not modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.base import InputError
from backends.memory.number_formats import Code, FixedPoint
from backends.targets.base import TARGETS, architecture
from backends.targets.digits import SMALL

__all__ = ["Bound", "Spiking", "SpikingLinear"]

Bound = Literal["none", "zero", "limit", "usual"]
"""How a weight beyond the largest clean one is read: as it is, as 0, as that largest, or as the median clean one; the sign is
kept. The last three are bound-and-protect 1 to 3 as in the code of a third party; the paper was not available to us."""


class SpikingLinear(nn.Linear):
    """A linear layer without bias that bounds the weights it reads; ``spare`` of its 8 bits lie above its largest weight."""

    limit: Tensor
    usual: Tensor

    def __init__(self, inputs: int, outputs: int, bound: Bound, spare: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.bound, self.spare = bound, spare
        self.register_buffer("limit", torch.ones(()))
        self.register_buffer("usual", torch.ones(()))

    def extra_repr(self) -> str:
        """With bound and spare bits."""
        return f"{super().extra_repr()}, bound={self.bound}, spare={self.spare}"

    def codes(self) -> Mapping[str, Code]:
        """See `backends.memory.number_formats.HasCodes`."""
        return {"weight": FixedPoint.spacious(self.weight, 8, self.spare)}

    def forward(self, vectors: Tensor) -> Tensor:
        """As a linear layer; during a fit it records the clean range."""
        if self.training:
            size = self.weight.detach().abs()
            self.limit.copy_(size.max())
            self.usual.copy_(size.median())
            return F.linear(vectors, self.weight)
        # the largest weight itself may be read half a step higher
        beyond = self.weight.abs() > self.limit * (1 + 2**self.spare / 127)
        instead = {"zero": torch.zeros_like(self.limit), "limit": self.limit, "usual": self.usual}.get(self.bound)
        read = self.weight if instead is None else torch.where(beyond, instead * self.weight.sign(), self.weight)
        return F.linear(vectors, read)


class Spiking(nn.Module):
    """Two layers of leaky integrate-and-fire neurons that see the image as a constant current for ``steps`` steps.

    The logits are the numbers of spikes of each class.
    """

    def __init__(
        self, inputs: int, classes: int, bound: Bound = "none", spare: int = 2, hidden: int = 128, steps: int = 25
    ) -> None:
        super().__init__()
        try:
            import snntorch
        except ImportError as error:
            raise InputError("spiking targets need the library snntorch: python -m pip install -e '.[spiking]'") from error
        self.steps = steps
        self.first = SpikingLinear(inputs, hidden, bound, spare)
        self.second = SpikingLinear(hidden, classes, bound, spare)
        self.neurons = snntorch.Leaky(beta=0.9)

    def forward(self, images: Tensor) -> Tensor:
        """Spike counts (n, classes) of ``images`` in [-1, 1], black is no current."""
        current = self.first((images.flatten(1) + 1.0) / 2.0)
        hidden, last = torch.zeros_like(current), current.new_zeros(len(images), self.second.out_features)
        counts: Tensor = last
        for _ in range(self.steps):
            spikes, hidden = self.neurons(current, hidden)
            fired, last = self.neurons(self.second(spikes), last)
            counts = counts + fired
        self.neurons.mem = torch.zeros(0)  # the neurons keep the last state with its graph
        return counts


@TARGETS.register("spiking")
@architecture(SMALL)
def spiking(classes: int) -> nn.Module:
    """Two layers of leaky integrate-and-fire neurons (needs the library snntorch)."""
    return Spiking(64, classes)


@TARGETS.register("spiking-bnp1")
@architecture(SMALL)
def spiking_bnp1(classes: int) -> nn.Module:
    """The target spiking; weights read beyond the largest clean one count as 0."""
    return Spiking(64, classes, bound="zero")


@TARGETS.register("spiking-bnp2")
@architecture(SMALL)
def spiking_bnp2(classes: int) -> nn.Module:
    """The target spiking; weights read beyond the largest clean one count as that one."""
    return Spiking(64, classes, bound="limit")


@TARGETS.register("spiking-bnp3")
@architecture(SMALL)
def spiking_bnp3(classes: int) -> nn.Module:
    """The target spiking; weights read beyond the largest clean one count as the median."""
    return Spiking(64, classes, bound="usual")
