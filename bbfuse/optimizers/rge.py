"""Random gradient estimation by antithetic pairs, in the space of the parameters or of the target's inputs.

Parameters (Nesterov and Spokoiny 2017, central form): ``g = mean over u of (L(theta + mu u) - L(theta - mu u)) / (2 mu) * u``,
``u`` Rademacher, as SPSA's.

Inputs: each image ``i`` is probed independently at the target's input ``z_i = F(x_i)``, ``u`` Rademacher, and its estimate is
backpropagated through the fuse exactly (as ZO-AE-DS does, Zhang et al., ICLR 2022). Probes stay inside the pixel range:
``z+ = clip(z + mu u)``, ``z- = clip(z - mu u)``, ``d = z+ - z-``, ``g_i = (l_i(z+) - l_i(z-)) / d``. Since the sign of each
``d`` is still fair, clipping leaves the first order unbiased. In a smaller basis of ``m`` dimensions, or along one
coordinate, ``g_i = m (l_i(z+) - l_i(z-)) d / |d|^2``: unbiased for the projection of the gradient if nothing is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from backends.settings import Count, Positive, Rule
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import OPTIMIZERS, GradientEstimator, Problem, adam
from bbfuse.optimizers.directions import Directions
from bbfuse.optimizers.jacobian_memory import JacobianMemory
from bbfuse.optimizers.probes import signs, simultaneous_perturbation
from bbfuse.seeds import stream

__all__ = ["InputProbe", "InputRge", "ParameterRge", "Rge", "RgeConfig"]


@dataclass(frozen=True)
class RgeConfig:
    """Random gradient estimation by antithetic pairs of probes, under Adam."""

    space: Literal["inputs", "parameters"] = "inputs"
    """what is probed: the target's inputs, image by image, or the fuse's parameters"""
    lr: Positive | None = None
    """learning rate at the start, decaying linearly to a twentieth; if not given 0.001 for parameters, for inputs 0.005, or
    0.003 for the population"""
    smoothing: Positive | None = None
    """size of a probe per coordinate; if not given 0.15 for inputs (pixels span 2), 0.01 for parameters"""
    directions: Count = 1
    """pairs of probes per step (inputs: of each image)"""
    basis: Literal["pixels", "coarse", "dct", "coordinates"] = "pixels"
    """inputs: signs in all pixels, in coarse blocks (an eighth of a side), in low frequencies (a quarter), or one pixel"""
    broyden: bool = True
    """inputs: keep a Jacobian for each image and correct it with each pair, instead of a new estimate in every step"""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            lambda c: c.space == "parameters" and not c.broyden,
            "`rge.broyden=False` has no effect with `rge.space=parameters`: drop it",
        ),
        Rule(
            lambda c: c.space == "parameters" and c.basis != "pixels",
            "`rge.basis` has no effect with `rge.space=parameters`: drop it",
        ),
    )


@OPTIMIZERS.register("rge")
class Rge(GradientEstimator):
    """Probes each image at the target's input and corrects a Jacobian kept per image with each pair of probes (Broyden).

    `rge.broyden=False` gives the plain estimate, `rge.space=parameters` probes the fuse's parameters instead.
    """

    Config = RgeConfig

    @classmethod
    def create(cls, settings: Any, problem: Problem, fuse: Fuse) -> GradientEstimator:
        """The estimator for ``settings.space``."""
        return (ParameterRge if settings.space == "parameters" else InputRge)(settings, problem, fuse)

    @classmethod
    def keeps_state_per_image(cls, settings: Any) -> bool:
        """Whether a Jacobian is kept for each image."""
        return bool(settings.space == "inputs" and settings.broyden)


class ParameterRge(Rge):
    """``directions`` pairs of probes per step, two scores each."""

    def __init__(self, config: RgeConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr or 1e-3)
        self._directions = config.directions
        self._size = config.smoothing or 0.01
        self.queries_per_image = 2 * config.directions

    def estimate(self, step: Step) -> None:
        """See `GradientEstimator`; unbiased up to ``O(mu^2)``."""
        gradient = simultaneous_perturbation(step, signs, self._directions, self._size)
        if gradient is not None:
            step.fuse.add_gradient(gradient)


_INPUTS = "inputs of the target"


@dataclass(frozen=True, eq=False)
class InputProbe:
    """The target's inputs ``z + size * u``, clipped; ``u`` is drawn for each image independently, by the number in the step."""

    directions: Directions
    number: int
    size: float
    per_image = True

    def images(self, step: Step) -> Tensor:
        """See `bbfuse.objective.step.Probe`; as the target receives them."""
        made: Tensor = step.once(self, lambda: self._made(step))
        return made

    def prepare(self, step: Step) -> None:
        """See `bbfuse.objective.step.Probe`; its images."""
        self.images(step)

    def _made(self, step: Step) -> Tensor:
        z = step.once(_INPUTS, lambda: _fused(step).detach())
        rng = stream(step.seed, "probe", step.number, self.number)
        u = step.once((_INPUTS, self.number), lambda: self.directions.draw(len(z), rng))
        return step.as_received((z + self.size * u).clamp(-1.0, 1.0))


def _fused(step: Step) -> Tensor:
    """The target's inputs, differentiable in every process: without gradient they may be rounded differently."""
    with torch.enable_grad():
        made: Tensor = step.fuse(step.images)
    return made


class InputRge(Rge):
    """``directions`` pairs of probes per image and step; with ``broyden`` Jacobians are kept and corrected."""

    def __init__(self, config: RgeConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr or (3e-3 if problem.population else 5e-3))
        self._pairs = config.directions
        self._size = config.smoothing or 0.15
        self._plain = config.basis == "pixels"
        self._directions = Directions(config.basis, fuse.image_shape)
        self._memory: JacobianMemory | None = None
        if self.keeps_state_per_image(config):
            self._memory = JacobianMemory(problem, self._directions.dimensions)
        self.queries_per_image = 2 * config.directions

    def estimate(self, step: Step) -> None:
        """See `GradientEstimator`.

        Without memory unbiased up to ``O(mu^2)``; with memory the estimate tends to the gradient as probes accumulate.
        """
        fused = _fused(step)
        z = step.once(_INPUTS, fused.detach)
        probes = [InputProbe(self._directions, pair, sign * self._size) for pair in range(self._pairs) for sign in (1.0, -1.0)]
        scores = step.scores(probes)
        found = []
        for up, down, plus, minus in zip(probes[::2], probes[1::2], scores[::2], scores[1::2], strict=True):
            if plus is None or minus is None:
                continue
            above, below = up.images(step), down.images(step)
            d = above - below
            if self._memory is None:
                change = (plus.losses - minus.losses)[:, None, None, None]
                if self._plain:
                    # a pixel that rounding did not change gives no information
                    found.append(torch.where(d == 0.0, 0.0, change / d))
                else:
                    length = d.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
                    found.append(self._directions.dimensions * change * d / length)
            else:
                change = plus.logits - minus.logits
                unexplained = change - self._explained(above, below, plus.logits, minus.logits)
                self._memory.correct(step.index, self._directions.analyse(d), unexplained)
                sensitivity = (plus.sensitivity + minus.sensitivity) / 2.0
                from_memory = self._directions.synthesise(self._memory.pull_back(step.index, sensitivity))
                found.append(from_memory + self._carried(z, sensitivity))
        if found:
            fused.backward(torch.stack(found).mean(0))

    def _explained(self, above: Tensor, below: Tensor, plus: Tensor, minus: Tensor) -> Tensor | float:
        """The part (n, classes) of the change from ``minus`` to ``plus`` (t, n, classes) that a prior predicts."""
        return 0.0

    def _carried(self, z: Tensor, sensitivity: Tensor) -> Tensor | float:
        """The prior's part of the gradient at ``z``, for ``sensitivity`` (t, n, classes)."""
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """The optimizer and the Jacobians."""
        return {**super().state_dict(), "memory": None if self._memory is None else self._memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Optimizer`."""
        super().load_state_dict(state)
        if self._memory is not None:
            self._memory.load_state_dict(state["memory"])
