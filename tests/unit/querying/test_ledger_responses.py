"""What the ledger takes a response for, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backends.base import Access, BackendInfo, Chip, TargetError
from bbfuse.querying.ledger import Ledger
from bbfuse.querying.responses import logits_of
from tests.helpers.answering import Scripted, images

CHIP = Chip(0.1, 1)


def answering(answer: Tensor, classes: int) -> Ledger:
    backend = Scripted(classes=classes)
    backend.answer = answer
    return Ledger(backend, 1000)


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        ([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]], "probabilities"),
        ([[0.2, 0.3, 0.5], [0.1, 0.2, 0.7046]], "probabilities"),
        ([[0.2, 0.3, 0.5], [0.1, 0.2, 0.6954]], "probabilities"),
        ([[0.2, 0.3, 0.5], [0.1, 0.2, 0.7054]], "logits"),
        ([[0.2, 0.3, 0.5], [0.1, 0.2, 0.6946]], "logits"),
        ([[0.2, 0.3, 0.5], [-0.1, 0.3, 0.8]], "logits"),
    ],
)
def test_rows_of_shares_that_sum_to_one_up_to_rounding_are_probabilities(first: list[list[float]], kind: str) -> None:
    ledger = answering(torch.tensor(first), 3)
    found = ledger.query(images(2), CHIP)
    assert ledger.kind == kind
    expected = torch.tensor(first)
    torch.testing.assert_close(found, expected if kind == "logits" else expected.clamp_min(1e-8).log())


def test_the_first_response_decides_the_kind_of_all_others() -> None:
    shares, others = torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[2.0, -3.0, 0.5]])
    ledger = answering(shares, 3)
    ledger.query(images(1), CHIP)
    ledger._backend.answer = others  # type: ignore[attr-defined]
    with pytest.raises(TargetError, match="scripted responded with probabilities first and with something else now"):
        ledger.query(images(1), CHIP)
    ledger = answering(others, 3)
    ledger.query(images(1), CHIP)
    ledger._backend.answer = shares  # type: ignore[attr-defined]
    assert torch.equal(ledger.query(images(1), CHIP), shares)


def test_no_probability_is_below_1e_minus_8() -> None:
    found = logits_of(torch.tensor([[0.0, 1e-9, 2e-8, 0.5]])).exp()
    torch.testing.assert_close(found, torch.tensor([[1e-8, 1e-8, 2e-8, 0.5]]))


LABELS, TOP = "one label per image", "the top {} of 4 classes"


@pytest.mark.parametrize(
    ("shape", "found"),
    [((3,), LABELS), ((3, 1), LABELS), ((2, 1), None), ((3, 2), TOP.format(2)), ((3, 3), TOP.format(3)), ((2, 3), None),
     ((3, 5), None), ((3, 4, 1), None), ((2, 4), None), ((4,), None)],
)  # fmt: skip
def test_a_response_of_another_shape_is_refused_and_recognised_if_it_is_common(shape: tuple[int, ...], found: str | None) -> None:
    with pytest.raises(TargetError) as error:
        answering(torch.zeros(shape), 4).query(images(3), CHIP)
    way_out = f": it seems to be {found}; configure the server to return logits or probabilities of all classes" if found else ""
    assert str(error.value) == f"scripted responded with shape {shape}, expected (3, 4){way_out}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_refused(value: float) -> None:
    answer = torch.zeros(3, 4)
    answer[1, 2] = value
    with pytest.raises(TargetError, match="not finite"):
        answering(answer, 4).query(images(3), CHIP)


def test_only_a_backend_with_gradients_takes_queries_with_gradient() -> None:
    backend = Scripted()
    with pytest.raises(AssertionError):
        Ledger(backend, 100).query_with_gradient(images(3), CHIP)
    backend.info = BackendInfo("open", Access.GRADIENTS, (1, 1, 2), 2)
    asked = images(3).requires_grad_()
    ledger = Ledger(backend, 100)
    ledger.query_with_gradient(asked, CHIP)[:, 0].sum().backward()
    assert asked.grad is not None
    assert asked.grad.tolist() == torch.ones(3, 1, 1, 2).tolist()
    assert not ledger.query(asked, CHIP).requires_grad
