"""`follow` and `transfer`: each step against one written from the equations, with Adam, trust and jitter at work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backends.base import NOMINAL, Chip
from backends.datasets.base import Split
from backends.memory.config import Memory
from backends.memory.simulator import Simulator
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import Problem
from bbfuse.optimizers.surrogate.follow import Follow, FollowConfig
from bbfuse.optimizers.surrogate.network import ARCHITECTURES, SurrogateConfig
from bbfuse.optimizers.surrogate.transfer import Transfer, TransferConfig
from bbfuse.querying.responses import Responses
from tests.helpers.references.imitator import Adam, Imitator, loss_of
from tests.helpers.references.points import answers, images_of, named, small_fuse, step_for
from tests.helpers.targets import CHIP

SEED, LR, STEPS = 6, 0.02, 9
SETTINGS = SurrogateConfig("perceptron", steps=0, lr=2e-3, rounds=2, updates=3, memory=4)
OWNED = Split(images_of(40, 150), torch.zeros(150, dtype=torch.int64))
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 2e-4}  # Adam divides by small gradients, which processors round differently


class Fused:
    """``clip(x + 5x5 filter of x + bias)`` and its Adam."""

    def __init__(self) -> None:
        self.theta = small_fuse().vector().clone().requires_grad_()
        self.adam = Adam([self.theta])

    def __call__(self, images: Tensor) -> Tensor:
        patches = F.unfold(images, 5, padding=2)  # (n, 25, 16)
        added = torch.einsum("npk,p->nk", patches, self.theta[:25]) + self.theta[25]
        return (images + added.view(images.shape)).clamp(-1.0, 1.0)

    def step(self, step: Step, model: Any, lr: float) -> None:
        loss = loss_of(step, [model(self(step.images), term.chip) for term in step.terms])
        self.adam.step(torch.autograd.grad(loss, [self.theta]), lr)


def imitator() -> Imitator:
    return Imitator(SEED, SETTINGS.lr, SETTINGS.updates, SETTINGS.memory)


def problem(population: bool) -> Problem:
    return Problem(150, 3, population, SEED, surrogate=SETTINGS)


def both(images: Tensor) -> Tensor:
    """The mean of the terms' answers, whatever their weights."""
    return (answers(images, NOMINAL) + answers(images, CHIP)) / 2


class Chips:
    """What chips read of an `Imitator` as it was at the last `store`: the simulator of memories, asked directly."""

    def store(self, own: Imitator) -> None:
        network = ARCHITECTURES["perceptron"]((1, 4, 4), 3)
        network.load_state_dict(dict(zip(network.state_dict(), own.weights, strict=True)))
        self.logits = Simulator(network, Memory()).logits


def wanted_images(step: Step, fused: Fused, raw: int, jitter: float) -> Tensor:
    """``raw`` images as they are, the others fused; noise on the second, the fourth, and so on."""
    sent = torch.cat([step.images[:raw], fused(step.images)[raw:]]).detach()
    noise = jitter * torch.randn(sent.shape, generator=named(SEED, "jitter", step.number))
    for place in range(1, len(sent), 2):
        sent[place] = (sent[place] + noise[place]).clamp(-1.0, 1.0)
    return sent


@pytest.mark.parametrize(
    ("population", "every", "raw", "first"), [(False, 1, 3, 0), (False, 3, 2, 90), (True, 2, 0, 0), (False, 2, 7, 130)]
)
def test_follow_learns_what_it_buys_and_steps_the_fuse_by_its_trust(
    population: bool, every: int, raw: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse, fused, own = small_fuse(), Fused(), imitator()
    method = Follow(FollowConfig(LR, every, raw / 7, 0.3), problem(population), fuse)
    chips = Chips()
    before = OWNED.images[:first]
    other = Responses(OWNED.images[-20:], CHIP if population else NOMINAL, torch.full((20, 3), 7.0))  # of no use here
    method.prepare(OWNED, [Responses(before, CHIP, both(before)), other] if first else [other], answers)
    if first:
        own.prepare(before, both(before), SETTINGS.rounds)
    if population:
        chips.store(own)
    trusts = []
    for number in range(7):
        step = step_for(number, fuse, SEED)
        asked: list[tuple[Tensor, Chip]] = []
        monkeypatch.setattr(
            step, "query", lambda images, chip, asked=asked: asked.append((images, chip)) or answers(images, chip)
        )
        if number % every == 0:
            sent = wanted_images(step, fused, raw, 0.3)
            if population:
                own.learn(sent, answers(sent, NOMINAL))
                chips.store(own)
            else:
                own.learn(sent, both(sent))
        model = chips.logits if population else lambda images, chip: own.logits(images)
        if own.trust > 0.0:
            fused.step(step, model, own.trust * LR * (1.0 - 0.95 * number / STEPS))
        method.update(step, STEPS)
        assert [chip for _, chip in asked] == ([] if number % every else [NOMINAL] if population else [NOMINAL, CHIP])
        for images, _ in asked:
            torch.testing.assert_close(images, sent, **CLOSE)
        assert method.trust == pytest.approx(own.trust, abs=1e-4)
        torch.testing.assert_close(fuse.vector(), fused.theta.detach(), **CLOSE)
        images = images_of(70 + number)  # a stored code may round to its neighbour on another processor
        torch.testing.assert_close(
            method.responses(images, CHIP), model(images, CHIP).detach(), rtol=1e-3, atol=1e-2
        )  # fmt: skip
        trusts.append(own.trust)
    assert 0.05 < trusts[-1] < 0.95, trusts


def test_without_trust_the_fuse_stays() -> None:
    fuse = small_fuse()
    method = Follow(FollowConfig(LR, 1), problem(False), fuse)
    before = fuse.vector()
    step = step_for(0, fuse, SEED, lost=[0])
    method.update(step, STEPS)
    assert method.trust == 0.0
    assert torch.equal(fuse.vector(), before)
    assert method.learning_rate(3, STEPS) == 0.0
    assert not method.surrogate.state_dict()["bought"]


@pytest.mark.parametrize(("population", "every", "expected"), [(False, None, 2), (True, None, 16), (True, 5, 5), (False, 1, 1)])
def test_how_often_follow_buys(population: bool, every: int | None, expected: int) -> None:
    method = Follow(FollowConfig(every=every), problem(population), small_fuse())
    assert method.query_interval == expected
    assert method.queries_per_image == 1
    assert method.simulates == population
    assert (method.simulated_target is None) == (not population)


def test_the_share_of_raw_images_is_rounded_to_whole_images() -> None:
    fuse = small_fuse()
    step = step_for(0, fuse, SEED)
    for share, raw in ((0.25, 2), (0.2, 1), (0.5, 4), (1.0, 7), (0.0, 0)):  # of 7 images; 3.5 to the even 4
        chosen = Follow(FollowConfig(raw=share, jitter=0.0), problem(False), fuse)._chosen(step)
        torch.testing.assert_close(chosen, torch.cat([step.images[:raw], fuse(step.images)[raw:]]).detach())


def test_what_is_learned_is_what_the_target_saw() -> None:
    """Where a target takes few levels the surrogate learns from the rounded images."""
    fuse = small_fuse()
    for population in (False, True):
        method = Follow(FollowConfig(LR, 1), problem(population), fuse)
        step = step_for(0, fuse, SEED)
        step.as_received = lambda images: (images * 4.0).round() / 4.0
        method.update(step, STEPS)
        ((images, _),) = method.surrogate.state_dict()["bought"]
        assert torch.equal(images * 4.0, (images * 4.0).round())


def test_transfer_steps_the_fuse_through_chips_simulated_on_the_surrogate() -> None:
    fuse, fused, own = small_fuse(), Fused(), imitator()
    method = Transfer(TransferConfig(LR, steps=31, images=140), problem(False), fuse)
    chips = Chips()
    earlier = Responses(images_of(41, 30), NOMINAL, answers(images_of(41, 30), NOMINAL))
    of_a_chip = Responses(images_of(42, 20), CHIP, torch.full((20, 3), 7.0))
    asked: list[tuple[Tensor, Chip]] = []
    method.prepare(OWNED, [of_a_chip, earlier], lambda images, chip: asked.append((images, chip)) or answers(images, chip))
    ((sent, chip),) = asked
    assert torch.equal(sent, OWNED.images[:140])
    assert chip == NOMINAL
    images = torch.cat([earlier.images, sent])
    own.prepare(images, answers(images, NOMINAL), SETTINGS.rounds)
    chips.store(own)
    for number in range(4):
        step = step_for(number, fuse, SEED)
        fused.step(step, chips.logits, LR * (1.0 - 0.95 * number / STEPS))
        method.update(step, STEPS)
        torch.testing.assert_close(fuse.vector(), fused.theta.detach(), **CLOSE)
    assert (method.steps, method.queries_per_image, method.images_before_training) == (31, 0, 140)
    assert method.trust is None
    assert method.simulated_target == method.responses


def test_transfer_asks_for_no_more_images_than_are_owned_and_for_none_by_default() -> None:
    assert Transfer(TransferConfig(images=151), problem(False), small_fuse()).images_before_training == 150
    method = Transfer(TransferConfig(), problem(False), small_fuse())
    before = method.responses(images_of(1), CHIP)

    def never(images: Tensor, chip: Chip) -> Tensor:
        raise AssertionError("nothing is to be asked")

    method.prepare(OWNED, [], never)
    assert method.images_before_training == 0
    assert torch.equal(method.responses(images_of(1), CHIP), before)


@pytest.mark.parametrize("population", [False, True])
def test_restored_it_answers_as_it_did(population: bool) -> None:
    fuse = small_fuse()
    first = Follow(FollowConfig(LR, 1), problem(population), fuse)
    for number in range(2):
        first.update(step_for(number, fuse, SEED), STEPS)
    second = Follow(FollowConfig(LR, 1), problem(population), small_fuse())
    assert not torch.equal(second.responses(images_of(1), CHIP), first.responses(images_of(1), CHIP))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.responses(images_of(1), CHIP), first.responses(images_of(1), CHIP))
    assert second.trust == first.trust
