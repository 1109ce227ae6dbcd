"""Training for tolerance of bit errors: quantization-aware, with clipped weights, with injected bit errors (Stutz et al., MLSys
2021).

The network never computes with the float weights that the optimizer moves: a step stores them as codes, with ranges of their own,
and takes the gradient at the weights that are read back (straight through the rounding), once without errors and, with
`Hardening.rate` or `Hardening.flips`, once more with the errors of a chip or of an attack. The scale of a normalisation is
stored, clipped, decayed and moved as its distance from 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.base import Chip, InputError
from backends.memory.attacks import search as attacks
from backends.memory.config import Quantization
from backends.memory.encoding import Patterns, Stored, store
from backends.memory.faults import independent as chips
from backends.memory.simulator import scales, stored_tensors

__all__ = ["Hardened", "Hardening", "without_unused"]

_CHIPS = 30_000  # training chips have seeds below this (bbfuse.seeds)
_CLAMP = 0.05
_ATTACK = 3  # gradients of the attack in a step of AdvBET


@dataclass(frozen=True)
class Hardening:
    """How a step of fitting changes the weights before it takes the gradient."""

    quantization: Quantization | None = None
    """codes that the weights are stored as, ranges from the weights of each step; float weights if not given"""
    stored: Literal["weights", "parameters"] = "parameters"
    """what is stored and clipped: weights of convolutions and linear layers, or all parameters"""
    clip: float | None = None
    """largest absolute value of what is stored, held after each step"""
    rate: float | None = None
    """bit error rate of RandBET: a second gradient of the same batch, on a chip, joins the first"""
    flips: int | None = None
    """bits that an attack on each batch flips in place of a chip (AdvBET), at most one a weight"""
    pattern: int | None = None
    """seed of one chip used in all steps (fixed-pattern training); a fresh chip each step if not given"""
    start: float = 1.75
    """errors are injected from the step on at which the loss without them is first below this"""
    gradients: Literal["sum", "mean"] = "sum"
    """how the two gradients join: their sum (the paper's algorithm 1), or the mean of the first and the second clamped to
    +-0.05 (its code)"""
    sharpness: float | None = None
    """sharpness-aware quantization (SAQ, 2111.12273, its code's third form): the gradient is taken not at the weights as they are
    read, but so far up the gradient from there, in one Euclidean norm over all that is stored; it takes a second pass"""

    def __repr__(self) -> str:
        return without_unused(self, ("flips", "sharpness"))

    def __post_init__(self) -> None:
        if self.sharpness is not None and not self.sharpness > 0:
            raise InputError(f"`sharpness` must be greater than 0, got {self.sharpness}")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"`clip` must be greater than 0, got {self.clip}")
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise InputError(f"`randbet` must lie in [0, 1], got {self.rate}")
        if self.rate is not None and self.quantization is None:
            raise InputError("`randbet` flips bits of codes and needs `quantization`: give both")
        if self.flips is not None and (self.flips < 1 or self.rate is not None or self.quantization is None):
            raise InputError("`advbet` must be 1 or more, with `quantization` and without `randbet`, got " + str(self.flips))
        if self.pattern is not None and self.rate is None:
            raise InputError("`pattern` names the chip of `randbet`: give both or none")


def without_unused(settings: Any, options: Sequence[str]) -> str:
    """The dataclass ``settings`` as text, without those of ``options`` that have their defaults, so that a new option does not
    change the keys of the cache."""
    shown = [
        field.name for field in fields(settings) if field.name not in options or getattr(settings, field.name) != field.default
    ]
    return f"{type(settings).__name__}({', '.join(f'{name}={getattr(settings, name)!r}' for name in shown)})"


class Hardened:
    """``network`` during a fit with ``hardening``; until `finish` its scales are stored as distances from 1."""

    def __init__(self, network: nn.Module, hardening: Hardening, seed: int = 0) -> None:
        self._hardening = hardening
        self._parameters = list(network.parameters())
        self.tensors = stored_tensors(network, hardening.stored)
        """The stored tensors of the network, by name."""
        self._scales = scales(network) & self.tensors.keys()
        # a stream of its own: the batches are the same with errors and without
        self._chips = torch.Generator().manual_seed(seed)
        self._injects = False
        self._shift(-1.0)
        self.clip()

    def backward(self, loss: Callable[[], Tensor]) -> None:
        """Add the gradient of one step on the batch of ``loss`` to the ``grad`` of the parameters."""
        settings = self._hardening
        stored = None if settings.quantization is None else store(self.tensors, settings.quantization)
        with self.reading(stored):
            clean = loss()
            clean.backward()
        if settings.sharpness is not None:
            self._climb(loss, stored, settings.sharpness)
        self._injects = self._injects or clean.item() < settings.start
        if stored is None or (settings.rate is None and settings.flips is None) or not self._injects:
            return
        patterns = self._with_errors(stored, loss)
        if settings.gradients == "sum":
            with self.reading(stored, patterns):
                loss().backward()
            return
        first = [(parameter, parameter.grad) for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        with self.reading(stored, patterns):
            loss().backward()
        for parameter, gradient in first:
            if gradient is not None and parameter.grad is not None:
                parameter.grad.clamp_(-_CLAMP, _CLAMP).add_(gradient).div_(2)

    def _with_errors(self, stored: Stored, loss: Callable[[], Tensor]) -> Patterns:
        """The patterns that a chip reads, or those of an attack on the batch of ``loss``."""
        settings = self._hardening
        if settings.flips is not None:
            return attacks.projected(
                stored, lambda patterns: self._gradient(stored, patterns, loss), settings.flips, _ATTACK, (1.0,)
            )
        assert settings.rate is not None
        seed = int(torch.randint(_CHIPS, (), generator=self._chips)) if settings.pattern is None else settings.pattern
        patterns = stored.patterns.copy()
        chips.random_flips(stored, patterns, Chip(settings.rate, seed))
        return patterns

    def _gradient(
        self, stored: Stored, patterns: Patterns, loss: Callable[[], Tensor]
    ) -> tuple[float, NDArray[np.float32]]:  # fmt: skip
        with self.reading(stored, patterns):
            value = loss()
            slopes = torch.autograd.grad(value, list(self.tensors.values()))
        return value.item(), torch.cat([slope.flatten() for slope in slopes]).float().cpu().numpy()

    def _climb(self, loss: Callable[[], Tensor], stored: Stored | None, length: float) -> None:
        """Take the gradient again at weights moved by ``length`` along the gradient."""
        uphill = {name: tensor.grad for name, tensor in self.tensors.items() if tensor.grad is not None}
        norm = torch.stack([gradient.square().sum() for gradient in uphill.values()]).sum().sqrt()
        for parameter in self._parameters:
            parameter.grad = None
        with self.reading(stored):
            with torch.no_grad():
                for name, gradient in uphill.items():
                    self.tensors[name].add_(gradient, alpha=length / (norm.item() + 1e-12))
            loss().backward()

    @contextlib.contextmanager
    def reading(self, stored: Stored | None, patterns: Patterns | None = None) -> Iterator[None]:
        """Within the block the network has the weights of ``patterns`` (the written ones, if not given); its own if ``stored`` is
        ``None``."""
        kept = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        read = kept if stored is None else stored.tensors(patterns, next(iter(kept.values())).device)
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(read[name])
        self._shift(1.0)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self.tensors.items():
                    tensor.copy_(kept[name])

    @torch.no_grad()
    def clip(self) -> None:
        """Clip the stored tensors to ``[-clip, clip]``."""
        if self._hardening.clip is not None:
            for tensor in self.tensors.values():
                tensor.clamp_(-self._hardening.clip, self._hardening.clip)

    def finish(self) -> None:
        """Turn distances back into scales."""
        self._shift(1.0)

    @torch.no_grad()
    def _shift(self, by: float) -> None:
        for name in self._scales:
            self.tensors[name] += by
