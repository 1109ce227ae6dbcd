"""A small target, fuse and loss for reference trajectories, in float64: what the project computes with, and the same in numpy.

The fuse is a colour mix, ``F(x) = clip(x + W x + b, -1, 1)``; the target's logits are ``3 tanh(x A / 6)``, ``A`` by the chip.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.base import NOMINAL, Chip
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from bbfuse.objective.eopm import Term
from bbfuse.objective.step import Probe, Score, Step
from bbfuse.optimizers.base import GradientEstimator, Problem
from tests.helpers.targets import CHIP

Array = NDArray[np.float64]

SHAPE, PIXELS, CLASSES, OWNED, BATCH, PARAMETERS, SEED = (2, 8, 12), 192, 3, 9, 5, 6, 23
PROBLEM = Problem(owned=OWNED, classes=CLASSES, population=False, seed=SEED)
TERMS = [(NOMINAL, 0.7), (CHIP, 1.9)]
SHARES = [0.7 / 2.6, 1.9 / 2.6]
LABELS = np.array([2, 0, 1, 1, 2, 0, 2, 1, 0])
WEIGHTS = np.array([0.4, 1.7, 0.9, 2.6, 1.3, 0.6, 2.1, 1.1, 0.3])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def named(*name: str | int) -> torch.Generator:
    """The stream of that name under `SEED`: the first eight bytes of SHA-256 of the tuple's text, without the lowest bit."""
    digest = hashlib.sha256(repr((SEED, *name)).encode()).hexdigest()
    return torch.Generator().manual_seed(int(digest[:16], 16) // 2)


def fair_signs(rng: torch.Generator, *shape: int) -> Array:
    return np.asarray(np.where(torch.randint(0, 2, shape, generator=rng).numpy() == 1, 1.0, -1.0))


IMAGES: Array = (0.7 * drawn(1, OWNED, *SHAPE)).clamp(-1.0, 1.0).numpy()
START: Array = 0.2 * drawn(2, PARAMETERS).numpy()
MATRICES: dict[Chip, Array] = {NOMINAL: drawn(7, PIXELS, CLASSES).numpy(), CHIP: drawn(8, PIXELS, CLASSES).numpy()}


def owned_in(number: int) -> NDArray[np.int64]:
    """Which images step ``number`` is about: others in each, not in order."""
    return (3 * number + 2 * np.arange(BATCH)) % OWNED


# what the project computes with


def target(images: Tensor, chip: Chip) -> Tensor:
    return 3.0 * torch.tanh(images.flatten(1) @ torch.from_numpy(MATRICES[chip]).to(images.dtype) / 6.0)


class OwnType(Fuse):
    """Directions are drawn in single precision, whatever the parameters are stored in."""

    def add_gradient(self, vector: Tensor) -> None:
        super().add_gradient(vector.to(self.vector().dtype))


def small_fuse(dtype: torch.dtype = torch.float64) -> Fuse:
    fuse = OwnType("Mix", SHAPE, torch.Generator().manual_seed(1)).to(dtype)
    fuse.assign(torch.tensor(START, dtype=dtype))
    return fuse


def rounded(images: Tensor) -> Tensor:
    """Images as a target with seven levels sees them."""
    return (images * 3.0).round() / 3.0


def step_for(
    number: int, fuse: Fuse, lost: Collection[int] = (), flat: bool = False, digits: int | None = None, coarse: bool = False
) -> Step:
    """Step ``number``; the probes whose numbers are in ``lost`` are lost; with ``flat`` all images weigh nothing, ``digits``
    rounds losses, and a ``coarse`` target sees rounded images."""

    def scorer(step: Step, probes: Sequence[Probe]) -> list[Score | None]:
        scores = [score for score in step.scored_here(probes) if score is not None]
        if digits is not None:
            scores = [dataclasses.replace(score, loss=round(score.loss, digits)) for score in scores]
        return [None if place in lost else score for place, score in enumerate(scores)]

    dtype, index = fuse.vector().dtype, owned_in(number)
    weights = torch.from_numpy(WEIGHTS[index]).to(dtype) * (0.0 if flat else 1.0)
    return Step(
        number=number, seed=SEED, fuse=fuse, index=torch.from_numpy(index), images=torch.from_numpy(IMAGES[index]).to(dtype),
        labels=torch.from_numpy(LABELS[index]), weights=weights,
        terms=[Term(chip, Head(), weight) for chip, weight in TERMS], query=target, query_with_gradient=target, scorer=scorer,
        as_received=rounded if coarse else torch.clone,
    )  # fmt: skip


def vectors(
    make: Callable[[Fuse], GradientEstimator], numbers: Sequence[int], steps: int, resume: int | None = None,
    dtype: torch.dtype = torch.float64, gradients: list[Array] | None = None, **unusual: dict[int, Any],
) -> list[Array]:  # fmt: skip
    """The fuse's parameters after each step; before step ``resume`` the method is made anew from its saved state.

    What it estimated is added to ``gradients``. ``unusual`` are arguments of `step_for` by the step's number.
    """
    fuse = small_fuse(dtype)
    method = make(fuse)
    found = []
    for number in numbers:
        if number == resume:
            kept = io.BytesIO()
            torch.save(method.state_dict(), kept)
            kept.seek(0)
            method = make(fuse)
            method.load_state_dict(torch.load(kept, weights_only=True))
        extra = {name: by_step[number] for name, by_step in unusual.items() if number in by_step}
        method.update(step_for(number, fuse, **extra), steps)
        found.append(fuse.vector().double().numpy().copy())
        of_parameters = [p.grad.flatten() for p in fuse.parameters() if p.grad is not None]
        if gradients is not None and of_parameters:
            gradients.append(torch.cat(of_parameters).double().numpy().copy())
    return found


def follows(found: Sequence[Array], expected: Sequence[Array], tolerance: float = 1e-6) -> None:
    """Each step of ``found`` is that of ``expected``, relative to how far its longest component goes."""
    assert len(found) == len(expected)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        reach = np.abs(other - START).max()
        np.testing.assert_allclose(one, other, rtol=0.0, atol=tolerance * max(reach, 1e-9), err_msg=f"update {number}")


def estimated(found: Sequence[Array], expected: Sequence[Array], tolerance: float = 1e-6) -> None:
    """Each estimate of ``found`` is that of ``expected``, in scale too, which an optimizer may not care for."""
    assert len(found) == len(expected) > 0
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(one, other, rtol=0.0, atol=tolerance * np.abs(other).max(), err_msg=f"estimate {number}")


# the same once more, in numpy


def mixed(theta: Array, images: Array) -> Array:
    added: Array = np.einsum("oc,nchw->nohw", theta[:4].reshape(2, 2), images)
    return images + added + theta[4:, None, None]


def inputs(theta: Array, number: int) -> Array:
    """The target's inputs in step ``number``."""
    return np.clip(mixed(theta, IMAGES[owned_in(number)]), -1.0, 1.0)


def carried_back(gradient: Array, theta: Array, number: int) -> Array:
    """The gradient by the parameters of what has ``gradient`` by the target's inputs."""
    images = IMAGES[owned_in(number)]
    inside = gradient.reshape(-1, *SHAPE) * (np.abs(mixed(theta, images)) <= 1.0)
    return np.concatenate([np.einsum("nohw,nchw->oc", inside, images).ravel(), inside.sum((0, 2, 3))])


def logits(z: Array, chip: Chip) -> Array:
    return np.asarray(3.0 * np.tanh(z.reshape(len(z), -1) @ MATRICES[chip] / 6.0))


def sensitivities(z: Array, number: int) -> list[Array]:
    """Of each term: the derivative of the loss by the logits, softmax minus one hot times all weights."""
    index, found = owned_in(number), []
    for (chip, _), share in zip(TERMS, SHARES, strict=True):
        power = np.exp(logits(z, chip))
        found.append(
            (power / power.sum(1, keepdims=True) - np.eye(CLASSES)[LABELS[index]]) * WEIGHTS[index, None] * share / BATCH
        )
    return found


def losses(z: Array, number: int) -> Array:
    """Each image's share of the loss at the target's inputs ``z``."""
    index, total = owned_in(number), np.zeros(BATCH)
    for (chip, _), share in zip(TERMS, SHARES, strict=True):
        answer = logits(z, chip)
        total += share * (np.log(np.exp(answer).sum(1)) - answer[np.arange(BATCH), LABELS[index]])
    return total * WEIGHTS[index] / BATCH


def loss_at(theta: Array, number: int) -> float:
    return float(losses(inputs(theta, number), number).sum())


def falls(lr: float, number: int, steps: int) -> float:
    """On the line from ``lr`` at step 0 to a twentieth of it at step ``steps``."""
    return float(np.interp(number, [0, steps], [lr, lr / 20.0]))


class Adam:
    """Kingma and Ba 2015, Algorithm 1 with its defaults."""

    def __init__(self) -> None:
        self.first, self.second, self.updates = np.zeros(PARAMETERS), np.zeros(PARAMETERS), 0
        self.gradients: list[Array] = []

    def __call__(self, gradient: Array, lr: float) -> Array:
        """What is added to the parameters."""
        self.updates += 1
        self.gradients.append(gradient)
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        unbiased = self.first / (1 - 0.9**self.updates), self.second / (1 - 0.999**self.updates)
        return -lr * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
