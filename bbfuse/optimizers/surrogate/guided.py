"""Input probes with a surrogate as control variate: the memory has to learn only what the surrogate does not predict.

The target's Jacobian at image ``i`` is modelled as ``w J_s(z_i) + S + M_i``: the surrogate's Jacobian times a weight, and a
Broyden memory of the rest. A pair of probes changes the target's logits by ``y`` and the surrogate's by ``p``; the memory is
corrected with ``y - w p``. ``w = <y, p> / <p, p>`` over the last pairs, clipped to [0, 1], is the least-squares weight: it is
zero where the surrogate is wrong, which leaves the estimate without it (P-RGF, Cheng et al. 2019, sets its weight from an
estimated cosine instead). The surrogate is trained on every response to a probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from backends.datasets.base import Split
from backends.settings import Count, Positive
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import OPTIMIZERS, Problem
from bbfuse.optimizers.rge import InputRge
from bbfuse.optimizers.surrogate.network import Surrogate, SurrogateConfig
from bbfuse.querying.responses import QueryFn, Responses

__all__ = ["Guided", "GuidedConfig"]


@dataclass(frozen=True)
class GuidedConfig:
    """rge with the surrogate's Jacobian, weighted by how well it predicts probes, before the memory's correction."""

    lr: Positive | None = None
    """learning rate, as for rge"""
    smoothing: Positive | None = None
    """size of a probe per pixel, as for rge"""
    directions: Count = 1
    """pairs of probes per step and image"""
    basis: Literal["pixels", "coarse", "dct", "coordinates"] = "pixels"
    """basis of directions, as for rge"""


_MEMORY = 0.95


@OPTIMIZERS.register("guided")
class Guided(InputRge):
    """rge with the surrogate's gradient as a prior, weighted by agreement with measured differences.

    `InputRge` with memory and prior; ``trust`` is the share of the probes' variance that ``w p`` explains.
    """

    Config: ClassVar[type[Any]] = GuidedConfig
    uses_surrogate = True

    @classmethod
    def keeps_state_per_image(cls, settings: Any) -> bool:
        """Always."""
        return True

    @classmethod
    def create(cls, settings: Any, problem: Problem, fuse: Fuse) -> Guided:
        """See `Optimizer`."""
        return cls(settings, problem, fuse)

    def __init__(self, config: Any, problem: Problem, fuse: Fuse) -> None:
        super().__init__(config, problem, fuse)
        self._surrogate = Surrogate(problem.surrogate or SurrogateConfig(), fuse.image_shape, problem.classes, problem.seed)
        self._products = torch.zeros(3, dtype=torch.float64)

    @property
    def trust(self) -> float:  # type: ignore[override]
        """Squared correlation of predicted and measured changes, 0 if it is negative."""
        product, predicted, measured = self._products.tolist()
        return max(product, 0.0) ** 2 / (predicted * measured) if predicted * measured > 0.0 else 0.0

    @property
    def weight(self) -> float:
        """``w``."""
        product, predicted, _ = self._products.tolist()
        return min(max(product / predicted, 0.0), 1.0) if predicted > 0.0 else 0.0

    def prepare(self, owned: Split, received: Sequence[Responses], query: QueryFn) -> None:
        """See `Optimizer`."""
        self._surrogate.prepare(owned, received)

    def _explained(self, above: Tensor, below: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
        with torch.no_grad():
            p = self._surrogate.logits(above) - self._surrogate.logits(below)
        y = (plus - minus).mean(0)
        now = torch.stack([(y * p).sum(), (p * p).sum(), (y * y).sum()]).double()
        self._products = _MEMORY * self._products + now
        explained = self.weight * p
        self._surrogate.learn(torch.cat([above, below]), torch.cat([plus.mean(0), minus.mean(0)]))
        return explained

    def _carried(self, z: Tensor, sensitivity: Tensor) -> Tensor:
        at = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self._surrogate.logits(at), at, sensitivity.sum(0))
        return self.weight * gradient

    def state_dict(self) -> dict[str, Any]:
        """The optimizer, the Jacobians, the surrogate and the sums for its weight."""
        return {**super().state_dict(), "surrogate": self._surrogate.state_dict(), "products": self._products}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Optimizer`."""
        super().load_state_dict(state)
        self._surrogate.load_state_dict(state["surrogate"])
        self._products = state["products"].clone()
