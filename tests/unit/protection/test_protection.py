"""Protected bits, processing elements that err, what protection costs, and where it pays."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Dataset
from backends.memory.config import Memory, Quantization
from backends.memory.encoding import Errors, Reading, Stored, store
from backends.memory.faults.arrays import Columns
from backends.memory.faults.independent import random_flips, stuck_cells
from backends.memory.protection.cost import HARDWARE, Cost, cost
from backends.memory.protection.policy import CODES, Code, Layer, Protection, chosen, residual, word
from backends.memory.protection.simulator import ProtectedSimulator, Scores, layers_of
from backends.memory.protection.stored import Guarded, Limited
from backends.memory.protection.vulnerability import from_responses, rank_correlation
from backends.memory.simulator import Simulator

KINDS: dict[str, Errors] = {"random": random_flips, "stuck": stuck_cells, "column": Columns()}
kinds = pytest.mark.parametrize("errors", KINDS.values(), ids=KINDS)
codes = st.sampled_from(CODES)
tops = st.integers(0, 8)
seeds = st.integers(0, 2**20)


def written(size: int = 3000, bits: int = 8) -> Stored:
    return store({"a": torch.randn(size, generator=torch.Generator().manual_seed(0))}, Quantization(bits))


def top(count: int, bits: int = 8) -> dict[str, Tensor]:
    return {"a": torch.tensor((1 << bits) - (1 << (bits - count)))}


def wrong(stored: Stored, errors: Errors, chip: Chip) -> np.ndarray:
    return stored.patterns ^ Reading(stored, errors).on(chip)


def ones(patterns: np.ndarray) -> int:
    return int(np.unpackbits(patterns.view(np.uint8)).sum())


@kinds
@given(code=codes, count=tops, seed=seeds, rate=st.floats(0.0, 0.3))
@settings(max_examples=15)
def test_other_bits_are_as_wrong_as_ever_and_protection_adds_no_error_that_copies_do_not_have(
    errors: Errors, code: Code, count: int, seed: int, rate: float
) -> None:
    stored, chip = written(), Chip(rate, seed)
    mask = int(top(count)["a"])
    bare, guarded = wrong(stored, errors, chip), wrong(stored, Guarded(errors, code, top(count)), chip)
    assert np.array_equal(bare & ~np.uint8(mask), guarded & ~np.uint8(mask))
    if code == "void":
        assert not (guarded & mask).any()
    elif code != "tmr":  # words only ever correct
        assert not (guarded & mask & ~bare).any()


@given(code=codes, count=st.integers(1, 8), seed=seeds, bits=st.sampled_from([4, 8, 16]))
@settings(max_examples=20)
def test_protected_bits_are_restored_exactly_at_tiny_rates(code: Code, count: int, seed: int, bits: int) -> None:
    """No word and no three copies of 24,000 bits have two errors at 1e-7: probability below 24000 * 72 * 1e-14 = 2e-8."""
    count = min(count, bits)
    stored, chip = written(bits=bits), Chip(1e-7, seed)
    assert not (wrong(stored, Guarded(random_flips, code, top(count, bits)), chip) & int(top(count, bits)["a"])).any()


@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize("code", ["tmr", "ecc8", "ecc64"])
def test_the_share_of_protected_bits_that_stay_wrong_is_the_residual(code: Code, rate: float) -> None:
    """Within 6 sd, each error of a word taken to come in as many as the word has cells: error probability below 4e-9."""
    stored = written(200_000)
    found = ones(wrong(stored, Guarded(random_flips, code, top(4)), Chip(rate, 7)) & np.uint8(0xF0))
    bits, left = 800_000, residual(code, rate)
    together = 1 if code == "tmr" else 1 + rate * sum(word(code)) * 2
    assert abs(found - bits * left) < 6 * (bits * left * together) ** 0.5


@given(seed=seeds, low=st.floats(0.0, 0.3), high=st.floats(0.0, 0.3))
@settings(max_examples=15)
def test_errors_behind_three_copies_at_a_lower_rate_are_among_those_at_a_higher_one(seed: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    stored, guarded = written(), Guarded(random_flips, "tmr", top(8))
    assert not (wrong(stored, guarded, Chip(low, seed)) & ~wrong(stored, guarded, Chip(high, seed))).any()


@given(bit=st.integers(0, 7), seed=seeds)
@settings(max_examples=15)
def test_each_wrong_bit_does_four_times_the_squared_error_of_the_next_lower_one(bit: int, seed: int) -> None:
    stored = written()
    limited = Limited(random_flips, {"a": torch.tensor(1 << bit)})
    read = Reading(stored, limited).on(Chip(0.05, seed)).copy()
    step = float(stored.tensors()["a"].abs().max()) / 127
    change = ((stored.tensors(read)["a"] - stored.tensors()["a"]) / step).double().square()
    assert change[torch.from_numpy(read != stored.patterns)].numpy() == pytest.approx(4.0**bit, rel=1e-4)
    assert not change[torch.from_numpy(read == stored.patterns)].any()


LAYERS = {"a": Layer(4, 9, 64, 1.0, -torch.ones(4), torch.ones(4)), "b": Layer(10, 36, 1, 2.0, -torch.ones(10), torch.ones(10))}


def priced(policy: Protection, rate: float = 0.01, important: float = 0.5, recomputed: float = 0.0, bits: int = 8) -> Cost:
    scores = {name: torch.arange(layer.channels).double() + 1 for name, layer in LAYERS.items()}
    return cost(LAYERS, bits, policy, chosen(LAYERS, scores, important, "weights"),
                chosen(LAYERS, scores, recomputed, "macs"), rate)  # fmt: skip


policies = st.builds(
    Protection, st.sampled_from([code for code in CODES if code != "void"]), st.just(0.5), tops, tops, st.integers(0, 16),
    st.just(0.0), st.integers(1, 32), st.booleans(),
)  # fmt: skip


@given(policy=policies, which=st.sampled_from(["inner", "outer", "logic"]), rate=st.floats(0.0, 0.2))
@settings(max_examples=60)
def test_more_protection_never_costs_less(policy: Protection, which: str, rate: float) -> None:
    value, most = getattr(policy, which), 16 if which == "logic" else 8
    if value < most:
        less, more = priced(policy, rate), priced(replace(policy, **{which: value + 1}), rate)
        assert more.area >= less.area
        assert more.energy >= less.energy
    bare, again = priced(policy, rate), priced(policy, rate, recomputed=0.5)
    assert again.area > bare.area
    assert again.energy > bare.energy
    assert priced(policy, rate, important=1.0).area >= bare.area or policy.outer > policy.inner
    wider = priced(replace(policy, width=policy.width + 1), rate, recomputed=0.5)
    assert wider.area > again.area
    assert wider.time <= again.time
    assert priced(policy, rate).energy <= priced(policy, 0.0).energy


def test_everything_threefold_takes_three_times_the_area_and_the_voters() -> None:
    bare = priced(Protection())
    full = priced(Protection(inner=8, outer=8, logic=16))
    voters = (HARDWARE.port + 16 * HARDWARE.pes) * HARDWARE.voter
    assert full.area == pytest.approx(3 * bare.area + voters)
    assert bare.time == full.time == 1.0


@given(share=st.floats(0.0, 1.0), seed=seeds, by=st.sampled_from(["weights", "macs"]))
@settings(max_examples=40)
def test_chosen_channels_hold_at_most_their_share_and_none_left_out_is_worth_more(share: float, seed: int, by: str) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(layer.channels, generator=rng) for name, layer in LAYERS.items()}
    found = chosen(LAYERS, scores, share, by)  # type: ignore[arg-type]
    size = {name: layer.weights * (layer.pixels if by == "macs" else 1) for name, layer in LAYERS.items()}
    held = sum(int(found[name].sum()) * size[name] for name in LAYERS)
    whole = sum(layer.channels * size[name] for name, layer in LAYERS.items())
    assert held <= share * whole * (1 + 1e-6)
    worth = {taken: [float(s) / size[n] for n in LAYERS for s in scores[n][found[n] == taken]] for taken in (True, False)}
    assert min(worth[True], default=1e9) >= max(worth[False], default=0.0)
    assert share < 1.0 or held == whole


@pytest.fixture(scope="module")
def layers(network: nn.Module, digits: Dataset) -> dict[str, Layer]:
    return layers_of(network, digits.train.images[:200])


@pytest.mark.parametrize("memory", [Memory(), Memory("rquant", 4, errors="stuck")])
def test_without_protection_and_errors_of_arithmetic_it_is_the_simulator(
    network: nn.Module, layers: dict[str, Layer], digits: Dataset, memory: Memory
) -> None:
    images, chip = digits.test.images[:20], Chip(0.05, 3)
    ours, bare = ProtectedSimulator(network, layers, memory), Simulator(network, memory)
    assert torch.equal(ours.logits(images, chip), bare.logits(images, chip))
    assert torch.equal(ours.logits_of_all(images, [chip, NOMINAL])[0], bare.logits(images, chip))


def test_full_protection_answers_at_a_low_rate_as_without_errors(
    network: nn.Module, layers: dict[str, Layer], digits: Dataset
) -> None:
    images, chip = digits.test.images[:50], Chip(1e-4, 3)
    full = ProtectedSimulator(network, layers, None, Protection(inner=8, outer=8, logic=16), None, 1.0)
    bare = ProtectedSimulator(network, layers, None, None, None, 1.0)
    assert torch.equal(full.logits(images, chip), Simulator(network).logits(images, NOMINAL))
    assert not torch.equal(bare.logits(images, chip), full.logits(images, chip))
    unit = ProtectedSimulator(network, layers, None, Protection(inner=8, outer=8, recomputed=1.0), None, 1.0)
    assert torch.equal(unit.logits(images, chip), full.logits(images, chip))


def test_results_are_wrong_as_often_as_they_have_to_be_and_the_same_each_time() -> None:
    """A Poisson number of wrong bits among 16 of each result: within 6 sd, error probability below 4e-9."""
    layer = nn.Linear(8, 100)
    images = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    found = layers_of(layer, images)
    assert list(found) == [""]
    simulator = ProtectedSimulator(nn.Sequential(layer), {"0": found[""]}, arithmetic=0.1)
    clean, faulty = (
        simulator.logits(images, NOMINAL),
        simulator.confined(images, Chip(0.01, 5), "results", {"0": torch.ones(100) > 0}),
    )
    changed, cells, rate = int((clean != faulty).sum()), 400 * 100 * 16, 1e-3
    expected = 400 * 100 * (1 - (1 - rate) ** 16)
    assert abs(changed - expected) < 6 * (cells * rate) ** 0.5
    assert torch.equal(faulty, simulator.confined(images, Chip(0.01, 5), "results", {"0": torch.ones(100) > 0}))
    step = found[""].peak / (2**15 - 1)
    moved = ((faulty - clean).abs() / step)[clean != faulty]
    assert (moved >= 0.9).all()
    assert (moved <= 2**16).all()


@pytest.mark.parametrize("site", ["weights", "results"])
def test_errors_confined_to_one_channel_of_the_last_layer_change_its_logit_alone(
    network: nn.Module, layers: dict[str, Layer], digits: Dataset, site: str
) -> None:
    simulator = ProtectedSimulator(network, layers, arithmetic=1.0)
    images, last = digits.test.images[:50], list(layers)[-1]
    mask = torch.arange(10) == 4
    change = simulator.confined(images, Chip(0.1, 2), site, {last: mask}) - simulator.logits(images, NOMINAL)  # type: ignore[arg-type]
    assert change[:, mask].any()
    assert not change[:, ~mask].any()
    none = simulator.confined(images, Chip(0.1, 2), site, {})  # type: ignore[arg-type]
    assert torch.equal(none, simulator.logits(images, NOMINAL))


def test_restricted_ranges_leave_what_they_were_taken_from_and_bound_everything_else(network: nn.Module, digits: Dataset) -> None:
    images = digits.train.images[:100]
    exact = Memory(bits=16)
    layers = layers_of(network, images)
    policy = Protection(restricted=True)
    assert ProtectedSimulator(network, layers, exact, policy).logits(images, NOMINAL) == pytest.approx(
        Simulator(network, exact).logits(images, NOMINAL), abs=1e-2
    )
    last = layers[list(layers)[-1]]
    answers = ProtectedSimulator(network, layers, None, policy, None, 0.1).logits(images, Chip(0.2, 1))
    assert (answers >= last.low).all()
    assert (answers <= last.high).all()


def test_shares_of_channels_need_scores(network: nn.Module, layers: dict[str, Layer]) -> None:
    with pytest.raises(InputError, match=r"0\.3"):
        ProtectedSimulator(network, layers, None, Protection(important=0.3, inner=2))
    flat = {name: torch.ones(layer.channels) for name, layer in layers.items()}
    some = ProtectedSimulator(network, layers, None, Protection(important=0.3, recomputed=0.2, inner=2), Scores(flat, flat))
    assert 0 < sum(int(mask.sum()) for mask in some.important.values()) < sum(layer.channels for layer in layers.values())


@given(budget=st.integers(200, 600), channels=st.integers(2, 12), first=st.integers(2, 3))
@settings(max_examples=20)
def test_a_profile_from_answers_counts_what_it_sends_and_finds_what_is_planted(budget: int, channels: int, first: int) -> None:
    harm = torch.arange(channels, dtype=torch.float64) ** 2
    images, sent = torch.zeros(10, 1), 0

    def ask(some: Tensor, channel: int | None, seed: int) -> Tensor:
        nonlocal sent
        sent += len(some)
        noise = torch.randn(len(some), 3, generator=torch.Generator().manual_seed(seed))
        return noise * harm[channel].sqrt() if channel is not None else torch.zeros(len(some), 3)

    profile = from_responses(ask, images, channels, budget, 0.3, first=first)
    assert profile.queries == sent <= budget
    assert sent > budget - 4
    assert int(profile.counts.sum()) * 4 + 10 == sent
    assert ((profile.low <= profile.mean) & (profile.mean <= profile.high)).all()
    assert profile.mean[0] == 0.0
    if channels >= 6:
        assert rank_correlation(profile.mean, harm) > 0.7
