"""What a watch finds, from answers made by hand: noise, drift and knowledge of chips, relative to the spread of all logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from bbfuse.querying.cache import Store
from bbfuse.querying.drift import Watch

CHIP = Chip(0.05, 4)
IMAGES = torch.linspace(-1.0, 1.0, 11 * 4).reshape(11, 1, 2, 2)
FIRST = torch.tensor([[[0.5, -1.5], [2.0, 0.25]] * 4, [[3.0, -0.5], [-2.5, 1.25]] * 4])
"""(questions, images, classes): at nominal voltage, on the chip."""
SPREAD = float(np.std(FIRST.numpy()))


class Answering:
    """A ledger whose target gives these answers, one set an asking."""

    def __init__(self, answers: Sequence[Tensor], store: Store | None = None) -> None:
        self.left, self.store, self.reuses = list(answers), store, True
        self.asked: list[list[tuple[int, Chip, bool]]] = []

    def ask_all(self, questions: Any, fresh: bool = False) -> list[Tensor]:
        self.asked.append([(len(images), chip, fresh) for images, chip in questions])
        return list(self.left.pop(0))

    def seen(self, images: Tensor) -> Tensor:
        return images


def changed(by: float, place: tuple[int, int, int] = (1, 5, 0)) -> Tensor:
    answers = FIRST.clone()
    answers[place] += by * SPREAD
    return answers


def opened(*answers: Tensor, store: Store | None = None) -> tuple[Watch, Any, list[str]]:
    watch, ledger = Watch(IMAGES, CHIP, 3), Answering(answers, store)
    return watch, ledger, watch.open(ledger)  # type: ignore[arg-type]


def test_the_first_eight_images_are_asked_twice_at_nominal_voltage_and_on_the_chip() -> None:
    watch, ledger, told = opened(FIRST, FIRST)
    assert ledger.asked == [[(8, NOMINAL, True), (8, CHIP, True)]] * 2
    assert watch.asked_once == (8, 8)
    assert told == []
    assert watch.found("logits") == {
        "answers": "logits",
        "deterministic": True,
        "honours_chip": True,
        "noise": 0.0,
        "drift": None,
    }
    assert ledger.reuses


@pytest.mark.parametrize("by", [0.85, -0.85])
def test_noise_is_the_largest_change_of_a_logit_in_shares_of_the_spread(by: float) -> None:
    watch, ledger, told = opened(FIRST, changed(by))
    found = watch.found("logits")
    assert found["noise"] == pytest.approx(0.85, rel=1e-5)
    assert found["deterministic"] is False
    assert told == ["the target does not repeat itself: asked twice, it changed a logit by 85 % of their spread"]
    assert ledger.reuses is False


@pytest.mark.parametrize(("by", "deterministic"), [(0.6e-5, True), (1.4e-5, False)])
def test_a_hundred_thousandth_of_the_spread_is_what_rounding_may_change(by: float, deterministic: bool) -> None:
    watch = Watch(IMAGES, CHIP, 3)
    ledger = Answering([FIRST.double(), FIRST.double() + by * SPREAD])
    assert len(watch.open(ledger)) == (not deterministic)  # type: ignore[arg-type]
    assert watch.found("logits")["deterministic"] is ledger.reuses is deterministic
    again = Watch(IMAGES, CHIP, 3)
    ledger = Answering([FIRST.double(), FIRST.double(), FIRST.double() - by * SPREAD])
    again.open(ledger)  # type: ignore[arg-type]
    assert again.again(ledger) == pytest.approx(by, rel=1e-3)  # type: ignore[arg-type]
    assert ledger.reuses is deterministic


def test_a_change_of_exactly_what_is_allowed_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers with a spread of exactly 1; one logit changes its sign, which is a change of exactly 2."""
    monkeypatch.setattr("bbfuse.querying.drift._ROUNDING", 2.0)
    sides = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]] * 4, [[1.0, -1.0], [1.0, -1.0]] + [[-1.0, 1.0], [1.0, -1.0]] * 3])
    flipped = sides.clone()
    flipped[0, 3, 1] *= -1.0
    watch, ledger, told = opened(sides, flipped)
    assert watch.found(None)["noise"] == 2.0
    assert watch.found(None)["deterministic"] is ledger.reuses is True
    assert watch.found(None)["honours_chip"] is False  # on the chip the sign changes as well, and nothing else
    assert len(told) == 1
    watch, ledger, _ = opened(sides, sides, flipped)
    assert watch.again(ledger) == 2.0
    assert ledger.reuses
    store = Store(tmp_path, "somebody")
    store.keep(store.keys(IMAGES[:8], NOMINAL), flipped[0])
    _, ledger, told = opened(sides, sides, store=store)
    assert (len(told), ledger.reuses) == (1, True)
    store.close()


def test_drift_is_the_largest_change_since_the_opening_and_three_times_the_noise_is_still_noise() -> None:
    watch, ledger, _ = opened(FIRST, changed(0.1), changed(0.2, (0, 7, 1)), changed(0.29, (0, 0, 1)), changed(-0.31), FIRST)
    ledger.reuses = True
    assert watch.again(ledger) == pytest.approx(0.2, rel=1e-5)
    assert watch.found(None)["drift"] == pytest.approx(0.2, rel=1e-5)
    assert watch.again(ledger) == pytest.approx(0.29, rel=1e-5)
    assert ledger.reuses
    assert watch.again(ledger) == pytest.approx(0.31, rel=1e-5)
    assert not ledger.reuses
    assert watch.again(ledger) == 0.0
    assert watch.found(None)["drift"] == pytest.approx(0.31, rel=1e-5)
    assert ledger.asked[-1] == [(8, NOMINAL, True), (8, CHIP, True)]


@pytest.mark.parametrize(("apart", "honours"), [(0.28, False), (0.32, True)])
def test_a_chip_is_known_if_it_answers_otherwise_by_more_than_the_noise(apart: float, honours: bool) -> None:
    alike = torch.stack([FIRST[0], FIRST[0]]).double()
    spread = float(np.std(alike.numpy()))
    alike[1, 2, 1] += apart * spread
    spread_now = float(np.std(alike.numpy()))
    noisy = alike.clone()
    noisy[0, 0, 0] -= 0.1 * spread
    watch, _, told = opened(alike, noisy)
    assert watch.found(None)["noise"] == pytest.approx(0.1 * spread / spread_now, rel=1e-6)
    assert watch.found(None)["honours_chip"] is honours
    assert told[1:] == ([] if honours else [
        "the target answers alike at nominal voltage and on chip 4: it does not know chips, unless it is one"
    ])  # fmt: skip


def test_answers_that_are_all_the_same_have_the_smallest_spread() -> None:
    flat = torch.full((2, 8, 2), 0.7, dtype=torch.float64)
    watch, _, _ = opened(flat, flat + 3e-12)
    assert watch.found(None)["noise"] == pytest.approx(3.0, rel=1e-3)


def test_without_bit_errors_nominal_voltage_alone_is_asked_and_without_times_nothing() -> None:
    watch, ledger = Watch(IMAGES, NOMINAL, 2), Answering([FIRST[:1], FIRST[:1]])
    assert watch.open(ledger) == []  # type: ignore[arg-type]
    assert ledger.asked == [[(8, NOMINAL, True)]] * 2
    assert watch.asked_once == (8,)
    assert watch.found("logits")["honours_chip"] is None
    never, ledger = Watch(IMAGES, CHIP, 0), Answering([])
    assert never.open(ledger) == []  # type: ignore[arg-type]
    assert never.asked_once == ()
    assert never.found(None) == {"answers": None, "deterministic": None, "honours_chip": None, "noise": None, "drift": None}


def test_what_was_found_goes_on_after_loading() -> None:
    watch, _, _ = opened(FIRST, changed(0.1))
    other = Watch(IMAGES, CHIP, 3)
    other.load_state_dict(watch.state_dict())
    assert other.found("x") == watch.found("x")
    ledger = Answering([changed(0.29), changed(0.31)])
    assert other.again(ledger) == pytest.approx(0.29, rel=1e-5)  # type: ignore[arg-type]
    assert ledger.reuses
    other.again(ledger)  # type: ignore[arg-type]
    assert not ledger.reuses
    third = Watch(IMAGES, CHIP, 3)
    third.load_state_dict(other.state_dict())
    assert third.found("x")["drift"] == pytest.approx(0.31, rel=1e-5)


@pytest.mark.parametrize(("moved", "told"), [(0.0, 0), (0.9e-5, 0), (1.2e-5, 1), (-0.4, 1)])
def test_a_store_is_used_if_it_holds_what_the_target_says_and_is_filled_if_it_holds_nothing(
    moved: float, told: int, tmp_path: Path
) -> None:
    with_store = Store(tmp_path, "somebody")
    _, ledger, words = opened(FIRST, FIRST, store=with_store)
    assert (words, ledger.reuses) == ([], True)
    for place, chip in enumerate((NOMINAL, CHIP)):
        rows = with_store.find(with_store.keys(IMAGES[:8], chip))
        assert torch.equal(torch.stack([row for row in rows if row is not None]), FIRST[place])
    later = changed(moved, (1, 6, 1))
    _, ledger, words = opened(later, later, store=with_store)
    assert len(words) == told
    assert ledger.reuses is not bool(told)
    if told:
        assert words == [
            f"{with_store.path} holds other answers than the target gives now, so it is not used: choose another "
            "`remote.store`, or delete it"
        ]
    noisy = opened(FIRST, changed(0.3), store=with_store)[2]
    assert noisy == [
        "the target does not repeat itself: asked twice, it changed a logit by 30 % of their spread; no answer is taken from "
        "`remote.store`"
    ]
    with_store.close()
