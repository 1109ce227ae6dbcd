"""Drift checks on responses made by hand: noise, drift and dependence on the chip, relative to the spread of all logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from bbfuse.querying.cache import ResponseCache
from bbfuse.querying.drift import DriftCheck

CHIP = Chip(0.05, 4)
IMAGES = torch.linspace(-1.0, 1.0, 11 * 4).reshape(11, 1, 2, 2)
FIRST = torch.tensor([[[0.5, -1.5], [2.0, 0.25]] * 4, [[3.0, -0.5], [-2.5, 1.25]] * 4])
"""(questions, images, classes): at nominal voltage, on the chip."""
SPREAD = float(np.std(FIRST.numpy()))


class Answering:
    """A ledger whose target gives these answers, one set an asking."""

    def __init__(self, answers: Sequence[Tensor], store: ResponseCache | None = None) -> None:
        self.left, self.cache, self.uses_cache = list(answers), store, True
        self.asked: list[list[tuple[int, Chip, bool]]] = []

    def query_all(self, questions: Any, fresh: bool = False) -> list[Tensor]:
        self.asked.append([(len(images), chip, fresh) for images, chip in questions])
        return list(self.left.pop(0))

    def as_received(self, images: Tensor) -> Tensor:
        return images


def changed(by: float, place: tuple[int, int, int] = (1, 5, 0)) -> Tensor:
    answers = FIRST.clone()
    answers[place] += by * SPREAD
    return answers


def opened(*answers: Tensor, store: ResponseCache | None = None) -> tuple[DriftCheck, Any, list[str]]:
    drift, ledger = DriftCheck(IMAGES, CHIP, 3), Answering(answers, store)
    return drift, ledger, drift.first_check(ledger)  # type: ignore[arg-type]


def test_the_first_eight_images_are_sent_twice_at_nominal_voltage_and_on_the_chip() -> None:
    drift, ledger, told = opened(FIRST, FIRST)
    assert ledger.asked == [[(8, NOMINAL, True), (8, CHIP, True)]] * 2
    assert drift.queries_per_check == (8, 8)
    assert told == []
    assert drift.summary("logits") == {
        "answers": "logits",
        "deterministic": True,
        "honours_chip": True,
        "noise": 0.0,
        "drift": None,
    }
    assert ledger.uses_cache


@pytest.mark.parametrize("by", [0.85, -0.85])
def test_noise_is_the_largest_change_of_a_logit_in_shares_of_the_spread(by: float) -> None:
    drift, ledger, told = opened(FIRST, changed(by))
    found = drift.summary("logits")
    assert found["noise"] == pytest.approx(0.85, rel=1e-5)
    assert found["deterministic"] is False
    assert told == ["responses are not repeatable: the same query changed a logit by 85 % of their spread"]
    assert ledger.uses_cache is False


@pytest.mark.parametrize(("by", "deterministic"), [(0.6e-5, True), (1.4e-5, False)])
def test_a_hundred_thousandth_of_the_spread_is_what_rounding_may_change(by: float, deterministic: bool) -> None:
    drift = DriftCheck(IMAGES, CHIP, 3)
    ledger = Answering([FIRST.double(), FIRST.double() + by * SPREAD])
    assert len(drift.first_check(ledger)) == (not deterministic)  # type: ignore[arg-type]
    assert drift.summary("logits")["deterministic"] is ledger.uses_cache is deterministic
    again = DriftCheck(IMAGES, CHIP, 3)
    ledger = Answering([FIRST.double(), FIRST.double(), FIRST.double() - by * SPREAD])
    again.first_check(ledger)  # type: ignore[arg-type]
    assert again.check(ledger) == pytest.approx(by, rel=1e-3)  # type: ignore[arg-type]
    assert ledger.uses_cache is deterministic


def test_a_change_equal_to_the_threshold_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers with a spread of exactly 1; one logit changes its sign, which is a change of exactly 2."""
    monkeypatch.setattr("bbfuse.querying.drift._ROUNDING", 2.0)
    sides = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]] * 4, [[1.0, -1.0], [1.0, -1.0]] + [[-1.0, 1.0], [1.0, -1.0]] * 3])
    flipped = sides.clone()
    flipped[0, 3, 1] *= -1.0
    drift, ledger, told = opened(sides, flipped)
    assert drift.summary(None)["noise"] == 2.0
    assert drift.summary(None)["deterministic"] is ledger.uses_cache is True
    assert drift.summary(None)["honours_chip"] is False  # on the chip the sign changes as well, and nothing else
    assert len(told) == 1
    drift, ledger, _ = opened(sides, sides, flipped)
    assert drift.check(ledger) == 2.0
    assert ledger.uses_cache
    store = ResponseCache(tmp_path, "somebody")
    store.keep(store.keys(IMAGES[:8], NOMINAL), flipped[0])
    _, ledger, told = opened(sides, sides, store=store)
    assert (len(told), ledger.uses_cache) == (1, True)
    store.close()


def test_drift_is_the_largest_change_since_the_first_check_and_three_times_the_noise_is_noise() -> None:
    drift, ledger, _ = opened(FIRST, changed(0.1), changed(0.2, (0, 7, 1)), changed(0.29, (0, 0, 1)), changed(-0.31), FIRST)
    ledger.uses_cache = True
    assert drift.check(ledger) == pytest.approx(0.2, rel=1e-5)
    assert drift.summary(None)["drift"] == pytest.approx(0.2, rel=1e-5)
    assert drift.check(ledger) == pytest.approx(0.29, rel=1e-5)
    assert ledger.uses_cache
    assert drift.check(ledger) == pytest.approx(0.31, rel=1e-5)
    assert not ledger.uses_cache
    assert drift.check(ledger) == 0.0
    assert drift.summary(None)["drift"] == pytest.approx(0.31, rel=1e-5)
    assert ledger.asked[-1] == [(8, NOMINAL, True), (8, CHIP, True)]


@pytest.mark.parametrize(("apart", "honours"), [(0.28, False), (0.32, True)])
def test_chips_are_honoured_if_responses_differ_by_more_than_the_noise(apart: float, honours: bool) -> None:
    alike = torch.stack([FIRST[0], FIRST[0]]).double()
    spread = float(np.std(alike.numpy()))
    alike[1, 2, 1] += apart * spread
    spread_now = float(np.std(alike.numpy()))
    noisy = alike.clone()
    noisy[0, 0, 0] -= 0.1 * spread
    drift, _, told = opened(alike, noisy)
    assert drift.summary(None)["noise"] == pytest.approx(0.1 * spread / spread_now, rel=1e-6)
    assert drift.summary(None)["honours_chip"] is honours
    assert told[1:] == ([] if honours else [
        "responses are the same at nominal voltage and on chip 4: the server ignores chips, or is itself one chip"
    ])  # fmt: skip


def test_constant_responses_have_the_smallest_spread() -> None:
    flat = torch.full((2, 8, 2), 0.7, dtype=torch.float64)
    drift, _, _ = opened(flat, flat + 3e-12)
    assert drift.summary(None)["noise"] == pytest.approx(3.0, rel=1e-3)


def test_without_bit_errors_only_nominal_queries_are_sent_and_without_times_none() -> None:
    drift, ledger = DriftCheck(IMAGES, NOMINAL, 2), Answering([FIRST[:1], FIRST[:1]])
    assert drift.first_check(ledger) == []  # type: ignore[arg-type]
    assert ledger.asked == [[(8, NOMINAL, True)]] * 2
    assert drift.queries_per_check == (8,)
    assert drift.summary("logits")["honours_chip"] is None
    never, ledger = DriftCheck(IMAGES, CHIP, 0), Answering([])
    assert never.first_check(ledger) == []  # type: ignore[arg-type]
    assert never.queries_per_check == ()
    assert never.summary(None) == {"answers": None, "deterministic": None, "honours_chip": None, "noise": None, "drift": None}


def test_results_are_restored_by_loading() -> None:
    drift, _, _ = opened(FIRST, changed(0.1))
    other = DriftCheck(IMAGES, CHIP, 3)
    other.load_state_dict(drift.state_dict())
    assert other.summary("x") == drift.summary("x")
    ledger = Answering([changed(0.29), changed(0.31)])
    assert other.check(ledger) == pytest.approx(0.29, rel=1e-5)  # type: ignore[arg-type]
    assert ledger.uses_cache
    other.check(ledger)  # type: ignore[arg-type]
    assert not ledger.uses_cache
    third = DriftCheck(IMAGES, CHIP, 3)
    third.load_state_dict(other.state_dict())
    assert third.summary("x")["drift"] == pytest.approx(0.31, rel=1e-5)


@pytest.mark.parametrize(("moved", "told"), [(0.0, 0), (0.9e-5, 0), (1.2e-5, 1), (-0.4, 1)])
def test_a_cache_is_used_if_it_agrees_with_the_responses_and_is_filled_if_it_is_empty(
    moved: float, told: int, tmp_path: Path
) -> None:
    with_store = ResponseCache(tmp_path, "somebody")
    _, ledger, words = opened(FIRST, FIRST, store=with_store)
    assert (words, ledger.uses_cache) == ([], True)
    for place, chip in enumerate((NOMINAL, CHIP)):
        rows = with_store.find(with_store.keys(IMAGES[:8], chip))
        assert torch.equal(torch.stack([row for row in rows if row is not None]), FIRST[place])
    later = changed(moved, (1, 6, 1))
    _, ledger, words = opened(later, later, store=with_store)
    assert len(words) == told
    assert ledger.uses_cache is not bool(told)
    if told:
        assert words == [
            f"{with_store.path} differs from the responses received now, so it is not used: choose another "
            "`remote.store`, or delete it"
        ]
    noisy = opened(FIRST, changed(0.3), store=with_store)[2]
    assert noisy == [
        "responses are not repeatable: the same query changed a logit by 30 % of their spread; `remote.store` is not used"
    ]
    with_store.close()
