"""FZOO against its equation: one-sided probes, the step divided by the standard deviation of their losses."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from bbfuse.optimizers.fzoo import Fzoo, FzooConfig
from tests.helpers.references.descent import (
    PARAMETERS,
    PROBLEM,
    START,
    Array,
    fair_signs,
    falls,
    follows,
    loss_at,
    named,
    small_fuse,
    vectors,
)

CONFIG = FzooConfig(lr=0.07, smoothing=0.04, directions=4)


def reference(numbers: range, steps: int, lost: dict[int, Collection[int]]) -> list[Array]:
    theta, path = START.copy(), []
    for k in numbers:
        kept = [i for i in range(4) if i + 1 not in lost.get(k, ())]  # probe 0 is the centre
        u = np.array([fair_signs(named("probe", k, i), PARAMETERS) for i in kept])
        if len(kept) > 1 and 0 not in lost.get(k, ()):
            values = np.array([loss_at(theta + 0.04 * one, k) for one in u])
            theta = theta - falls(0.07, k, steps) * ((values - loss_at(theta, k)) @ u) / len(kept) / values.std()
        path.append(theta)
    return path


def test_fzoo_takes_its_equations_steps_and_none_where_the_centre_or_all_but_one_probe_is_lost() -> None:
    lost: dict[int, Collection[int]] = {1: [0], 2: [2], 3: [1, 2, 4], 5: range(5), 6: [1, 2, 3, 4]}
    found = vectors(lambda fuse: Fzoo(CONFIG, PROBLEM, fuse), range(8), 8, resume=4, lost=lost)
    expected = reference(range(8), 8, lost)
    follows(found, expected)
    for k in (1, 3, 5, 6):
        assert (found[k] == found[k - 1]).all()


def test_where_all_losses_are_equal_the_fuse_stays() -> None:
    (found,) = vectors(lambda fuse: Fzoo(CONFIG, PROBLEM, fuse), range(1), 8, flat={0: True})
    assert (found == START).all()


def test_it_asks_for_the_centre_beside_its_directions() -> None:
    method = Fzoo(CONFIG, PROBLEM, small_fuse())
    assert method.queries_per_image == 5
    assert method.optimizer.param_groups[0]["lr"] == 0.0  # `update` sets it
