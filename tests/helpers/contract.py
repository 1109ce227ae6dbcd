"""What every backend must do, whoever answers: `tests/contracts/test_backends.py` asks it of ours, others of theirs."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from backends.base import NOMINAL, Access, Backend, Chip
from backends.datasets.base import Dataset
from backends.memory.simulator import Simulator
from backends.simulated import SimulatedBackend

CHIPS = [NOMINAL, Chip(0.05, 0), Chip(0.05, 1), Chip(1.0, 2)]


def ignore(_: int) -> None: ...


def says_what_it_takes_and_gives(backend: Backend, digits: Dataset) -> None:
    assert backend.info.image_shape == (1, 8, 8)
    assert backend.info.classes == 10
    logits = backend.query(digits.test.images[:3], NOMINAL, ignore)
    assert logits.shape == (3, 10)
    assert logits.dtype == torch.float32


def answers_are_those_of_the_simulator_number_for_number(
    backend: Backend, network: nn.Module, digits: Dataset, chip: Chip
) -> None:
    images = digits.test.images[:40]
    assert torch.equal(backend.query(images, chip, ignore), Simulator(network).logits(images, chip))


def the_same_question_has_the_same_answer_in_any_order(backend: Backend, digits: Dataset) -> None:
    images = digits.test.images[:8]
    first = [backend.query(images, chip, ignore) for chip in CHIPS]
    again = [backend.query(images, chip, ignore) for chip in reversed(CHIPS)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], first[2])


def tells_before_every_attempt(backend: Backend, digits: Dataset) -> None:
    told: list[int] = []
    backend.query(digits.test.images[:5], NOMINAL, told.append)
    assert told == [5]

    class ForbiddenError(Exception): ...

    def forbid(_: int) -> None:
        raise ForbiddenError

    with pytest.raises(ForbiddenError):
        backend.query(digits.test.images[:5], NOMINAL, forbid)


def images_are_left_alone(backend: Backend, digits: Dataset) -> None:
    images = digits.test.images[:5].clone()
    backend.query(images, CHIPS[1], ignore)
    assert torch.equal(images, digits.test.images[:5])


def gradients_come_exactly_where_they_are_granted(backend: Backend, digits: Dataset) -> None:
    images = digits.test.images[:5].clone().requires_grad_()
    logits = backend.query(images, CHIPS[1], ignore)
    assert logits.requires_grad == (backend.info.access == Access.GRADIENTS)


def may_be_closed_twice(backend: Backend) -> None:
    backend.close()
    backend.close()


def nothing_that_a_strict_backend_hands_out_leads_to_a_weight(network: nn.Module, digits: Dataset) -> None:
    strict = SimulatedBackend("digits", network, (1, 8, 8), 10)
    images = digits.test.images[:5].clone().requires_grad_()
    logits = strict.query(images, CHIPS[1], ignore)
    weights = {p.data_ptr() for p in network.parameters()}
    public = [getattr(strict, name) for name in dir(strict) if not name.startswith("_")]
    for handed in [logits, *public]:
        assert not isinstance(handed, nn.Module)
        tensors = [x for x in [handed, *gc.get_referents(handed)] if isinstance(x, torch.Tensor)]
        for tensor in tensors:
            assert tensor.grad_fn is None
            assert not tensor.requires_grad
            assert tensor.data_ptr() not in weights
