"""Networks that are no tree of torch layers, and name what a memory stores themselves."""

from __future__ import annotations

import re

from torch import Tensor, nn

__all__ = ["DeclaredNetwork", "differentiable"]


class DeclaredNetwork(nn.Module):
    """A network whose layers torch does not know: its parameters are all that a memory may store, in their order."""

    differentiable = True
    """Whether responses have gradients back to the images."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[str] = []
        """Names of the parameters that are weights of convolutions and linear layers, in their order in the network."""
        self.scales: list[str] = []
        """Names of those that are scales of normalisations."""

    def hold(self, name: str, tensor: Tensor) -> str:
        """Register ``tensor`` as a frozen parameter; the name that it has here."""
        own = f"{len(self._parameters)}_{re.sub(r'[^0-9A-Za-z]+', '_', name)}"
        self.register_parameter(own, nn.Parameter(tensor, requires_grad=False))
        return own


def differentiable(network: nn.Module) -> bool:
    """Whether responses of ``network`` have gradients back to the images."""
    return all(part.differentiable for part in network.modules() if isinstance(part, DeclaredNetwork))
