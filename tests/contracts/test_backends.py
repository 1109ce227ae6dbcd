"""Our backends keep the contract of backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from backends.base import NOMINAL, Backend, Chip
from backends.datasets.base import Dataset
from backends.function import FunctionBackend
from backends.memory.simulator import Simulator
from backends.simulated import SimulatedBackend
from backends.testing import BACKEND_CHECKS, CHIPS, check_backend


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
def test_a_backend_keeps_its_contract(
    check: Callable[[Backend, Tensor, Sequence[Chip]], None], backend: Backend, digits: Dataset
) -> None:
    check(backend, digits.test.images[:8], CHIPS)


def test_a_backend_may_be_closed_twice(backend: Backend) -> None:
    backend.close()
    backend.close()


@pytest.mark.parametrize("chip", CHIPS)
def test_responses_are_those_of_the_simulator_number_for_number(
    backend: Backend, network: nn.Module, digits: Dataset, chip: Chip
) -> None:
    images = digits.test.images[:40]
    assert torch.equal(backend.query(images, chip, lambda _: None), Simulator(network).logits(images, chip))


def test_nothing_that_a_strict_backend_hands_out_leads_to_a_weight(network: nn.Module, digits: Dataset) -> None:
    check_backend(SimulatedBackend("digits", network, (1, 8, 8), 10), digits.test.images[:8], network=network)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_function_is_a_backend(kind: Literal["torch", "numpy"], digits: Dataset) -> None:
    def scores(images: Any) -> Any:
        found = images.reshape(len(images), -1)[:, 20:30] * 3
        images *= 0
        return found

    check_backend(FunctionBackend("mine", scores, (1, 8, 8), 10, kind=kind, limit=3), digits.test.images[:8], (NOMINAL,))


def test_a_function_that_takes_chips_is_a_backend(network: nn.Module, digits: Dataset) -> None:
    simulator = Simulator(network)
    function = FunctionBackend("device", lambda images, chip: simulator.logits(images, chip), (1, 8, 8), 10)
    check_backend(function, digits.test.images[:8], network=network)


def test_a_function_that_does_not_repeat_itself_has_to_declare_it(digits: Dataset) -> None:
    def noisy(images: Tensor) -> Tensor:
        return images.flatten(1)[:, 20:30] + 1e-5 * torch.rand(1)

    check_backend(FunctionBackend("noisy", noisy, (1, 8, 8), 10, repeatable=False), digits.test.images[:8], (NOMINAL,))
    with pytest.raises(AssertionError):
        check_backend(FunctionBackend("noisy", noisy, (1, 8, 8), 10), digits.test.images[:8], (NOMINAL,))


class Open(SimulatedBackend):
    """A backend that hands out its network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__("digits", network, (1, 8, 8), 10)
        self.weights = list(network.parameters())


class Changing(SimulatedBackend):
    """A backend whose responses to the same query differ."""

    def query(self, images: Tensor, chip: Chip, sending: Callable[[int], None]) -> Tensor:
        return super().query(images, chip, sending) + torch.rand(1)


class Silent(SimulatedBackend):
    """A backend that does not announce what it sends."""

    def query(self, images: Tensor, chip: Chip, sending: Callable[[int], None]) -> Tensor:
        return super().query(images, chip, lambda _: None)


class Leaking(SimulatedBackend):
    """A backend that grants gradients and declares that it does not."""

    def query(self, images: Tensor, chip: Chip, sending: Callable[[int], None]) -> Tensor:
        sending(len(images))
        return self._logits(images, chip)


@pytest.mark.parametrize("kind", [Changing, Silent, Leaking])
def test_the_contract_notices_a_backend_that_breaks_it(kind: type[SimulatedBackend], network: nn.Module) -> None:
    with pytest.raises(AssertionError):
        check_backend(kind("digits", network, (1, 8, 8), 10))


def test_the_contract_notices_a_backend_that_hands_out_weights(network: nn.Module) -> None:
    with pytest.raises(AssertionError):
        check_backend(Open(network), network=network)
