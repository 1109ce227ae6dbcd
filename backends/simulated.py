"""The simulator in this process: strict or relaxed access to a network, on low-voltage memory or as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backends.base import Access, BackendInfo, Chip, Sending
from backends.memory.config import Memory
from backends.memory.simulator import Simulator

__all__ = ["SimulatedBackend"]


class SimulatedBackend:
    """``network`` stored in ``memory``, or with ``stored=False`` as it is, whatever the chip; it grants ``access``.

    With `Access.LOGITS` responses have no gradients. With `Access.GRADIENTS` they have gradients back to the images; the weights
    stay frozen.
    """

    def __init__(
        self, name: str, network: nn.Module, image_shape: tuple[int, ...], classes: int, memory: Memory | None = None,
        access: Access = Access.LOGITS, stored: bool = True,
    ) -> None:  # fmt: skip
        network.eval().requires_grad_(False)
        self._logits = Simulator(network, memory).logits if stored else lambda images, chip: network(images)
        self.info = BackendInfo(name, access, image_shape, classes)

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.base.Backend`."""
        sending(len(images))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.info.access >= Access.GRADIENTS):
            return self._logits(images, chip).float().cpu()

    def close(self) -> None:
        """Nothing is held open."""
