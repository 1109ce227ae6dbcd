"""Ask and tell: a library proposes points in the space of the fuse's parameters, or in a random subspace of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import Optimizer
from bbfuse.optimizers.probes import losses_of
from bbfuse.seeds import stream

__all__ = ["AskAndTell", "PointProbe", "Space", "Subspace"]

Point = NDArray[np.float64]


@dataclass(frozen=True)
class Subspace:
    """``dimensions`` directions among ``parameters``, normal with variance ``1 / dimensions``, drawn from ``seed``."""

    parameters: int
    dimensions: int
    seed: int

    @property
    def basis(self) -> Tensor:
        """``P`` (parameters, dimensions)."""
        return _basis(self)


@functools.lru_cache(maxsize=1)  # expensive to draw, and the same in every step
def _basis(subspace: Subspace) -> Tensor:
    rng = stream(subspace.seed, "subspace")
    return torch.randn(subspace.parameters, subspace.dimensions, generator=rng).div_(subspace.dimensions**0.5)


@dataclass(frozen=True, eq=False)
class Space:
    """Points by their coordinates (k, m), and the parameters that they map to."""

    origin: Tensor
    coordinates: Tensor
    subspace: Subspace | None

    def point(self, number: int, step: Step | None = None) -> Tensor:
        """The fuse's parameters (d,) at that point; what the points of a ``step`` share is computed once."""
        if self.subspace is None:
            return self.origin + self.coordinates[number]
        # all at once: the basis is large, and a product of fewer rows may round differently
        points: Tensor = step.once(self, self._points) if step is not None else self._points()
        return points[number]

    def _points(self) -> Tensor:
        assert self.subspace is not None
        return self.origin + self.coordinates @ self.subspace.basis.T


@dataclass(frozen=True, eq=False)
class PointProbe:
    """The output of the fuse at point ``number`` for the step's images."""

    space: Space
    number: int
    per_image = False

    def images(self, step: Step) -> Tensor:
        """See `bbfuse.objective.step.Probe`."""
        return step.fuse.at(self.space.point(self.number, step), step.images)

    def prepare(self, step: Step) -> None:
        """See `bbfuse.objective.step.Probe`; nothing."""


class AskAndTell(Optimizer):
    """Each step asks the library for a fixed number of points, scores them on the same images, and tells it their losses.

    The fuse becomes the library's estimate of the best point, not the point with the smallest loss. The state of the library is
    not saved: the losses are, and loading replays all calls of ask and tell.
    """

    def __init__(self, fuse: Fuse, subspace: int | None, seed: int, points: int | None) -> None:
        """With ``subspace`` = m the point ``z`` (m,) maps to ``theta_0 + P z``, ``P`` (d, m) normal with variance 1/m.

        A normal ``z`` then changes every parameter as much as without a subspace, where ``z`` is ``theta - theta_0``.
        ``theta_0`` are the present parameters of the fuse.
        """
        self._origin = fuse.vector().clone()
        self._subspace = None
        if subspace is not None and subspace < len(self._origin):
            self._subspace = Subspace(len(self._origin), subspace, seed)
        self.dimensions = len(self._origin) if self._subspace is None else self._subspace.dimensions
        self.queries_per_image = points or 4 + int(3 * math.log(self.dimensions))
        self._losses: list[list[float]] = []

    def ask(self) -> Sequence[Point]:
        """As many points (m,) as `queries_per_image`."""
        raise NotImplementedError

    def tell(self, points: Sequence[Point], losses: list[float]) -> None:
        """The losses of the points of the last `ask`."""
        raise NotImplementedError

    def best(self) -> Point:
        """The estimate of the best point (m,)."""
        raise NotImplementedError

    def update(self, step: Step, steps: int) -> None:
        """See `Optimizer`; a point whose score failed counts as the worst of its step."""
        points = self.ask()
        space = self._space(points)
        losses = losses_of(step, [PointProbe(space, number) for number in range(len(points))])
        known = [loss for loss in losses if loss is not None]
        # if all failed, all get the same loss, since the library needs one
        reported = [max(known, default=0.0) if loss is None else loss for loss in losses]
        self.tell(points, reported)
        self._losses.append(reported)
        if known:
            step.fuse.assign(self._space([self.best()]).point(0))

    def _space(self, points: Sequence[Point]) -> Space:
        coordinates = torch.from_numpy(np.stack(points).astype(np.float32)).to(self._origin.device)
        return Space(self._origin, coordinates, self._subspace)

    def state_dict(self) -> dict[str, Any]:
        """The origin of the search, and all losses so far."""
        return {"origin": self._origin, "told": [list(losses) for losses in self._losses]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Optimizer`."""
        self._origin = state["origin"].clone()
        for losses in state["told"]:
            self.tell(self.ask(), losses)
            self._losses.append(list(losses))
