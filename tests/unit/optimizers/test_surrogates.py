"""The surrogate: its ridge regression, trust, memory and fits against equations."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bbfuse.optimizers.surrogate.network
from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Split
from backends.memory.config import Memory
from backends.training.recipe import LARGE_RECIPE, RECIPE, Recipe
from bbfuse.optimizers.surrogate.network import ARCHITECTURES, Surrogate, SurrogateConfig
from bbfuse.querying.responses import Responses
from tests.helpers.references.imitator import Imitator
from tests.helpers.references.points import answers, drawn, images_of

SMALL = (1, 4, 4)
SETTINGS = SurrogateConfig("perceptron", steps=0, lr=2e-3, rounds=2, updates=3, memory=4)
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_answers_are_float32_on_the_tape_and_in_bfloat16_where_images_are_large(arch: str) -> None:
    for shape, large in (((3, 31, 32), False), ((3, 32, 32), True)):
        surrogate = Surrogate(SurrogateConfig(arch), shape, 4, 3)  # type: ignore[arg-type]
        images = drawn(1, 2, *shape).requires_grad_()
        found = surrogate.logits(images)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            plain = ARCHITECTURES[arch](shape, 4).eval()
        exact = plain(images)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)
        assert torch.equal(found, exact) != large
        assert torch.equal(found, found.bfloat16().float()) == large
        assert torch.autograd.grad(found.sum(), images)[0].abs().sum() > 0.0


def test_a_reader_answers_in_the_networks_place() -> None:
    surrogate, images = Surrogate(SETTINGS, SMALL, 3, 0), images_of(1)
    assert torch.equal(surrogate.logits(images, lambda these: 3.0 * these.flatten(1)[:, :3]), 3.0 * images.flatten(1)[:, :3])


def test_fresh_weights_come_from_the_seed_and_leave_the_global_stream_alone() -> None:
    state = torch.get_rng_state()
    surrogate, images = Surrogate(SETTINGS, SMALL, 3, 21), images_of(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(surrogate.logits(images), Imitator(21, 1e-3, 0, 1).logits(images))
    assert surrogate.trust == 0.0


def test_it_learns_trusts_and_remembers_as_the_equations_say() -> None:
    """Batches of unequal sizes and scales; the memory of four batches overflows."""
    surrogate, own = Surrogate(SETTINGS, SMALL, 3, 5), Imitator(5, 2e-3, 3, 4)
    sizes = (160, 9, 31, 14, 6, 23, 17)
    for number, (size, scale) in enumerate(zip(sizes, (1.0, 0.9, 1.1, 0.01, 1.0, 1.2, 0.8), strict=True)):
        images = images_of(number, size)
        wanted = scale * answers(images, NOMINAL) + 0.4
        own.learn(images, wanted)
        surrogate.learn(images, wanted)
        assert surrogate.trust == pytest.approx(own.trust, rel=1e-3)
        probe = images_of(30)
        torch.testing.assert_close(surrogate.logits(probe), own.logits(probe).detach(), rtol=1e-2, atol=1e-2)
        assert [len(kept) for kept, _ in surrogate.state_dict()["bought"]] == list(sizes[max(0, number - 3) : number + 1])
        assert surrogate.state_dict()["seen"] == number + 1
    assert 0.05 < own.trust < 0.9


def test_what_was_answered_before_is_fitted_in_batches_of_128() -> None:
    surrogate, own = Surrogate(SETTINGS, SMALL, 3, 5), Imitator(5, 2e-3, 3, 4)
    images = images_of(1, 300)
    owned = Split(images, torch.zeros(300, dtype=torch.int64))
    parts = [Responses(part, NOMINAL, answers(part, NOMINAL)) for part in (images[:170], images[170:])]
    surrogate.prepare(owned, parts)
    own.prepare(images, answers(images, NOMINAL), 2)
    probe = images_of(2)
    torch.testing.assert_close(surrogate.logits(probe), own.logits(probe).detach(), **CLOSE)
    assert [len(kept) for kept, _ in surrogate.state_dict()["bought"]] == [128, 128, 44]
    # the ridge regression is not done again with the first answers that are bought
    surrogate.learn(probe, answers(probe, NOMINAL))
    own.learn(probe, answers(probe, NOMINAL))
    torch.testing.assert_close(surrogate.logits(images), own.logits(images).detach(), **CLOSE)
    assert surrogate.trust == pytest.approx(own.trust, rel=1e-3)
    assert own.trust > 0.1


def test_the_ridge_regression_has_its_closed_form_also_with_one_image() -> None:
    settings = dataclasses.replace(SETTINGS, updates=0)
    for count in (1, 40, 200):
        surrogate, own = Surrogate(settings, SMALL, 3, 5), Imitator(5, 2e-3, 0, 4)
        images = images_of(1, count)
        features = torch.cat([own.features(images).detach(), torch.ones(count, 1)], 1).double()
        missing = (answers(images, NOMINAL) - own.logits(images)).detach().double()
        penalty = 0.1 * features.square().sum() / 257
        kernel = features @ features.T  # dual form: X^T (X X^T + penalty)^-1 missing
        change = features.T @ torch.linalg.inv(kernel + penalty * torch.eye(count, dtype=torch.float64)) @ missing
        expected = (own.logits(images).detach() + features @ change).float()
        surrogate.learn(images, answers(images, NOMINAL))
        torch.testing.assert_close(surrogate.logits(images), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("wrong_by", "spread", "trust"),
    [
        ([0.0, 0.0], [3.0, 4.0], 1.0),
        ([1.0, 2.0], [3.0, 4.0], 1.0 - 5 / 25),
        ([0.03, 0.0], [0.05, 0.12], 1.0 - 9 / 169),  # small answers count in their own units
        ([9.0, 0.0], [3.0, 4.0], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 1.0),  # answers that are all the same, foretold exactly
        ([1.0, 0.0], [0.0, 0.0], 0.0),
    ],
)
def test_trust_is_the_share_of_variance_that_was_foretold(wrong_by: list[float], spread: list[float], trust: float) -> None:
    surrogate = Surrogate(dataclasses.replace(SETTINGS, updates=0), SMALL, 2, 5)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    wanted = signs * torch.tensor([spread]) + 2.0
    forecast = wanted + torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None] * torch.tensor([wrong_by])
    surrogate.logits = lambda images: forecast  # type: ignore[method-assign]
    surrogate.learn(images_of(1, 4), wanted)
    assert surrogate.trust == pytest.approx(trust, abs=1e-6)


def test_later_answers_move_the_trust_a_tenth_of_the_way() -> None:
    surrogate = Surrogate(dataclasses.replace(SETTINGS, updates=0), SMALL, 1, 5)
    wanted, expected = torch.tensor([[1.0], [3.0], [8.0]]), None
    for share in (0.3, 0.9, 0.0, 1.0):
        middle = wanted.mean(0)
        surrogate.logits = lambda images, s=share, m=middle: m + (wanted - m) * (1.0 - (1.0 - s) ** 0.5)  # type: ignore[method-assign]
        surrogate.learn(images_of(1, 3), wanted)
        expected = share if expected is None else 0.9 * expected + 0.1 * share
        assert surrogate.trust == pytest.approx(expected, abs=1e-6)


def test_answers_without_spread_do_no_harm() -> None:
    surrogate = Surrogate(SETTINGS, SMALL, 3, 5)
    for _ in range(2):
        surrogate.learn(images_of(1), torch.full((7, 3), 1.5))
    assert surrogate.logits(images_of(2)).isfinite().all()


def prepared(monkeypatch: pytest.MonkeyPatch, settings: SurrogateConfig, shape: tuple[int, int, int]) -> list[Any]:
    """How it was fitted to the labels: data, recipe, name and device."""
    calls: list[Any] = []
    monkeypatch.setattr(bbfuse.optimizers.surrogate.network, "kept", lambda network, *rest: calls.append(rest) or network.train())
    surrogate = Surrogate(settings, shape, 3, 77)
    surrogate.prepare(Split(drawn(1, 2, *shape), torch.tensor([0, 2])), [])
    assert not surrogate._network.training
    return calls


@pytest.mark.parametrize(
    ("shape", "steps", "recipe"),
    [
        (SMALL, None, dataclasses.replace(RECIPE, steps=600, seed=77)),
        ((1, 32, 32), None, dataclasses.replace(LARGE_RECIPE, steps=3000, seed=77)),
        (SMALL, 41, dataclasses.replace(RECIPE, steps=41, seed=77)),
        ((1, 32, 32), 1, dataclasses.replace(LARGE_RECIPE, steps=1, seed=77)),
    ],
)
def test_it_is_fitted_to_the_labels_by_the_recipe_for_its_images(
    shape: tuple[int, int, int], steps: int | None, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((data, used, name, device),) = prepared(monkeypatch, SurrogateConfig("perceptron", steps), shape)
    assert used == recipe
    assert (name, device) == ("surrogate-perceptron", "cpu")
    assert data.labels.tolist() == [0, 2]


def test_it_is_not_fitted_to_the_labels_for_no_steps_or_with_weights_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert prepared(monkeypatch, SurrogateConfig("perceptron", 0), SMALL) == []
    torch.save(ARCHITECTURES["perceptron"](SMALL, 3).state_dict(), tmp_path / "weights")
    for steps in (None, 30):
        assert prepared(monkeypatch, SurrogateConfig("perceptron", steps, weights=str(tmp_path / "weights")), SMALL) == []


def test_weights_are_taken_from_a_file_and_one_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> object:
            return Path.mkdir, (tmp_path / "sprung",)

    own = ARCHITECTURES["perceptron"](SMALL, 3)
    torch.save(own.state_dict(), tmp_path / "weights")
    surrogate = Surrogate(dataclasses.replace(SETTINGS, weights=str(tmp_path / "weights")), SMALL, 3, 0)
    assert torch.equal(surrogate.logits(images_of(1)), own(images_of(1)))
    torch.save({"body.1.weight": Trap()}, tmp_path / "weights")
    with pytest.raises(InputError, match="does not hold the state dict of a perceptron surrogate"):
        Surrogate(dataclasses.replace(SETTINGS, weights=str(tmp_path / "weights")), SMALL, 3, 0)
    assert not (tmp_path / "sprung").exists()


def test_of_what_is_wrong_with_a_file_of_weights_200_characters_are_said(tmp_path: Path) -> None:
    torch.save(ARCHITECTURES["plain"](SMALL, 3).state_dict(), tmp_path / "weights")
    with pytest.raises(InputError) as error:
        Surrogate(dataclasses.replace(SETTINGS, weights=str(tmp_path / "weights")), SMALL, 3, 0)
    start, _, said = str(error.value).partition(" for these images: ")
    assert start == f"`surrogate.weights` {tmp_path / 'weights'} does not hold the state dict of a perceptron surrogate"
    assert len(said) == 200
    assert said.startswith("Error(s) in loading state_dict for _Network: ")


def test_a_chip_is_simulated_on_a_copy_of_what_it_is_now() -> None:
    surrogate, images = Surrogate(SETTINGS, SMALL, 3, 0), images_of(1)
    simulator = surrogate.simulator(Memory())
    own = surrogate.logits(images)
    torch.testing.assert_close(simulator.logits(images, NOMINAL), own, rtol=0.1, atol=0.1)  # codes of eight bits
    before = simulator.logits(images, Chip(0.05, 1))
    surrogate.learn(images, answers(images, NOMINAL))
    assert not torch.equal(surrogate.logits(images), own)
    assert torch.equal(simulator.logits(images, Chip(0.05, 1)), before)


def test_restored_it_goes_on_and_forgets_as_it_would_have() -> None:
    def learned(surrogate: Surrogate, numbers: range) -> Surrogate:
        for number in numbers:
            surrogate.learn(images_of(number, 5 + number), answers(images_of(number, 5 + number), NOMINAL))
        return surrogate

    whole, first, second = (Surrogate(SETTINGS, SMALL, 3, seed) for seed in (4, 4, 4))
    learned(whole, range(8))
    second.load_state_dict(copy.deepcopy(learned(first, range(5)).state_dict()))
    learned(second, range(5, 8))
    probe: Tensor = images_of(30)
    assert torch.equal(second.logits(probe), whole.logits(probe))
    assert second.trust == whole.trust
    assert [len(kept) for kept, _ in second.state_dict()["bought"]] == [9, 10, 11, 12]
