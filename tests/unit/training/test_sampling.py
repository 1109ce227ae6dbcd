"""Batches: inclusion probabilities, weights and their unbiasedness, exactly; and the named random streams."""

from __future__ import annotations

import hashlib
import itertools
import struct
from typing import Any

import numpy as np
import pytest
import torch

from bbfuse import seeds
from bbfuse.training.sampling import Sampler

HARD = torch.tensor([0.9, 0.25, 0.0, 0.64, 0.81, 1.0, 0.04, 0.49, 0.36, 0.16, 0.0004])


def named(seed: int, *name: str | int) -> torch.Generator:
    digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
    return torch.Generator().manual_seed(struct.unpack(">Q", digest[:8])[0] // 2)


def sampler(batch: int, hard: bool = True) -> Sampler:
    made = Sampler(len(HARD), batch, hard)
    made.observe(torch.arange(len(HARD)), HARD)
    return made


def wanted(difficulty: Any, batch: int) -> Any:
    """0.8 by the root of the difficulty, at least 0.001, and 0.2 alike; then the one factor with which all but those at the cap
    of ``1 / batch`` sum to one, by bisection."""
    root = np.sqrt(np.maximum(difficulty, 1e-3))
    p = 0.8 * root / root.sum() + 0.2 / len(root)
    low, high = 1.0, 1000.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(middle * p, 1.0 / batch).sum() < 1.0 else (low, middle)
    return np.minimum(high * p, 1.0 / batch)


@pytest.mark.parametrize("batch", [1, 3, 6, 9])
def test_probabilities_go_by_the_root_of_the_difficulty_with_a_floor_a_uniform_share_and_a_cap(batch: int) -> None:
    expected = wanted(HARD.double().numpy(), batch)
    assert (expected > 1.0 / batch - 1e-9).sum() == {1: 0, 3: 0, 6: 0, 9: 7}[batch]
    np.testing.assert_allclose(sampler(batch).probabilities(), expected, rtol=2e-7)  # the cap is found in float32
    np.testing.assert_allclose(sampler(batch, hard=False).probabilities(), np.full(len(HARD), 1.0 / len(HARD)), rtol=1e-12)


def test_images_never_asked_are_as_hard_as_can_be_and_what_was_seen_is_kept_by_image() -> None:
    made = Sampler(4, 2, hard=True)
    made.observe(torch.tensor([3, 1]), torch.tensor([0.36, 0.04]))
    np.testing.assert_allclose(made.difficulty, [1.0, 0.04, 1.0, 0.36], rtol=1e-6)
    np.testing.assert_allclose(made.probabilities(), wanted(np.array([1.0, 0.04, 1.0, 0.36]), 2), rtol=1e-6)


def drawn_at(made: Sampler, start: float, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The batch for one order of the images and that start point of the systematic sampling."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda *_, **__: torch.tensor(start, dtype=torch.float64))
        index, weights = made.draw(torch.Generator().manual_seed(6))
    return index.numpy(), weights.double().numpy()


@pytest.mark.parametrize(("batch", "hard"), [(1, True), (3, True), (5, False), (9, True)])
def test_over_all_start_points_each_image_is_drawn_with_probability_n_p_and_the_weighted_mean_is_exact(
    batch: int, hard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sampler(batch, hard)
    p = wanted(HARD.double().numpy(), batch) if hard else np.full(len(HARD), 1 / len(HARD))
    order = torch.randperm(len(HARD), generator=torch.Generator().manual_seed(6)).numpy()
    # between two of these the batch is the same
    ends = np.unique(np.concatenate([[0.0, 1.0], np.cumsum(p[order] * batch) % 1.0]))
    values = np.linspace(-3.0, 5.0, len(HARD)) ** 2
    often, mean = np.zeros(len(HARD)), 0.0
    for low, high in itertools.pairwise(ends):
        if high - low < 1e-9:
            continue
        index, weights = drawn_at(made, (low + high) / 2, monkeypatch)
        assert len(set(index)) == batch
        np.testing.assert_allclose(weights, 1.0 / (len(HARD) * p[index]), rtol=1e-6)
        often[index] += high - low
        mean += (high - low) * (weights * values[index]).mean()
    np.testing.assert_allclose(often, batch * p, atol=1e-7)
    assert mean == pytest.approx(values.mean(), rel=1e-6)


def test_an_image_owns_its_stretch_from_the_beginning_to_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Sampler(8, 4, hard=False)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(6)).numpy()
    for start, first in ((0.0, 0), (0.25, 0), (0.5, 1), (0.99, 1)):
        assert drawn_at(made, start, monkeypatch)[0].tolist() == order[first::2].tolist()


def test_a_point_that_rounding_puts_at_the_very_end_is_the_last_image(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Sampler(10, 5, hard=False)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(6)).numpy()
    assert drawn_at(made, 1.0 - 2.0**-53, monkeypatch)[0][-1] == order[-1]  # 4 + that is 5 in float64


def test_the_order_and_the_start_point_come_from_the_stream() -> None:
    made = sampler(3)
    index, weights = made.draw(named(5, "batch", 2))
    rng = named(5, "batch", 2)
    order = torch.randperm(len(HARD), generator=rng).numpy()
    points = np.arange(3) + torch.rand((), generator=rng, dtype=torch.float64).item()
    p = wanted(HARD.double().numpy(), 3)
    edges = np.cumsum(p[order] * 3)
    assert index.tolist() == [order[np.flatnonzero(edges > point)[0]] for point in points]
    assert weights.dtype == torch.float32


def test_the_mean_over_many_batches_is_that_over_all_images() -> None:
    # 5 standard errors: error probability below 6e-7
    made, rng = sampler(4), torch.Generator().manual_seed(0)
    values = torch.linspace(-2.0, 7.0, len(HARD)).square()
    batches = [made.draw(rng) for _ in range(1000)]
    means = torch.stack([(weights * values[index]).mean() for index, weights in batches])
    assert abs(means.mean() - values.mean()) < 5 * means.std() / 1000**0.5


def test_a_batch_is_no_larger_than_what_is_owned() -> None:
    made = Sampler(3, 7, hard=True)
    made.observe(torch.arange(3), torch.tensor([0.1, 0.7, 0.3]))
    index, weights = made.draw(torch.Generator())
    assert sorted(index.tolist()) == [0, 1, 2]
    np.testing.assert_allclose(weights, np.ones(3), rtol=1e-6)
    assert Sampler(8, 8, hard=False).probabilities().tolist() == [0.125] * 8  # each at the cap, none above it


def test_a_stream_is_seeded_by_the_first_63_bits_of_the_hash_of_its_name() -> None:
    for name in ((3, "probe", 5, 2), (0, "batch"), (4, "term", 11)):
        assert seeds.stream(*name).initial_seed() == named(*name).initial_seed()
    assert seeds.stream(0, "probe", 1, 2).initial_seed() == 2_317_972_401_755_107_799


def test_fair_signs_are_minus_one_or_one_as_the_stream_says() -> None:
    bits = torch.randint(0, 2, (40, 5, 3), generator=named(1, "signs"))
    found = seeds.fair_signs((40, 5, 3), named(1, "signs"))
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.where(bits == 1, 1.0, -1.0))
    assert 0 < (found == 1.0).sum() < 600


def test_training_chips_are_drawn_from_30_000_or_from_a_pool_of_the_first_ones() -> None:
    every = torch.randint(30_000, (400_000,), generator=named(7, "training chips", 4)).tolist()
    assert seeds.training_chips(7, 4, 400_000) == every
    assert (min(every), max(every)) == (0, 29_999)
    assert seeds.training_chips(7, 4, 400_000, 10**6) == every  # no pool is larger
    for pool in (1, 6, 29_999):
        assert (
            seeds.training_chips(7, 4, 50, pool) == torch.randint(pool, (50,), generator=named(7, "training chips", 4)).tolist()
        )
    assert seeds.training_chips(7, 5, 3) != seeds.training_chips(7, 4, 3) != seeds.training_chips(8, 4, 3)


def test_validation_and_reporting_chips_have_ranges_of_their_own() -> None:
    assert [seeds.validation_chip(index) for index in (0, 3, 9_999)] == [40_000, 40_003, 49_999]
    assert seeds.reporting_chips(0) == []
    assert seeds.reporting_chips(4) == [50_000, 50_001, 50_002, 50_003]  # NeuralFuse's
