"""Which bits and channels matter: error power by bit, tolerated rates by bisection, correlations of channels, all with toys."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from backends.datasets.base import Split
from backends.memory.protection.policy import Layer, Protection
from backends.memory.protection.simulator import Scores, layers_of
from backends.memory.simulator import Simulator
from bbfuse.seeds import training_chips
from experiments import cross_layer_profiles
from tests.helpers.studies.toys import TOY_SHAPE, cells, headers, toy_network

ALL = (4**8 - 1) // 3  # 1 + 4 + 16 + ... + 4^7


def test_the_setting_is_the_stated_one() -> None:
    named = ("BITS", "CHIPS", "IMAGES", "RATE_OF_POWER", "QUERIES", "FIRST", "CHANNEL_RATE", "IMPORTANT", "LIMITS")
    assert [getattr(cross_layer_profiles, name) for name in named] == [
        8, 10, 200, 0.001, (2000, 3500), {2000: 2, 3500: 4}, 0.05, 0.3, {"logits": 0.01, "answers": 0.02}
    ]  # fmt: skip
    assert [*cross_layer_profiles.SEEDS] == [0, 1, 2]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Any:
    rng = torch.Generator().manual_seed(4)
    train = Split(torch.rand((801, *TOY_SHAPE), generator=rng) * 2 - 1, torch.zeros(801).long())
    layers = layers_of(toy_network(), train.images)
    scores = Scores({"1": torch.tensor([0.3, 0.9, 0.5])}, {"1": torch.tensor([4.0, 2.0, 7.0])})
    known = {"known": lambda clip: {1.0: (layers, scores)}[clip], "network": lambda clip: {1.0: toy_network()}[clip]}
    bench = SimpleNamespace(dataset=SimpleNamespace(train=train), **known)
    monkeypatch.setattr(cross_layer_profiles, "DIGITS", bench)
    return bench


def test_power_is_the_share_of_squared_errors_by_the_place_of_a_wrong_bit(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_layer_profiles, "RATE_OF_POWER", 0.1)
    monkeypatch.setattr(cross_layer_profiles, "CHIPS", 4)
    monkeypatch.setattr(cross_layer_profiles, "IMAGES", 21)
    rows = cross_layer_profiles._powers()
    simulator = Simulator(toy_network())
    images = toy.dataset.train.images[:21].flatten(1).double().numpy()
    right = simulator.weights(NOMINAL)["1.weight"].double().numpy()
    step = np.abs(right).max() / 127
    codes = np.rint(right / step).astype(np.int64)
    weights, logits = np.zeros(8), np.zeros(8)
    for seed in training_chips(0, 0, 4):
        read = np.rint(simulator.weights(Chip(0.1, seed))["1.weight"].double().numpy() / step).astype(np.int64)
        wrong = (codes ^ read) & 255
        for bit in range(8):
            flipped = ((codes & 255) ^ (wrong & 1 << bit)).astype(np.uint8).astype(np.int8) - codes
            weights[bit] += np.sum(flipped.astype(float) ** 2)
            logits[bit] += np.sum((images @ flipped.T * step) ** 2)
    assert all(weights > 0)
    expected = []
    for site, found in (("weights", weights), ("logits", logits)):
        expected += [("power", site, bit, found[bit] / found.sum(), 4**bit / ALL) for bit in range(8)]
        expected += [
            ("left", site, top, found[: 8 - top].sum() / found.sum(), sum(4**bit for bit in range(8 - top)) / ALL)
            for top in (1, 2, 3, 4)
        ]
    assert [(row["kind"], row["site"], row["place"]) for row in rows] == [row[:3] for row in expected]
    assert [row["value"] for row in rows] == pytest.approx([row[3] for row in expected], rel=1e-4)
    assert [row["expected"] for row in rows] == pytest.approx([row[4] for row in expected], rel=1e-9)
    assert all((row["data"], row["sd"], row["queries"]) == ("digits", 0.0, None) for row in rows)


def test_rates_are_relative_to_no_protection_and_expected_by_the_power_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"logits": (0.002, 0.007, 0.03, 0.11), "answers": (0.004, 0.01, 0.05, 0.3)}
    monkeypatch.setattr(cross_layer_profiles, "_tolerated", lambda count, site: found[site][count])
    rows = cross_layer_profiles._rates()
    assert [(row["site"], row["place"]) for row in rows] == [(site, count) for site in found for count in range(4)]
    assert [row["value"] for row in rows] == pytest.approx([1, 3.5, 15, 55, 1, 2.5, 12.5, 75])
    assert [row["expected"] for row in rows] == pytest.approx([1, ALL / 5461, ALL / 1365, ALL / 341] * 2)
    assert all((row["kind"], row["sd"], row["queries"]) == ("rate", 0.0, None) for row in rows)


CLEAN = torch.tensor([[1.0, 3.0, -2.0], [0.5, 0.0, 2.5], [4.0, -1.0, 0.0], [2.0, 6.0, 1.0]])
SEEDS = training_chips(0, 1, 10)


def simulator_of(harm: Any, made: list[Any]) -> type:
    class Simulated:
        def __init__(self, network: Any, layers: Any, memory: Any, protection: Protection) -> None:
            made.append((memory, protection))

        def logits(self, images: Tensor, chip: Chip) -> Tensor:
            made.append(len(images))
            return CLEAN if chip == NOMINAL else harm(chip.bit_error_rate, SEEDS.index(chip.seed))

    return Simulated


LOW, WIDTH = math.log(1e-5), math.log(0.5 / 1e-5)


@pytest.mark.parametrize(("site", "limit"), [("logits", 0.01), ("answers", 0.5)])
@pytest.mark.parametrize("threshold", [2e-5, 3.3e-3, 0.21])
@pytest.mark.usefixtures("toy")
def test_the_tolerated_rate_is_found_to_a_two_hundred_and_fifty_sixth_of_the_range(
    site: str, limit: float, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harm of the chips together reaches the limit at the threshold, that of the first and the last one elsewhere."""
    weights = [3.0, *[1.0] * 8, 0.0]

    def harm(rate: float, chip: int) -> Tensor:
        if site == "logits":
            share = limit * (rate / threshold) * weights[chip]
            return CLEAN + (share * 10 / 11 * float(CLEAN.numpy().var(ddof=1))) ** 0.5
        wrong = CLEAN.clone()
        wrong[: 2 if rate >= threshold else 1, [0, 1, 2]] = CLEAN[: 2 if rate >= threshold else 1, [1, 2, 0]]
        return wrong

    made: list[Any] = []
    monkeypatch.setattr(cross_layer_profiles, "ProtectedSimulator", simulator_of(harm, made))
    monkeypatch.setitem(cross_layer_profiles.LIMITS, site, limit)
    found = cross_layer_profiles._tolerated(3, site)
    place = math.floor((math.log(threshold) - LOW) / WIDTH * 256)
    assert math.log(found) == pytest.approx(LOW + WIDTH * (place + 0.5) / 256, abs=1e-9)
    assert made[0] == (None, Protection("void", inner=3, outer=3))
    assert made[1:] == [200] * 81  # eight halvings of ten chips


@pytest.mark.usefixtures("toy")
def test_a_harm_exactly_at_the_limit_is_not_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cross_layer_profiles.LIMITS, "answers", 0.25)
    other = CLEAN.clone()
    other[2] = torch.tensor([0.0, 5.0, 1.0])
    monkeypatch.setattr(cross_layer_profiles, "ProtectedSimulator", simulator_of(lambda *_: other, []))
    assert math.log(cross_layer_profiles._tolerated(0, "answers")) == pytest.approx(LOW + WIDTH / 512)


def test_channels_are_compared_with_gradients_for_each_budget_and_seed(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    built: list[Any] = []

    class Simulated:
        def __init__(self, network: Any, layers: Any, **more: Any) -> None:
            built.append((list(layers), more))

        def logits(self, images: Tensor, chip: Chip) -> Any:
            return "clean", len(images), chip

        def confined(self, images: Tensor, chip: Chip, site: str, masks: dict[str, Tensor]) -> Any:
            return len(images), chip, site, {name: mask.tolist() for name, mask in masks.items()}

    def from_responses(ask: Any, images: Tensor, channels: int, budget: int, share: float, **more: Any) -> Any:
        asked.append((ask(images[:5], 4, 17), ask(images[:3], None, 6), images, channels, budget, share, more["first"]))
        assert more["rng"].initial_seed() == (len(asked) - 1) % 3
        return SimpleNamespace(mean=torch.tensor(float(len(asked))))

    wide = Layer(2, 7, 1, 1.0, torch.zeros(2), torch.zeros(2))
    layers, scores = toy.known(1.0)
    more = Scores({**scores.weights, "9": torch.tensor([8.0, 6.0])}, {**scores.results, "9": torch.tensor([1.0, 3.0])})
    toy.known = lambda clip: ({**layers, "9": wide}, more)
    truths: list[list[float]] = []
    correlations = iter((0.6, 0.7, 0.95, 0.1, 0.2, 0.4, 0.8, 0.8, 0.8, 0.5, 0.9, 0.1))
    monkeypatch.setattr(cross_layer_profiles, "ProtectedSimulator", Simulated)
    monkeypatch.setattr(cross_layer_profiles, "from_responses", from_responses)

    def correlation(one: Tensor, other: Tensor) -> float:
        truths.append([float(one), *other.tolist()])
        return next(correlations)

    monkeypatch.setattr(cross_layer_profiles, "rank_correlation", correlation)
    rows = cross_layer_profiles._channels()
    assert built == [(["1", "9"], {"arithmetic": 1.0})]
    four = ((0.6, 0.7, 0.95), (0.1, 0.2, 0.4), (0.8, 0.8, 0.8), (0.5, 0.9, 0.1))
    order = [(site, queries) for site in ("weights", "results") for queries in (2000, 3500)]
    assert rows == [
        {"data": "digits", "kind": "channels", "site": site, "place": None, "value": pytest.approx(np.mean(found)),
         "sd": pytest.approx(np.std(found)), "expected": 0.7, "queries": queries}
        for (site, queries), found in zip(order, four, strict=True)
    ]  # fmt: skip
    assert np.allclose(truths[0], [1.0, 0.3, 0.9, 0.5, 8.0, 6.0])
    assert np.allclose(truths[11], [12.0, 4.0, 2.0, 7.0, 1.0, 3.0])
    for place, (one, clean, images, channels, budget, share, first) in enumerate(asked):
        site, queries = order[place // 3]
        chip = Chip(0.05, 10_000 * (place % 3) + 17)
        assert one == (5, chip, site, {"9": [False, True]})
        assert clean == ("clean", 3, NOMINAL)
        assert torch.equal(images, toy.dataset.train.images[600:800])
        assert (channels, budget, share, first) == (5, queries, 0.3, {2000: 2, 3500: 4}[queries])


def test_all_three_kinds_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for name in ("_powers", "_rates", "_channels"):
        monkeypatch.setattr(cross_layer_profiles, name, lambda name=name: [name])
    settings, rows = cross_layer_profiles.RESULT.compute()
    assert (threads, rows) == ([1], ["_powers", "_rates", "_channels"])
    assert settings == {
        "chips": 10, "images": 200, "rate_of_power": 0.001, "limits": {"logits": 0.01, "answers": 0.02}, "seeds": 3,
        "channel_rate": 0.05, "important": 0.3,
    }  # fmt: skip


def test_the_table_shows_shares_in_per_cent_and_what_is_expected() -> None:
    record = cross_layer_profiles._record
    table = cross_layer_profiles._table([
        record("power", "weights", 0, 0.123, 0.25), record("left", "logits", 2, 0.0625, 0.07),
        record("rate", "answers", 3, 15.5, 16.25), record("channels", "results", None, 0.81, 0.7, 0.034, 3500),
    ])  # fmt: skip
    assert headers(table)[1:] == ["site", "place", "queries", "found", "expected"]
    assert [row[1:] for row in cells(table)] == [
        ["weights", "0", "", "12.30", "25.00"], ["logits", "2", "", "6.25", "7.00"], ["answers", "3", "", "15.50", "16.25"],
        ["results", "", "3,500", "0.81 ± 0.03", "at least 0.7"],
    ]  # fmt: skip
