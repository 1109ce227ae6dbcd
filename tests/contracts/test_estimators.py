"""Every estimator against autograd, in direction and in scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backends.interface import NOMINAL, Access
from bbfuse.config import BackpropConfig, RgeConfig, SpsaConfig
from bbfuse.estimators import Estimator, Problem
from bbfuse.estimators.backprop import Backprop
from bbfuse.estimators.rge import InputRge, ParameterRge
from bbfuse.estimators.spsa import Spsa
from bbfuse.head import Affine
from bbfuse.objective import Step
from tests.conftest import CHIP, StepMaker

PROBLEM = Problem(owned=8, terms=1, classes=3, pixels=16)

UNBIASED: dict[str, Callable[[], Estimator]] = {
    "spsa": lambda: Spsa(SpsaConfig(c=1e-2, gamma=0.0)),
    "spsa, 3 pairs": lambda: Spsa(SpsaConfig(c=1e-2, gamma=0.0, pairs=3)),
    "rge, parameters": lambda: ParameterRge(RgeConfig(space="parameters", smoothing=1e-2)),
    "rge, parameters, 3 directions": lambda: ParameterRge(RgeConfig(space="parameters", smoothing=1e-2, directions=3)),
    "rge, inputs": lambda: InputRge(RgeConfig(broyden=False, smoothing=1e-2), PROBLEM),
    "rge, inputs, 3 directions": lambda: InputRge(RgeConfig(broyden=False, smoothing=1e-2, directions=3), PROBLEM),
}
ALL: dict[str, Callable[[], Estimator]] = {
    **UNBIASED,
    "rge, inputs, broyden": lambda: InputRge(RgeConfig(), PROBLEM),
    "backprop": lambda: Backprop(BackpropConfig()),
}


def gradient(estimator: Estimator, step: Step) -> Tensor:
    estimator.estimate(step)
    return torch.cat([p.grad.flatten() for p in step.fuse.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_over_many_directions_is_the_gradient_in_direction_and_scale(name: str, step_of: StepMaker) -> None:
    """Projections on the true gradient and on three fixed directions, each within 5 standard errors of autograd's: with four
    tests a false alarm has probability 2e-6; a scale wrong by a tenth is found, since the standard error is held below 2 %."""
    truth = gradient(Backprop(BackpropConfig()), step_of())
    rng = torch.Generator().manual_seed(2)
    directions = torch.stack(
        [
            truth / truth.norm(),
            *(torch.nn.functional.normalize(torch.randn(truth.shape, generator=rng), dim=0) for _ in range(3)),
        ]
    )
    estimator = UNBIASED[name]()
    steps = 3200 // estimator.answers_per_image
    samples = torch.stack([directions @ gradient(estimator, step_of(number)) for number in range(steps)])
    error = samples.std(0) / math.sqrt(steps)
    assert error[0] < 0.05 * truth.norm()
    assert ((samples.mean(0) - directions @ truth).abs() < 5 * error).all()


def test_with_memory_the_estimate_tends_to_the_gradient(step_of: StepMaker) -> None:
    truth = gradient(Backprop(BackpropConfig()), step_of())
    estimator = InputRge(RgeConfig(smoothing=1e-2), PROBLEM)
    far = (gradient(estimator, step_of(0)) - truth).norm() / truth.norm()
    for number in range(1, 300):
        near = (gradient(estimator, step_of(number)) - truth).norm() / truth.norm()
    assert near < 0.02 < far


def test_the_white_box_gradient_is_that_of_the_strict_loss(step_of: StepMaker) -> None:
    step = step_of(chips=(NOMINAL, CHIP))
    truth = gradient(Backprop(BackpropConfig()), step)
    centre = step.fuse.vector()
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        u = torch.randn(centre.shape, generator=rng)
        plus, minus = (step.score(step.fuse.at(centre + s * u, step.images)).losses.double().sum() for s in (2e-4, -2e-4))
        assert ((plus - minus) / 4e-4).item() == pytest.approx((truth @ u).item(), rel=0.01, abs=2e-3)


@pytest.mark.parametrize("name", ALL)
def test_saved_and_loaded_it_goes_on_identically(name: str, step_of: StepMaker) -> None:
    first, second = ALL[name](), ALL[name]()
    for number in range(3):
        gradient(first, step_of(number))
    second.load_state_dict(first.state_dict())
    assert torch.equal(gradient(first, step_of(3)), gradient(second, step_of(3)))
    assert first.learning_rate(3, 10) == second.learning_rate(3, 10)


@pytest.mark.parametrize("name", ALL)
def test_sends_as_often_as_it_says_and_leaves_the_fuse_alone(name: str, step_of: StepMaker) -> None:
    step, estimator, asked = step_of(), ALL[name](), 0
    before = step.fuse.vector().clone()
    ask, ask_with_tape = step.ask, step.ask_with_tape

    def counting(images: Tensor, chip: object) -> Tensor:
        nonlocal asked
        asked += len(images)
        assert images.abs().max() <= 1.0  # probes stay inside the pixel range
        return (ask_with_tape if images.requires_grad else ask)(images, CHIP)

    step.ask = step.ask_with_tape = counting
    estimator.estimate(step)
    assert asked == 8 * estimator.answers_per_image
    assert torch.equal(step.fuse.vector(), before)


@pytest.mark.parametrize("name", ALL)
def test_heads_get_their_exact_gradient(name: str, step_of: StepMaker) -> None:
    head = Affine(3, decay=1e-2)
    step = step_of(head=head)
    ALL[name]().estimate(step)
    step.finish()
    assert head.matrix.grad is not None
    if name == "backprop":
        answers = step.ask(step.fuse(step.images), CHIP)
        losses = torch.nn.functional.cross_entropy(head(answers), step.labels, reduction="none")
        (expected,) = torch.autograd.grad((losses * step.weights).mean() + head.penalty(), head.matrix)
        assert torch.allclose(head.matrix.grad, expected, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if name != "backprop"])
def test_strict_methods_never_touch_the_tape(name: str, step_of: StepMaker, smooth: object) -> None:
    step = step_of()

    def forbidden(*_: object) -> Tensor:
        raise AssertionError("a strict method asked for gradients")

    step.ask_with_tape = forbidden
    ALL[name]().estimate(step)
    assert Access.LOGITS < Access.GRADIENTS


def test_the_first_spsa_update_has_the_wanted_size(step_of: StepMaker) -> None:
    estimator = Spsa(SpsaConfig(step=0.01))
    assert estimator.learning_rate(0, 100) == 0.0
    size = gradient(estimator, step_of()).abs().mean().item()
    assert estimator.learning_rate(0, 100) * size == pytest.approx(0.01)
    rates = [estimator.learning_rate(k, 100) for k in range(100)]
    assert rates == sorted(rates, reverse=True)
    # Spall 1998: a_k = a / (A + k + 1)^alpha with A = 10
    assert rates[50] / rates[0] == pytest.approx((11 / 61) ** 0.602)
