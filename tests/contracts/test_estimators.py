"""Every estimator of a gradient against autograd, in direction and in scale."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL
from bbfuse.objective.step import Step
from bbfuse.optimizers.backprop import Backprop, BackpropConfig
from bbfuse.optimizers.base import GradientEstimator
from bbfuse.optimizers.directions import BASES, Directions
from bbfuse.optimizers.rge import InputRge, RgeConfig
from tests.helpers.references.methods import PROBLEM, VARIANTS, make
from tests.helpers.targets import CHIP, StepMaker

UNBIASED = [name for name in VARIANTS if name.startswith(("spsa", "rge")) and not name.endswith(("broyden", "coarse"))]


def gradient(estimator: GradientEstimator, step: Step) -> Tensor:
    estimator.estimate(step)
    return torch.cat([p.grad.flatten() for p in step.fuse.parameters() if p.grad is not None])


def truth_of(step: Step) -> Tensor:
    return gradient(Backprop(BackpropConfig(), PROBLEM, step.fuse), step)


@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_over_many_directions_is_the_gradient_in_direction_and_scale(name: str, step_of: StepMaker) -> None:
    """Projections on the true gradient and on three fixed directions, each within 5 standard errors of autograd's: with four
    tests a false alarm has probability 2e-6; a scale wrong by a half is found, since the standard error is held below 10 %
    (smaller errors are found by the exact steps in `tests/golden`)."""
    truth = truth_of(step_of())
    rng = torch.Generator().manual_seed(2)
    directions = torch.stack(
        [
            truth / truth.norm(),
            *(torch.nn.functional.normalize(torch.randn(truth.shape, generator=rng), dim=0) for _ in range(3)),
        ]
    )
    estimator = make(name, step_of().fuse)
    assert isinstance(estimator, GradientEstimator)
    steps = 800 // estimator.queries_per_image
    samples = torch.stack([directions @ gradient(estimator, step_of(number)) for number in range(steps)])
    error = samples.std(0) / math.sqrt(steps)
    assert error[0] < 0.1 * truth.norm()
    assert ((samples.mean(0) - directions @ truth).abs() < 5 * error).all()


@pytest.mark.parametrize("name", ["fzoo", "nes", "pgpe"])
def test_a_normalised_estimate_has_the_direction_of_the_gradient(name: str, step_of: StepMaker) -> None:
    """Its scale says nothing, by design. The mean over n = 800 random directions in d dimensions has a cosine of about
    sqrt(n / (n + d)) with autograd's gradient, ranks and curvature take a little; along three directions orthogonal to it the
    mean is within 5 standard errors of nothing (false alarm 2e-6)."""
    truth = torch.nn.functional.normalize(truth_of(step_of()), dim=0)
    rng = torch.Generator().manual_seed(2)
    others = [torch.randn(truth.shape, generator=rng) for _ in range(3)]
    others = [torch.nn.functional.normalize(other - (other @ truth) * truth, dim=0) for other in others]
    samples = []
    for number in range(100):
        step = step_of(number)
        estimator = make(name, step.fuse)
        assert isinstance(estimator, GradientEstimator)
        samples.append(gradient(estimator, step))
    mean, stacked = torch.stack(samples).mean(0), torch.stack(samples)
    assert torch.nn.functional.cosine_similarity(mean, truth, dim=0) > 0.85 * math.sqrt(800 / (800 + len(truth)))
    for other in others:
        along = stacked @ other
        assert along.mean().abs() < 5 * along.std() / math.sqrt(100)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 16)])
def test_directions_span_their_basis_evenly(kind: str, shape: tuple[int, int, int]) -> None:
    """The mean of u u^T over 4,000 directions is P |u|^2 / m with P a projection of rank m: its trace is exact, and what it makes
    of three vectors of the span, m / |u|^2 times the mean, is within 6 standard errors of these vectors."""
    directions = Directions(kind, shape)
    rng = torch.Generator().manual_seed(0)
    u = directions.draw(4000, rng).flatten(1)
    length = u.square().sum(1)
    assert torch.allclose(length, length[:1].expand(4000), rtol=1e-4)
    assert length[0] == pytest.approx(1.0 if kind == "coordinates" else math.prod(shape), rel=1e-4)
    rank = int(torch.linalg.matrix_rank(u.double(), rtol=1e-5))
    assert rank == directions.dimensions
    for inside in directions.draw(3, rng).flatten(1):
        inside = inside / inside.norm()
        along = (u @ inside).square() * directions.dimensions / length
        assert abs(along.mean() - 1.0) < 6 * along.std() / math.sqrt(4000)


def test_with_memory_the_estimate_tends_to_the_gradient(step_of: StepMaker) -> None:
    truth = truth_of(step_of())
    estimator = InputRge(RgeConfig(smoothing=1e-2), PROBLEM, step_of().fuse)
    far = (gradient(estimator, step_of(0)) - truth).norm() / truth.norm()
    for number in range(1, 300):
        near = (gradient(estimator, step_of(number)) - truth).norm() / truth.norm()
    assert near < 0.02 < far


def test_the_white_box_gradient_is_that_of_the_strict_loss(step_of: StepMaker) -> None:
    step = step_of(chips=(NOMINAL, CHIP))
    truth = truth_of(step)
    centre = step.fuse.vector()
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        u = torch.randn(centre.shape, generator=rng)
        scores = [step.score(step.fuse.at(centre + s * u, step.images)) for s in (2e-4, -2e-4)]
        plus, minus = (score.losses.double().sum() for score in scores if score is not None)
        assert ((plus - minus) / 4e-4).item() == pytest.approx((truth @ u).item(), rel=0.01, abs=2e-3)


def test_the_first_spsa_update_has_the_wanted_size(step_of: StepMaker) -> None:
    step = step_of()
    start = step.fuse.vector().clone()
    make("spsa", step.fuse, step=0.01, pairs=3).update(step, 100)
    assert (step.fuse.vector() - start).abs().mean().item() == pytest.approx(0.01, rel=1e-4)
