"""A classifier on low-voltage memory: stored as codes, read back through a chip, run as usual."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.func import functional_call

from backends.interface import Chip
from backends.memory.chips import with_errors
from backends.memory.codes import quantize

__all__ = ["Simulator"]

_CHIPS_KEPT = 16


class Simulator:
    """Stores the weights of every convolution and linear layer of ``network``; biases are held elsewhere, without errors.

    The network is frozen and put into evaluation mode, so that an answer depends on images and chip alone.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network.eval().requires_grad_(False)
        layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        self._stored = {f"{name}.weight" if name else "weight": quantize(m.weight) for name, m in layers.items()}
        self._read: OrderedDict[Chip, dict[str, Tensor]] = OrderedDict()

    def logits(self, images: Tensor, chip: Chip) -> Tensor:
        """Logits (n, classes), on the tape wherever ``images`` are."""
        return functional_call(self._network, self._weights(chip), (images,))  # type: ignore[no-any-return]

    def _weights(self, chip: Chip) -> dict[str, Tensor]:
        if chip not in self._read:
            codes = with_errors(self._stored.values(), chip)
            self._read[chip] = {name: read.weights() for name, read in zip(self._stored, codes, strict=True)}
            if len(self._read) > _CHIPS_KEPT:
                self._read.popitem(last=False)
        self._read.move_to_end(chip)
        return self._read[chip]
