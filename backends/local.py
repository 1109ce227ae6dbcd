"""The simulator in this process: answers only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backends.interface import Access, BackendInfo, Chip, Sending
from backends.memory.scheme import Memory
from backends.simulator import Simulator

__all__ = ["LocalBackend"]


class LocalBackend:
    """Strict access: images go in, logits come out, without tape."""

    def __init__(
        self, name: str, network: nn.Module, image_shape: tuple[int, int, int], classes: int, memory: Memory | None = None
    ) -> None:
        self._simulator = Simulator(network, memory)
        self.info = BackendInfo(name, Access.LOGITS, image_shape, classes)

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.interface.Backend`."""
        sending(len(images))
        with torch.no_grad():
            return self._simulator.logits(images, chip).float().cpu()

    def close(self) -> None:
        """Nothing is held open."""
