"""The stages of training: small fuses first, each grown into the next without changing its output.

1. With `warm_up` = N a colour mix, found by CMA-ES with a full covariance of its few parameters, for N images.
2. With `grow` = NAME the generator NAME, by the run's optimizer, until a tenth of the steps has a mean training loss less than
   2 % below that of the tenth before, at the latest after half of the steps. These losses come from the probes: no extra query.
3. `generator`, to the end.

A stage adds its generator to the fuse, and the whole fuse is trained. It has a new optimizer for these parameters, which counts
its own steps, decays its learning rate over the remaining steps, and has its own random streams.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backends.base import InputError
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.generators.base import GENERATORS, Shape
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import OPTIMIZERS, Optimizer, Problem
from bbfuse.optimizers.cma import CmaConfig
from bbfuse.seeds import stream

__all__ = ["Stage", "Stages", "no_longer_improves", "stages"]

_SMALLEST_GAIN = 0.02
_WARM_UP = CmaConfig(subspace=100, sigma=0.05)  # a mix has at most 12 parameters where images have three channels


@dataclass(frozen=True)
class Stage:
    """The generator that a stage adds to the fuse, and the optimizer that trains the fuse from then on."""

    generator: str
    optimizer: str
    """a name of `OPTIMIZERS`"""
    settings: Any
    """those of the optimizer"""


def stages(config: RunConfig) -> list[Stage]:
    """The stages of ``config`` in order; one stage without `warm_up` and `grow`.

    Raises:
        InputError: there is no generator called `grow`.
    """
    if config.grow is not None and config.grow not in GENERATORS and ":" not in config.grow:
        raise InputError(f"`grow` must be one of {', '.join(GENERATORS)}, or module:attribute, got {config.grow}")
    settings = config.settings_of("optimizer")
    grown = [name for name in (config.grow, config.generator) if name is not None]
    warm_up = [Stage("Mix", "cma", _WARM_UP)] if config.warm_up else []
    return warm_up + [Stage(name, config.optimizer, settings) for name in grown]


def no_longer_improves(losses: Sequence[float], window: int) -> bool:
    """Whether the mean of the last ``window`` losses is not 2 % below that of the window before; false within a window."""
    if window == 0 or len(losses) % window or len(losses) < 2 * window:
        return False
    return sum(losses[-window:]) > (1.0 - _SMALLEST_GAIN) * sum(losses[-2 * window : -window])


class Stages:
    """The fuse and the optimizer of the present stage, and when the next stage begins."""

    def __init__(
        self, config: RunConfig, problem: Problem, image_shape: Shape, images: Tensor, start: dict[str, Tensor] | None = None
    ) -> None:
        """Begin with the first stage; the owned ``images`` (n, channels, height, width) calibrate each generator.

        ``start`` is the state dict of a trained fuse for a warm start.

        Raises:
            InputError: a generator does not exist, or the first one does not fit the images.
        """
        self._stages = stages(config)
        self._root = problem
        self._images = images
        self._warm_up = bool(config.warm_up)
        self._number = 0
        self._losses: list[float] = []
        self.begun = 0
        """The step of the run that is the first of this stage."""
        self.fuse = Fuse(self._stages[0].generator, image_shape, stream(problem.seed, "fuse")).to(images.device)
        if start is None:
            self.fuse.calibrate(images)
        else:
            self.fuse.load_state_dict(start)
        self.optimizer = self._made(self._stages[0], self.fuse)

    def optimizers(self) -> list[Optimizer]:
        """The optimizer of every stage in order, for planning: those of later stages are made for a grown copy of the fuse.

        Raises:
            InputError: a generator does not exist, does not fit the images, or is not larger than the one before it.
        """
        made, trial = [self.optimizer], copy.deepcopy(self.fuse)
        for stage in self._stages[1:]:
            trial.grow(stage.generator, torch.Generator())
            made.append(self._made(stage, trial))
            small, large = (sum(p.numel() for p in part.parameters()) for part in trial.generators[-2:])
            if small >= large:
                names = " to ".join(trial.name.split("+")[-2:])
                raise InputError(f"a fuse grows from small to large, not from {names} ({small} to {large} parameters): "
                                 "choose another `generator` or `grow`, or drop `grow` or `warm_up`")  # fmt: skip
        return made

    def restart(self) -> None:
        """Make a new optimizer, which starts from the present parameters of the fuse."""
        self.optimizer = self._made(self._stages[self._number], self.fuse)

    @property
    def seed(self) -> int:
        """The root of this stage's random streams; the run's own for the first."""
        root = self._root.seed
        return stream(root, "stage", self._number).initial_seed() if self._number else root

    @property
    def grown_at_step(self) -> int | None:
        """The step before which `generator` was added to a smaller fuse; ``None`` until then."""
        return self.begun if self._is_last and self._number else None

    @property
    def _is_last(self) -> bool:
        return self._number + 1 == len(self._stages)

    def observe(self, loss: float | None) -> None:
        """Record the training loss of a step, ``None`` if no query was sent."""
        if loss is not None and not self._is_last:
            self._losses.append(loss)

    def advance(self, step: int, steps: int, warm_up: int) -> bool:
        """Begin the next stage if it is due before step ``step`` of ``steps``, ``warm_up`` of them for the warm-up."""
        if self._is_last:
            return False
        done, left = step - self.begun, steps - warm_up
        if self._warm_up and self._number == 0:
            due = done == warm_up
        else:
            due = 2 * done >= left or no_longer_improves(self._losses, left // 10)
        if due:
            self._grow()
            self.begun, self._losses = step, []
        return due

    def _grow(self) -> None:
        self._number += 1
        stage = self._stages[self._number]
        self.fuse.grow(stage.generator, stream(self.seed, "fuse"))
        self.fuse.to(self._images.device).calibrate(self._images)
        self.optimizer = self._made(stage, self.fuse)

    def _made(self, stage: Stage, fuse: Fuse) -> Optimizer:
        problem = dataclasses.replace(self._root, seed=self.seed)
        return OPTIMIZERS[stage.optimizer].create(stage.settings, problem, fuse)

    def state_dict(self) -> dict[str, Any]:
        """The stage, and the states of fuse and optimizer."""
        return {
            "number": self._number, "begun": self.begun, "losses": list(self._losses),
            "fuse": self.fuse.state_dict(), "method": self.optimizer.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`, beginning from the first stage."""
        while self._number < state["number"]:
            self._grow()
        self.begun, self._losses = state["begun"], list(state["losses"])
        self.fuse.load_state_dict(state["fuse"])
        self.optimizer.load_state_dict(state["method"])
