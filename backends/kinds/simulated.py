"""The simulator in this process, with strict or with relaxed access."""

from __future__ import annotations

import torch

from backends.base import Access, Backend, BackendInfo, InputError
from backends.kinds.base import BACKENDS, BackendKind, Description, Opening
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
        network = fitted(opening.target, data).to(opening.device)
        return SimulatedBackend(opening.target, network, data.image_shape, data.classes, opening.memory, cls.access)

    @classmethod
    def describe(cls, opening: Opening) -> Description:
        """See `BackendKind`; no target is fitted."""
        from backends.targets.networks import build

        data = opening.data
        build(opening.target, data.image_shape, data.classes)
        return Description(BackendInfo(opening.target, cls.access, data.image_shape, data.classes))


@BACKENDS.register("whitebox")
class WhiteBox(Local):
    """The simulator in this process with gradients: relaxed access."""

    access = Access.GRADIENTS
