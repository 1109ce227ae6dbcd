"""The simulator in this process with the tape left on: the reference with relaxed access."""

from __future__ import annotations

from torch import Tensor, nn

from backends.interface import Access, BackendInfo, Chip, Sending
from backends.memory.scheme import Memory
from backends.simulator import Simulator

__all__ = ["WhiteboxBackend"]


class WhiteboxBackend:
    """Relaxed access: answers keep their tape back to the images; the weights stay frozen."""

    def __init__(
        self, name: str, network: nn.Module, image_shape: tuple[int, int, int], classes: int, memory: Memory | None = None
    ) -> None:
        self._simulator = Simulator(network, memory)
        self.info = BackendInfo(name, Access.GRADIENTS, image_shape, classes)

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.interface.Backend`."""
        sending(len(images))
        return self._simulator.logits(images, chip).float().cpu()

    def close(self) -> None:
        """Nothing is held open."""
