"""The fuse: ``F(x) = clip(x + G(x), -1, 1)`` (NeuralFuse, Eq. 1), G a small generator that starts at zero, or several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from backends.base import InputError, raised
from bbfuse.fuse.generators.base import GENERATORS, Generator, Shape

__all__ = ["Fuse"]

_CALIBRATION_BATCH = 256
_MOMENTUM = 0.1


class Fuse(nn.Module):
    """Generators and the clipped sum around them. A new one changes nothing: its last layer starts at zero.

    Batch normalisation uses its stored statistics, so that the output for an image does not depend on the batch, and probes
    change no statistics. `calibrate` sets them from owned images before the training; `differentiable`, for gradients through
    the fuse, updates them.
    """

    def __init__(self, generator: str, image_shape: Shape, rng: torch.Generator) -> None:
        """Build the generator called ``generator``, or all of a sum such as ``Filter+MLP``, with weights drawn from ``rng``.

        Raises:
            InputError: no generator has that name, or it does not fit the image shape.
        """
        super().__init__()
        self.image_shape = image_shape
        self.generators = nn.ModuleList()
        self._names: list[str] = []
        for name in generator.split("+"):
            self.grow(name, rng)

    @property
    def name(self) -> str:
        """The names of its generators, as the constructor takes them."""
        return "+".join(self._names)

    def grow(self, generator: str, rng: torch.Generator) -> None:
        """Add one more generator to the sum. The output of the fuse stays the same, bit for bit.

        The new parameters come after the present ones. The new normalisations have yet to be calibrated.

        Raises:
            InputError: no generator has that name, or it does not fit the image shape.
        """
        make = GENERATORS[generator]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
            added = _made(make, generator, self.image_shape)
        last = [layer for layer in added.modules() if _weighs(layer)][-1]
        nn.init.zeros_(last.get_parameter("weight"))
        nn.init.zeros_(last.get_parameter("bias"))
        self.generators.append(added)
        self._names.append(generator)
        self.eval()

    @classmethod
    def load(cls, path: Path) -> Fuse:
        """The fuse in the file ``path``, a run's ``fuse.pt``."""
        return cls.of(torch.load(path, weights_only=True))

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Fuse:
        """The fuse of ``saved``, the content of a ``fuse.pt``: ``generator``, ``image_shape`` and the state dict ``fuse``."""
        fuse = cls(saved["generator"], tuple(saved["image_shape"]), torch.Generator())
        fuse.load_state_dict(saved["fuse"])
        return fuse

    def calibrate(self, images: Tensor) -> None:
        """Set the statistics of batch normalisation to those over ``images`` (n, *image_shape), layer by layer.

        Statistics that were set before stay, so that a grown fuse keeps what it was trained to.
        """
        norms = [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and not m.num_batches_tracked]
        for norm in norms:
            norm.momentum = None  # the mean over all batches, not a moving one
            norm.train()
        with torch.no_grad():
            for part in images.split(_CALIBRATION_BATCH) if norms else ():
                self(part)
        for norm in norms:
            norm.momentum = _MOMENTUM
        self.eval()

    def differentiable(self, images: Tensor) -> Tensor:
        """``F(images)`` for taking a gradient, not for scores: batch normalisation uses the statistics of these images and moves
        the stored ones a tenth of the way to them, as in NeuralFuse's training."""
        self.train(len(images) > 1)  # the variance of one image may be zero
        fused: Tensor = self(images)
        self.eval()
        return fused

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, *image_shape) in [-1, 1], to the same."""
        fused = images
        for generator in self.generators:
            fused = fused + generator(images)
        return fused.clamp(-1.0, 1.0)

    def vector(self) -> Tensor:
        """All parameters as one detached vector (d,)."""
        return parameters_to_vector(self.parameters()).detach()

    def assign(self, vector: Tensor) -> None:
        """Make ``vector`` (d,) the parameters."""
        vector_to_parameters(vector, self.parameters())

    def at(self, vector: Tensor, images: Tensor) -> Tensor:
        """``F(images)`` with ``vector`` (d,) in place of the fuse's own parameters, which stay unchanged."""
        return functional_call(self, self.unflatten(vector), (images,))  # type: ignore[no-any-return]

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """``vector`` (d,) cut into tensors by parameter name."""
        named = list(self.named_parameters())
        pieces = vector.split([p.numel() for _, p in named])
        return {name: piece.view_as(p) for (name, p), piece in zip(named, pieces, strict=True)}

    def add_gradient(self, vector: Tensor) -> None:
        """Add ``vector`` (d,) to the parameters' gradients."""
        for p, piece in zip(self.parameters(), self.unflatten(vector).values(), strict=True):
            p.grad = piece.clone() if p.grad is None else p.grad + piece


def _made(make: Generator, name: str, shape: Shape) -> nn.Module:
    """The network that ``make``, the generator called ``name``, makes for ``shape``.

    Raises:
        InputError: it makes none, or one that cannot be added to inputs of that shape or that has no parameters.
    """
    try:
        network = make(shape)
        if not isinstance(network, nn.Module) or not any(map(_weighs, network.modules())):
            raise TypeError(f"got {type(network).__name__} without a layer with weight and bias")
        with torch.no_grad():
            found = tuple(network.eval()(torch.zeros(2, *shape)).shape[1:])
        if found != shape:
            raise TypeError(f"got outputs {found}")
    except InputError:
        raise
    except Exception as error:  # a function of others may raise anything
        words = raised(error)
        raise InputError(
            f"`generator` {name} must make a network from {shape} to {shape}, as a function of that shape: {words}"
        ) from error
    return network


def _weighs(layer: nn.Module) -> bool:
    """Whether ``layer`` has a weight and a bias of its own, both trained."""
    own = dict(layer.named_parameters(recurse=False))
    return {"weight", "bias"} <= own.keys()
