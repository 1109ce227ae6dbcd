"""A Jacobian for each owned image, corrected by each pair of probes: K logits give K numbers per response, the loss only one.

The target's Jacobian at image ``i`` is modelled as ``J_i = S + M_i``, ``S`` shared by all images. A pair of probes that moved
the input by ``d`` and the logits by ``y`` corrects it along ``d`` alone (Broyden 1965, "good" method; Kaczmarz' projection):
``J_i += U``, ``U = (y - J_i d) d^T / |d|^2``, of which ``0.3 * mean over the batch of U`` goes to ``S``. The loss is known as a
function of the logits, so its gradient at the input is ``J_i^T s``, ``s`` the exact sensitivity of the loss to the logits.

All terms of the objective, and for the population all chips, share one memory, which approximates the mean Jacobian.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from backends.base import InputError
from bbfuse.optimizers.base import Problem

__all__ = ["JacobianMemory"]

_SHARED_RATE = 0.3
_LARGEST_BYTES = 2 << 30


class JacobianMemory:
    """``owned * classes * dimensions`` float32 numbers, ``dimensions`` of the basis in which inputs are probed."""

    def __init__(self, problem: Problem, dimensions: int) -> None:
        """All Jacobians start at zero.

        Raises:
            InputError: they would take more than 2 GiB.
        """
        shape = (problem.owned, problem.classes, dimensions)
        size = 4 * math.prod(shape)
        if size > _LARGEST_BYTES:
            raise InputError(
                f"one Jacobian for each of {problem.owned} images takes {size / 2**30:.1f} GiB, more than 2: "
                "choose `rge.basis=coarse`, fewer `images`, or `rge.broyden=False`"
            )
        self._own = torch.zeros(shape)
        self._shared = torch.zeros(shape[1:])

    def correct(self, index: Tensor, moved: Tensor, change: Tensor) -> None:
        """Correct with images ``index`` (n,), moved by ``moved`` (n, dimensions), and their changes of logits (t, n, classes)."""
        error = change.mean(0) - torch.einsum("nkd,nd->nk", self._jacobians(index), moved)
        direction = moved / moved.square().sum(1, keepdim=True).clamp_min(1e-12)
        update = torch.einsum("nk,nd->nkd", error, direction)
        shared = _SHARED_RATE * update.mean(0)
        self._shared += shared
        self._own[index] += update - shared

    def pull_back(self, index: Tensor, sensitivity: Tensor) -> Tensor:
        """``J_i^T sum over terms of s_i`` (n, dimensions) for ``sensitivity`` (t, n, classes)."""
        return torch.einsum("nk,nkd->nd", sensitivity.sum(0), self._jacobians(index))

    def _jacobians(self, index: Tensor) -> Tensor:
        return self._own[index] + self._shared

    def state_dict(self) -> dict[str, Any]:
        """The Jacobians."""
        return {"own": self._own, "shared": self._shared}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._own, self._shared = state["own"].clone(), state["shared"].clone()
