"""SPSA against Spall 1992, Eqs. 2.1 and 2.2, with the gains of Spall 1998, and its form with momentum against BlackVIP's."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
import torch

from bbfuse.optimizers.spsa import Spsa, SpsaConfig
from bbfuse.optimizers.spsa_gc import SpsaGc, SpsaGcConfig
from tests.helpers.references.descent import (
    PARAMETERS,
    PROBLEM,
    START,
    Array,
    fair_signs,
    follows,
    loss_at,
    named,
    small_fuse,
    step_for,
    vectors,
)

PLAIN = SpsaConfig(step=0.013, c=0.07, alpha=0.9, gamma=0.3, pairs=3)
CORRECTED = SpsaGcConfig(a=0.4, c=0.05, offset=2.5, alpha=0.7, gamma=0.35, momentum=0.6, pairs=3)


def estimate(theta: Array, number: int, c: float, pairs: int, lost: Collection[int] = (), sized: bool = False) -> Array | None:
    """The mean of ``(L(theta + c D) - L(theta - c D)) / (2 c D)`` over the pairs of which no side is lost."""
    found = []
    for pair in range(pairs):
        d = fair_signs(named("probe", number, pair), PARAMETERS)
        if sized:
            d *= 0.5 + torch.rand(PARAMETERS, generator=named("size", number, pair)).double().numpy() / 2
        if not {2 * pair, 2 * pair + 1} & set(lost):
            found.append((loss_at(theta + c * d, number) - loss_at(theta - c * d, number)) / (2 * c * d))
    return np.mean(found, 0) if found else None


def spall(numbers: range, steps: int, lost: dict[int, Collection[int]], flat: Collection[int] = ()) -> list[Array]:
    theta, sizes, path = START.copy(), list[float](), []
    for k in numbers:
        g = estimate(theta, k, 0.07 / (k + 1) ** 0.3, 3, lost.get(k, ()))
        if g is not None and k not in flat:
            sizes = [*sizes, np.abs(g).mean()][:20]
            a = 0.013 / np.mean(sizes) * (steps / 10 + 1) ** 0.9
            theta = theta - a / (steps / 10 + k + 1) ** 0.9 * g
        path.append(theta)
    return path


def test_spsa_takes_spalls_steps_with_gains_set_by_the_first_twenty_estimates() -> None:
    """One step has lost a side of a pair, one all that it asked, one has no slope: the last two say nothing of the size."""
    lost: dict[int, Collection[int]] = {2: [3], 4: range(6), 21: [0, 5]}
    found = vectors(lambda fuse: Spsa(PLAIN, PROBLEM, fuse), range(27), 27, resume=5, lost=lost, flat={3: True})
    follows(found, spall(range(27), 27, lost, flat=[3]))
    assert np.abs(found[-1] - START).max() > 0.05


def test_spsa_has_no_rate_before_it_has_an_estimate_and_then_that_of_the_first_update() -> None:
    method, fuse = Spsa(PLAIN, PROBLEM, small_fuse()), small_fuse()
    assert [method.learning_rate(k, 50) for k in (0, 25, 50)] == [0.0, 0.0, 0.0]
    method.estimate(step_for(0, fuse))
    size = np.abs(estimate(START, 0, 0.07, 3)).mean()  # type: ignore[arg-type]
    for k in (0, 25, 50):  # A = 5
        assert method.learning_rate(k, 50) == pytest.approx(0.013 / size * (6 / (6 + k)) ** 0.9)
    assert method.state_dict()["sizes"] == pytest.approx([size])
    assert method.optimizer.param_groups[0]["lr"] == 0.0  # `update` sets it
    assert method.queries_per_image == 6


def blackvip(numbers: range, lost: dict[int, Collection[int]], momentum: float) -> list[Array]:
    theta, m, path = START.copy(), np.zeros(PARAMETERS), []
    for k in numbers:
        g = estimate(theta, k, 0.05 / (k + 1) ** 0.35, 3, lost.get(k, ()), sized=True)
        if g is not None:
            m = momentum * m + g
            theta = theta - 0.4 / (k + 1 + 2.5) ** 0.7 * (g + momentum * m)
        path.append(theta)
    return path


@pytest.mark.parametrize("momentum", [0.6, 0.0])
def test_spsa_gc_takes_blackvips_steps_with_nesterovs_momentum(momentum: float) -> None:
    lost: dict[int, Collection[int]] = {1: [4], 3: range(6)}
    config = SpsaGcConfig(**{**vars(CORRECTED), "momentum": momentum})
    found = vectors(lambda fuse: SpsaGc(config, PROBLEM, fuse), range(7), 9, resume=4, lost=lost)
    follows(found, blackvip(range(7), lost, momentum))


def test_the_gain_of_spsa_gc_falls_with_the_step_alone() -> None:
    method = SpsaGc(CORRECTED, PROBLEM, small_fuse())
    assert method.optimizer.param_groups[0]["lr"] == 0.0  # `update` sets it
    for k in (0, 25, 50):
        assert method.learning_rate(k, 50) == method.learning_rate(k, 7) == pytest.approx(0.4 / (k + 3.5) ** 0.7)
    assert method.queries_per_image == 6
