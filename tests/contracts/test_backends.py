"""Our backends keep the contract of backends."""

from __future__ import annotations

import pytest
from torch import nn

from backends.base import Backend, Chip
from backends.datasets.base import Dataset
from tests.helpers import contract


def test_says_what_it_takes_and_gives(backend: Backend, digits: Dataset) -> None:
    contract.says_what_it_takes_and_gives(backend, digits)


@pytest.mark.parametrize("chip", contract.CHIPS)
def test_answers_are_those_of_the_simulator_number_for_number(
    backend: Backend, network: nn.Module, digits: Dataset, chip: Chip
) -> None:
    contract.answers_are_those_of_the_simulator_number_for_number(backend, network, digits, chip)


def test_the_same_question_has_the_same_answer_in_any_order(backend: Backend, digits: Dataset) -> None:
    contract.the_same_question_has_the_same_answer_in_any_order(backend, digits)


def test_tells_before_every_attempt(backend: Backend, digits: Dataset) -> None:
    contract.tells_before_every_attempt(backend, digits)


def test_images_are_left_alone(backend: Backend, digits: Dataset) -> None:
    contract.images_are_left_alone(backend, digits)


def test_gradients_come_exactly_where_they_are_granted(backend: Backend, digits: Dataset) -> None:
    contract.gradients_come_exactly_where_they_are_granted(backend, digits)


def test_may_be_closed_twice(backend: Backend) -> None:
    contract.may_be_closed_twice(backend)


def test_nothing_that_a_strict_backend_hands_out_leads_to_a_weight(network: nn.Module, digits: Dataset) -> None:
    contract.nothing_that_a_strict_backend_hands_out_leads_to_a_weight(network, digits)
