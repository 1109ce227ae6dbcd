"""Ask and tell: a library proposes points in the space of the fuse's parameters, or in a random subspace of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bbfuse.estimators.interface import Method
from bbfuse.estimators.probes import losses_at
from bbfuse.fuse import Fuse
from bbfuse.objective import Step
from bbfuse.seeds import stream

__all__ = ["Searcher"]

Point = NDArray[np.float64]


class Searcher(Method):
    """Every step asks for a fixed number of points, scores them on the same images, tells the losses, and moves the fuse.

    The fuse becomes the library's own estimate of the best point, not the luckiest one asked for. What the library holds is not
    saved: the losses that it was told are, and a loaded searcher is asked and told the same again.
    """

    def __init__(self, fuse: Fuse, subspace: int | None, seed: int, points: int | None) -> None:
        """With ``subspace`` = m the point ``z`` (m,) stands for ``theta_0 + P z``, ``P`` (d, m) normal with variance 1/m.

        So a normal ``z`` moves every parameter by as much as it would without: there ``z`` is ``theta - theta_0`` itself.
        ``theta_0`` are the parameters that the fuse has now.
        """
        self._origin = fuse.vector().clone()
        self._basis: Tensor | None = None
        if subspace is not None and subspace < len(self._origin):
            drawn = torch.randn(len(self._origin), subspace, generator=stream(seed, "subspace"))
            self._basis = drawn.div_(subspace**0.5)
        self.dimensions = len(self._origin) if self._basis is None else int(self._basis.shape[1])
        self.answers_per_image = points or 4 + int(3 * math.log(self.dimensions))
        self._told: list[list[float]] = []

    def ask(self) -> Sequence[Point]:
        """As many points (m,) as `answers_per_image` says."""
        raise NotImplementedError

    def tell(self, points: Sequence[Point], losses: list[float]) -> None:
        """What the points of the last `ask` were worth; smaller is better."""
        raise NotImplementedError

    def best(self) -> Point:
        """The estimate of the best point (m,)."""
        raise NotImplementedError

    def update(self, step: Step, steps: int) -> None:
        """See `bbfuse.estimators.interface.Method`; a point whose score failed counts as the worst of its step."""
        points = self.ask()
        losses = losses_at(step, self._parameters(points))
        known = [loss for loss in losses if loss is not None]
        # where all failed none was better than another, but the library waits for an answer
        told = [max(known, default=0.0) if loss is None else loss for loss in losses]
        self.tell(points, told)
        self._told.append(told)
        if known:
            step.fuse.assign(next(self._parameters([self.best()])))

    def _parameters(self, points: Sequence[Point]) -> Iterator[Tensor]:
        """The fuse's parameters (d,) for each of the points."""
        if self._basis is None:
            for point in points:
                yield self._origin + torch.from_numpy(np.asarray(point, np.float32))
        else:
            # all at once: the basis is far larger than what is made of it
            coordinates = torch.from_numpy(np.stack(points).astype(np.float32))
            yield from self._origin + coordinates @ self._basis.T

    def state_dict(self) -> dict[str, Any]:
        """Where the search began, and all losses told so far."""
        return {"origin": self._origin, "told": [list(losses) for losses in self._told]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `bbfuse.estimators.interface.Method`."""
        self._origin = state["origin"].clone()
        for losses in state["told"]:
            self.tell(self.ask(), losses)
            self._told.append(list(losses))
