"""The simulator in this process, with strict or with relaxed access."""

from __future__ import annotations

import torch
from torch import nn

from backends.base import Access, Backend, BackendInfo, InputError
from backends.kinds.base import BACKENDS, BackendKind, Description, Opening
from backends.memory.declared import differentiable
from backends.registry import shown
from backends.simulated import SimulatedBackend

__all__ = ["Local", "WhiteBox"]


@BACKENDS.register("local")
class Local(BackendKind):
    """The simulator in this process: strict access."""

    @classmethod
    def open(cls, opening: Opening) -> Backend:
        """See `BackendKind`; the target is fitted, or comes from the cache or a file."""
        from backends.targets.fit import fitted

        if opening.device != "cpu" and not torch.cuda.is_available():
            raise InputError(f"`device={opening.device}` is not available here: use cpu")
        data = opening.data
        network = fitted(opening.target, data, trust=opening.trust)
        cls._grants(opening.target, network)
        network = network.to(opening.device)
        memory = opening.memory
        return SimulatedBackend(
            shown(opening.target), network, data.image_shape, data.classes, memory, cls.access, stored=memory is not None
        )  # fmt: skip

    @classmethod
    def describe(cls, opening: Opening) -> Description:
        """See `BackendKind`; no target is fitted."""
        from backends.targets.networks import build

        data = opening.data
        cls._grants(opening.target, build(opening.target, data.image_shape, data.classes, data.form, opening.trust))
        return Description(BackendInfo(opening.target, cls.access, data.image_shape, data.classes))

    @classmethod
    def _grants(cls, target: str, network: nn.Module) -> None:
        if cls.access >= Access.GRADIENTS and not differentiable(network):
            raise InputError(f"`target` {target} is run by onnxruntime, which has no gradients: choose `backend=local`")


@BACKENDS.register("whitebox")
class WhiteBox(Local):
    """The simulator in this process with gradients: relaxed access."""

    access = Access.GRADIENTS
