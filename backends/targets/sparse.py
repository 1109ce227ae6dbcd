"""A target with sparse activations (FlatENN, 2301.00675 and 2406.10528): most of what a layer makes is set to 0.

How the authors make activations sparse is not known to us; here the largest quarter of each image's survives.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from backends.targets.base import TARGETS, architecture
from backends.targets.digits import SMALL, convolutions

__all__ = ["Largest", "network"]

_SHARE = 0.25


class Largest(nn.Module):
    """ReLU, and of each image's activations only the largest ``share``, the others 0."""

    def __init__(self, share: float = _SHARE) -> None:
        super().__init__()
        self.share = share

    def extra_repr(self) -> str:
        """The share."""
        return f"share={self.share}"

    def forward(self, images: Tensor) -> Tensor:
        """Activations of the same shape."""
        flat = images.relu().flatten(1)
        limit = flat.topk(math.ceil(self.share * flat.shape[1]), 1).values[:, -1:]
        return (flat * (flat >= limit)).view(images.shape)


def network(dense: nn.Module) -> nn.Module:
    """``dense`` with `Largest` in the place of every ReLU."""
    for layer in dense.modules():
        for name, child in layer.named_children():
            if isinstance(child, nn.ReLU):
                setattr(layer, name, Largest())
    return dense


@TARGETS.register("digits-sparse")
@architecture(SMALL)
def digits_sparse(classes: int) -> nn.Module:
    """The target digits with the largest quarter of each layer's activations, the others 0 (FlatENN)."""
    return network(convolutions(classes))
