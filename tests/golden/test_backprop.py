"""Backpropagation under Adam against the gradient by the chain rule, written out in numpy."""

from __future__ import annotations

import numpy as np

from bbfuse.optimizers.backprop import Backprop, BackpropConfig
from tests.helpers.references.descent import (
    MATRICES,
    PROBLEM,
    START,
    TERMS,
    Adam,
    Array,
    carried_back,
    estimated,
    falls,
    follows,
    inputs,
    logits,
    loss_at,
    sensitivities,
    small_fuse,
    vectors,
)


def gradient(theta: Array, number: int) -> Array:
    z = inputs(theta, number)
    by_input = sum(
        (s * (3.0 - logits(z, chip) ** 2 / 3.0) / 6.0) @ MATRICES[chip].T
        for s, (chip, _) in zip(sensitivities(z, number), TERMS, strict=True)
    )
    return carried_back(np.asarray(by_input), theta, number)


def test_the_references_gradient_is_the_slope_of_the_references_loss() -> None:
    for place, slope in enumerate(gradient(START, 2)):
        ends = [loss_at(START + shift * np.eye(len(START))[place], 2) for shift in (1e-7, -1e-7)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-7, rtol=1e-5)


def test_backprop_takes_adams_steps_on_the_true_gradient() -> None:
    theta, adam, path = START.copy(), Adam(), []
    for k in range(5):
        theta = theta + adam(gradient(theta, k), falls(0.03, k, 6))
        path.append(theta)
    gradients: list[Array] = []
    follows(vectors(lambda fuse: Backprop(BackpropConfig(lr=0.03), PROBLEM, fuse), range(5), 6, 3, gradients=gradients), path)
    estimated(gradients, adam.gradients)
    assert Backprop(BackpropConfig(), PROBLEM, small_fuse()).queries_per_image == 1
