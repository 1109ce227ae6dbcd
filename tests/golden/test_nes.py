"""NES against Salimans et al. 2017: antithetic Gaussian pairs, centred ranks with ties, Adam. And centred ranks themselves."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from bbfuse.optimizers.nes import Nes, NesConfig
from bbfuse.optimizers.ranks import centred_ranks
from tests.helpers.references.descent import (
    PARAMETERS,
    PROBLEM,
    START,
    Adam,
    Array,
    estimated,
    falls,
    follows,
    loss_at,
    named,
    small_fuse,
    vectors,
)

CONFIG = NesConfig(lr=0.06, sigma=0.07, pairs=4)


def reference(
    numbers: range, steps: int, lost: dict[int, Collection[int]], digits: dict[int, int]
) -> tuple[list[Array], list[Array]]:
    theta, adam, path = START.copy(), Adam(), []
    for k in numbers:
        kept = [i for i in range(4) if not {2 * i, 2 * i + 1} & set(lost.get(k, ()))]
        u = np.array([torch.randn(PARAMETERS, generator=named("probe", k, i)).double().numpy() for i in kept])
        if kept:
            values = [round(loss_at(theta + side * 0.07 * one, k), digits.get(k, 16)) for one in u for side in (1, -1)]
            assert k not in digits or 2 < len(set(values)) < len(values)
            rank = (rankdata(values) - 1) / (len(values) - 1) - 0.5
            g = np.mean([(rank[2 * i] - rank[2 * i + 1]) / (2 * 0.07) * one for i, one in enumerate(u)], 0)
            theta = theta + adam(g, falls(0.06, k, steps))
        path.append(theta)
    return path, adam.gradients


def test_nes_takes_the_papers_steps_with_ties_and_without_the_pairs_that_lost_a_side() -> None:
    lost: dict[int, Collection[int]] = {1: [3], 3: range(8), 4: [0, 1, 2, 5]}
    digits = {2: 1}
    gradients: list[Array] = []
    found = vectors(
        lambda fuse: Nes(CONFIG, PROBLEM, fuse), range(7), 7, resume=3, gradients=gradients, lost=lost, digits=digits
    )  # fmt: skip
    path, estimates = reference(range(7), 7, lost, digits)
    follows(found, path)
    estimated(gradients, estimates)
    assert Nes(CONFIG, PROBLEM, small_fuse()).queries_per_image == 8


@pytest.mark.parametrize(
    ("losses", "ranks"),
    [
        ([0.7, -3.0, 11.0, 0.9], [-1 / 6, -1 / 2, 1 / 2, 1 / 6]),
        ([5.0, 3.0], [1 / 2, -1 / 2]),
        ([4.0, 4.0], [0.0, 0.0]),
        ([4.0, 9.0, 4.0, 4.0, -1.0], [0.0, 1 / 2, 0.0, 0.0, -1 / 2]),
        ([2.0, 7.0, 7.0], [-1 / 2, 1 / 4, 1 / 4]),
        ([3.0], [0.0]),
        ([], []),
    ],
)
def test_a_centred_rank_is_the_place_from_minus_to_plus_a_half_and_equals_share_their_mean(
    losses: list[float], ranks: list[float]
) -> None:
    found = centred_ranks(losses)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(ranks))


def test_losses_that_differ_in_the_last_digits_of_float64_do_not_tie() -> None:
    torch.testing.assert_close(centred_ranks([1.0 + 1e-14, 1.0, 1.0 - 1e-14]), torch.tensor([0.5, 0.0, -0.5]))
