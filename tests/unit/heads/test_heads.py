"""Heads against their equations in numpy, and the fit against the optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from bbfuse.heads.affine import Affine, Net
from bbfuse.heads.base import HEADS, Head, OfProbabilities
from bbfuse.heads.standardize import Standardize

CLASSES = 3


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of(tensor: Tensor) -> Any:
    return tensor.detach().double().numpy()


def filled(head: Affine, spread: float) -> Any:
    """``head`` with parameters that are all different, and these in float64."""
    with torch.no_grad():
        for seed, p in enumerate(head.parameters()):
            p.copy_(drawn(30 + seed, *p.shape) + 0.2)
    head.spread.fill_(spread)
    return {name: of(value) for name, value in head.state_dict().items()}


def close(found: Tensor, expected: Any) -> None:
    np.testing.assert_allclose(of(found), expected, rtol=2e-5, atol=2e-5)


def test_standardize_gives_answers_the_mean_and_the_population_sd_of_the_reference() -> None:
    answers, reference = drawn(0, 9, CLASSES) * torch.tensor([3.0, 0.4, 7.0]) + 1.5, drawn(1, 9, CLASSES) - 0.7
    other = drawn(2, 4, CLASSES)
    expected = (of(other) - of(answers).mean(0)) / of(answers).std(0) * of(reference).std(0) + of(reference).mean(0)
    close(Standardize(answers, reference)(other), expected)


def test_an_answer_that_never_changes_has_a_spread_of_a_millionth() -> None:
    answers, reference = torch.full((4, CLASSES), 0.3), drawn(1, 4, CLASSES)
    close(Standardize(answers, reference).gain / 1e6, of(reference).std(0))


def test_the_head_that_changes_nothing_costs_no_penalty() -> None:
    z = drawn(0, 4, CLASSES)
    assert Head()(z) is z
    assert Head().penalty().item() == 0.0


def test_affine_and_net_are_their_equations() -> None:
    z = drawn(5, 6, CLASSES) * 4.0
    for head, spread in ((Affine(CLASSES, 0.03), 1.7), (Net(CLASSES, 0.03), 0.6)):
        part = filled(head, spread)
        rows = [part["matrix"] @ row / spread + part["bias"] for row in of(z)]
        penalty = 0.03 * ((part["matrix"] - np.eye(CLASSES)) ** 2).sum()
        if isinstance(head, Net):
            hidden = [np.maximum(part["inner"] @ row / spread + part["threshold"], 0.0) for row in of(z)]
            rows = [row + part["outer"] @ units for row, units in zip(rows, hidden, strict=True)]
            penalty += 0.03 * (part["outer"] ** 2).sum()
        close(head(z), rows)
        assert head.penalty().item() == pytest.approx(penalty, rel=1e-5)


def test_a_new_head_is_the_identity_and_a_net_has_32_hidden_units_along_fixed_directions() -> None:
    z = drawn(5, 6, CLASSES)
    torch.manual_seed(9)
    for name, kind in (("affine", Affine), ("net", Net)):
        assert HEADS[name] is kind
        torch.testing.assert_close(kind(CLASSES, 0.5)(z), z)
        assert kind(CLASSES, 0.5).penalty().item() == 0.0
    net = Net(CLASSES, 0.5)
    assert net.outer.shape == (CLASSES, 32)
    expected = torch.randn((32, CLASSES), generator=torch.Generator().manual_seed(0)) / np.sqrt(CLASSES)
    torch.testing.assert_close(net.inner.detach(), expected.float())
    assert not net.threshold.any()


def damaged(images: int = 70) -> tuple[Tensor, Tensor]:
    """Answers that an unequal mix of classes has damaged, and labels that are not all within reach."""
    clean = drawn(11, images, CLASSES)
    labels = (clean + 0.8 * drawn(12, images, CLASSES)).argmax(1)
    return 5.0 * clean @ torch.tensor([[1.0, 0.6, -0.3], [0.2, 0.8, 0.5], [-0.7, 0.1, 1.4]]) + torch.tensor(
        [2.0, -3.0, 0.5]
    ), labels


def penalised(parameters: Any, z: Any, labels: Any, decay: float) -> tuple[float, Any]:
    """Mean cross-entropy of ``A z + b`` and ``decay |A - I|^2``, and the gradient, from the softmax."""
    a, b = parameters[: CLASSES**2].reshape(CLASSES, CLASSES), parameters[CLASSES**2 :]
    corrected = z @ a.T + b
    p = np.exp(corrected - corrected.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    away, by = a - np.eye(CLASSES), (p - np.eye(CLASSES)[labels]) / len(z)
    loss = -np.log(p[np.arange(len(z)), labels]).mean() + decay * (away**2).sum()
    return float(loss), np.concatenate([(by.T @ z + 2.0 * decay * away).ravel(), by.sum(0)])


def test_the_fit_ends_where_the_gradient_vanishes_and_no_other_optimiser_finds_less() -> None:
    answers, labels = damaged()
    head = Affine(CLASSES, decay=0.02)
    head.fit(answers, labels)
    spread = np.std(of(answers), ddof=1)  # of all entries, with Bessel's correction
    assert head.spread.item() == pytest.approx(spread, rel=1e-5)
    found = np.concatenate([of(head.matrix).ravel(), of(head.bias)])
    z = of(answers) / spread
    loss, gradient = penalised(found, z, labels.numpy(), 0.02)
    assert np.abs(gradient).max() < 1e-4
    begun = np.concatenate([np.eye(CLASSES).ravel(), np.zeros(CLASSES)])
    best = minimize(penalised, begun, (z, labels.numpy(), 0.02), jac=True, tol=1e-12)
    assert loss == pytest.approx(best.fun, abs=1e-7)
    np.testing.assert_allclose(found, best.x, atol=1e-3)
    assert loss < penalised(begun, z, labels.numpy(), 0.02)[0] - 0.05
    assert head.matrix.grad is None
    assert head.bias.grad is None


def test_answers_without_spread_are_divided_by_a_millionth() -> None:
    head = Affine(CLASSES, decay=0.02)
    head.fit(torch.zeros(8, CLASSES), torch.tensor([0, 1, 1, 1, 2, 1, 0, 1]))
    assert head.spread.item() == pytest.approx(1e-6, rel=1e-6)
    assert (head.bias.detach().softmax(0) * 8).tolist() == pytest.approx([2.0, 5.0, 1.0], rel=1e-3)


def test_a_fit_takes_at_most_a_hundred_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Spied(torch.optim.LBFGS):
        def __init__(self, parameters: Any, max_iter: int, line_search_fn: str) -> None:
            made.append(max_iter)
            super().__init__(parameters, max_iter=max_iter, line_search_fn=line_search_fn)

    monkeypatch.setattr(torch.optim, "LBFGS", Spied)
    Affine(CLASSES, decay=0.3).fit(*damaged(20))
    assert made == [100]


def test_a_net_learns_with_all_its_parts() -> None:
    answers, labels = damaged()
    affine, net = Affine(CLASSES, decay=0.002), Net(CLASSES, decay=0.002)
    for head in (affine, net):
        head.fit(answers, labels)
    losses = [(torch.nn.functional.cross_entropy(head(answers), labels) + head.penalty()).item() for head in (affine, net)]
    assert losses[1] < losses[0] - 0.01
    assert all(p.abs().max() > 1e-3 for p in (net.outer, net.threshold))


def test_behind_probabilities_a_head_gets_their_logarithms_and_none_below_that_of_1e_minus_8() -> None:
    head = Affine(CLASSES, 0.1)
    part = filled(head, 1.3)
    p = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    z = np.log(np.maximum(of(p), 1e-8))
    close(OfProbabilities(head)(p), z @ part["matrix"].T / 1.3 + part["bias"])
