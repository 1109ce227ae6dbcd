"""Bit errors that are chosen to hurt: how many they may be, and that they hurt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.base import Chip
from backends.datasets.base import Dataset
from backends.memory.attacks import search as attacks
from backends.memory.attacks.loss import AttackLoss
from backends.memory.config import PRESETS, Memory, Quantization
from backends.memory.encoding import Patterns, Stored, store
from backends.memory.faults import independent as chips
from backends.memory.simulator import Simulator
from backends.training.hardening import Hardened, Hardening

CODES = st.builds(
    Quantization, st.sampled_from([2, 3, 4, 8, 16]), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from(["tensor", "global", "channel"]),
)  # fmt: skip
ATTACKS = ["projected", "progressive", "halved"]


class Quadratic:
    """``a w + w^2 / 2`` summed over all weights, and its gradient."""

    def __init__(self, quantization: Quantization, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        tensors = {"a": torch.randn(5, 4, generator=rng), "b": 0.1 * torch.randn(30, generator=rng), "c": torch.zeros(3)}
        self.stored = store(tensors, quantization)
        self.asked = 0
        self._slope = torch.randn(53, generator=rng).numpy()

    def gradient(self, patterns: Patterns) -> tuple[float, NDArray[np.float32]]:
        weights = np.concatenate([tensor.flatten().numpy() for tensor in self.stored.tensors(patterns).values()])
        return float(self._slope @ weights + weights @ weights / 2), self._slope + weights

    def loss(self, patterns: Patterns) -> float:
        self.asked += 1
        return self.gradient(patterns)[0]

    def attacked(self, attack: str, flips: int) -> Patterns:
        if attack == "projected":
            return attacks.projected(self.stored, self.gradient, flips)
        if attack == "progressive":
            return attacks.progressive(self.stored, self.gradient, self.loss, flips)
        return attacks.halved(self.stored, self.loss, flips, queries=20)


@given(CODES, st.sampled_from(ATTACKS), st.integers(1, 60), st.integers(0, 50))
@settings(deadline=None, max_examples=50)
def test_an_attack_flips_no_more_than_it_may_one_bit_a_weight_and_never_lowers_the_loss(
    quantization: Quantization, attack: str, flips: int, seed: int
) -> None:
    target = Quadratic(quantization, seed)
    written = target.stored.patterns.copy()
    found = target.attacked(attack, flips)
    assert np.array_equal(target.stored.patterns, written)
    counts = attacks.flipped(written, found)
    assert counts.max() <= 1
    assert counts.sum() <= flips
    assert found.max() < 2**quantization.bits
    assert target.loss(found) >= target.loss(written)


@given(CODES, st.integers(0, 50))
def test_codes_are_what_the_weights_are_made_of(quantization: Quantization, seed: int) -> None:
    stored = Quadratic(quantization, seed).stored
    read = stored.patterns.copy()
    chips.random_flips(stored, read, Chip(0.2, seed))
    assert np.array_equal(stored.encoded(stored.integers(read)), read)
    weights = np.concatenate([t.flatten().numpy() for t in stored.tensors(read).values()])
    plain = np.concatenate([t.flatten().numpy() for t in stored.tensors().values()])
    change = (stored.integers(read) - stored.integers()) * stored.steps
    assert weights - plain == pytest.approx(change, abs=1e-4)


@given(CODES, st.integers(0, 50))
@settings(deadline=None, max_examples=15)
def test_the_first_progressive_flip_is_the_best_there_is_for_a_linear_loss(quantization: Quantization, seed: int) -> None:
    target = Quadratic(quantization, seed)
    slope = np.random.default_rng(seed).standard_normal(53).astype(np.float32)

    def gradient(patterns: Patterns) -> tuple[float, NDArray[np.float32]]:
        weights = np.concatenate([tensor.flatten().numpy() for tensor in target.stored.tensors(patterns).values()])
        return float(slope @ weights), slope

    found = attacks.progressive(target.stored, gradient, lambda patterns: gradient(patterns)[0], 1)
    best = max(
        gradient(_with(target.stored, weight, bit))[0] for weight in range(53) for bit in range(quantization.bits)
    )  # fmt: skip
    assert gradient(found)[0] == pytest.approx(best, rel=1e-4)


def _with(stored: Stored, weight: int, bit: int) -> Patterns:
    read = stored.patterns.copy()
    read[weight] ^= read.dtype.type(1 << bit)
    return read


def test_without_gradients_no_more_is_asked_than_may_be() -> None:
    for queries in (1, 2, 7, 64):
        target = Quadratic(Quantization(), 0)
        attacks.halved(target.stored, target.loss, 4, queries)
        assert target.asked <= max(queries, 2)


@pytest.fixture(scope="module")
def stored_network(network: nn.Module, digits: Dataset) -> tuple[Simulator, Dataset]:
    return Simulator(network, Memory("rquant")), digits


@pytest.mark.parametrize("attack", ATTACKS)
def test_twenty_chosen_bits_hurt_a_network_more_than_any_of_ten_chips(
    attack: str, stored_network: tuple[Simulator, Dataset]
) -> None:
    simulator, data = stored_network
    images, labels = data.validation.images[:64], data.validation.labels[:64]
    stored, victim = simulator.stored, AttackLoss(simulator, images, labels)
    if attack == "projected":
        found = attacks.projected(stored, victim.gradient, 20)
    elif attack == "progressive":
        found = attacks.progressive(stored, victim.gradient, victim.loss, 20)
    else:
        found = attacks.halved(stored, victim.loss, 20, 400)
    rate = 20 / (8 * len(stored.patterns))
    errors = [_error(simulator, simulator.weights(Chip(rate, seed)), data) for seed in range(50_000, 50_010)]
    assert _error(simulator, simulator.read(found), data) > max(errors) + 0.05


def _error(simulator: Simulator, weights: dict[str, Tensor], data: Dataset) -> float:
    with torch.no_grad():
        return (simulator.respond(data.test.images, weights).argmax(1) != data.test.labels).float().mean().item()


def test_a_targeted_attack_brings_its_class(stored_network: tuple[Simulator, Dataset]) -> None:
    simulator, data = stored_network
    victim = AttackLoss(simulator, data.validation.images[:64], data.validation.labels[:64], towards=3)
    found = attacks.projected(simulator.stored, victim.gradient, 20)
    with torch.no_grad():
        answers = simulator.respond(data.test.images, simulator.read(found)).argmax(1)
    assert (answers == 3).float().mean() > 0.5


def test_adversarial_training_takes_the_gradient_of_the_attacked_batch(digits: Dataset) -> None:
    scheme = PRESETS["rquant"][0]
    counts: list[int] = []

    class Counting(Hardened):
        def _with_errors(self, stored: Stored, loss: object) -> Patterns:
            found = super()._with_errors(stored, loss)  # type: ignore[arg-type]
            counts.append(int(attacks.flipped(stored.patterns, found).sum()))
            return found

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    hardened = Counting(network, Hardening(scheme, flips=5, start=9.0))
    images, labels = digits.train.images[:64], digits.train.labels[:64]
    losses: list[float] = []

    def loss() -> Tensor:
        found = nn.functional.cross_entropy(network(images), labels)
        losses.append(found.item())
        return found

    hardened.backward(loss)
    assert 1 <= counts[0] <= 5
    assert losses[-1] > losses[0]  # the last pass reads the wrong bits
