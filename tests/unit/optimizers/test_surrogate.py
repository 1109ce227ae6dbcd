"""The surrogate learns what it is told, says how far it can be believed, and is dropped where it misleads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Dataset, Split
from backends.memory.config import Memory
from bbfuse.optimizers.base import Problem
from bbfuse.optimizers.surrogate.guided import Guided, GuidedConfig
from bbfuse.optimizers.surrogate.network import ARCHITECTURES, Surrogate, SurrogateConfig
from bbfuse.querying.responses import Responses
from bbfuse.training.evaluation import accuracy
from tests.helpers.targets import StepMaker

SMALL = (1, 8, 8)


def images_of(number: int, count: int = 64, shape: Sequence[int] = SMALL) -> Tensor:
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(number)) * 2.0 - 1.0


def answers_to(images: Tensor) -> Tensor:
    """A smooth target of three classes."""
    directions = torch.randn(images[0].numel(), 3, generator=torch.Generator().manual_seed(99)) / 4.0
    return 5.0 * torch.tanh(images.flatten(1) @ directions) + 2.0


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (3, 32, 32), (3, 16, 24)])
def test_every_architecture_takes_every_shape(arch: str, shape: tuple[int, int, int]) -> None:
    surrogate = Surrogate(SurrogateConfig(arch=arch), shape, 7, 0)  # type: ignore[arg-type]
    images = images_of(0, 2, shape).requires_grad_()
    answers = surrogate.logits(images)
    assert answers.shape == (2, 7)
    assert answers.dtype == torch.float32
    answers.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("arch", ["plain", "perceptron"])
def test_its_trust_is_what_it_foretells_of_answers_that_it_has_not_seen(arch: str) -> None:
    surrogate = Surrogate(SurrogateConfig(arch=arch), SMALL, 3, 0)  # type: ignore[arg-type]
    for number in range(100):
        images = images_of(number)
        surrogate.learn(images, answers_to(images))
    unseen = images_of(1000, 500)
    error = (surrogate.logits(unseen) - answers_to(unseen)).square().sum()
    foretold = 1.0 - (error / (answers_to(unseen) - answers_to(unseen).mean(0)).square().sum()).item()
    assert foretold > 0.7
    assert surrogate.trust == pytest.approx(foretold, abs=0.1)


def test_answers_that_have_nothing_to_do_with_the_images_are_not_trusted() -> None:
    surrogate = Surrogate(SurrogateConfig(), SMALL, 3, 0)
    for number in range(40):
        surrogate.learn(images_of(number), torch.randn(64, 3, generator=torch.Generator().manual_seed(number)))
    assert surrogate.trust < 0.05


def test_the_first_answers_bring_the_last_layer_to_their_scale() -> None:
    surrogate = Surrogate(SurrogateConfig(updates=0), SMALL, 3, 0)
    images = images_of(0, 512)
    with torch.no_grad():  # the surrogate's own answers on another scale
        answers = -40.0 * surrogate.logits(images).roll(1, 1) + 100.0
    far = (surrogate.logits(images) - answers).square().mean()
    surrogate.learn(images, answers)
    near = (surrogate.logits(images) - answers).square().mean()
    assert near < 1e-3 * far


def test_it_is_fitted_to_the_labels_before_it_sees_an_answer(digits: Dataset) -> None:
    surrogate = Surrogate(SurrogateConfig(steps=300), SMALL, 10, 0)
    surrogate.prepare(digits.train, [])
    with torch.no_grad():
        assert accuracy(surrogate.logits(digits.validation.images), digits.validation.labels) > 0.9


def test_what_was_answered_before_is_learned_from() -> None:
    images = images_of(0, 512)
    surrogate = Surrogate(SurrogateConfig(steps=0, rounds=20), SMALL, 3, 0)
    surrogate.prepare(Split(images, torch.zeros(512, dtype=torch.int64)), [Responses(images, NOMINAL, answers_to(images))])
    unseen = images_of(1, 200)
    surrogate.learn(unseen, answers_to(unseen))
    assert surrogate.trust > 0.3


def test_saved_and_loaded_it_learns_on_identically() -> None:
    first = Surrogate(SurrogateConfig(memory=3), SMALL, 3, 0)
    for number in range(5):
        first.learn(images_of(number), answers_to(images_of(number)))
    second = Surrogate(SurrogateConfig(memory=3), SMALL, 3, 0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for surrogate in (first, second):
        for number in range(5, 8):
            surrogate.learn(images_of(number), answers_to(images_of(number)))
    assert first.trust == second.trust
    assert torch.equal(first.logits(images_of(9)), second.logits(images_of(9)))


def test_a_simulated_chip_disturbs_a_copy_and_the_surrogate_stays() -> None:
    surrogate = Surrogate(SurrogateConfig(), SMALL, 3, 0)
    images = images_of(0)
    before = surrogate.logits(images)
    simulator = surrogate.simulator(Memory())
    assert not torch.equal(simulator.logits(images, Chip(0.05, 1)), simulator.logits(images, Chip(0.05, 2)))
    assert torch.equal(before, surrogate.logits(images))


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path: Path) -> None:
    other = ARCHITECTURES["perceptron"](SMALL, 3).state_dict()
    torch.save(other, tmp_path / "weights")
    (tmp_path / "text").write_text("nothing")
    for name in ("weights", "text", "missing"):
        with pytest.raises(
            InputError, match=r"`surrogate.weights` .*does not hold the state dict of a plain surrogate"
        ) as raised:
            Surrogate(SurrogateConfig(weights=str(tmp_path / name)), SMALL, 3, 0)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_guided_weighs_the_surrogate_by_what_real_probes_say(sign: float, step_of: StepMaker) -> None:
    """Linear surrogates: one has the target's own slope, one the opposite."""
    step = step_of()
    guided = Guided(GuidedConfig(smoothing=1e-2), Problem(8, 3, False, 0, surrogate=SurrogateConfig(updates=0)), step.fuse)
    query = step.query_with_gradient
    guided._surrogate.logits = lambda images: sign * query(images, step.terms[0].chip)  # type: ignore[method-assign]
    guided.update(step, 10)
    assert guided.weight == pytest.approx(1.0 if sign > 0 else 0.0, abs=1e-3)
    assert guided.trust == pytest.approx(1.0 if sign > 0 else 0.0, abs=1e-3)
