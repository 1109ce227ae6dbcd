"""What a protected design costs, added up channel by channel and element by element; policies against their limits."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, replace
from itertools import product
from math import comb
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.base import InputError
from backends.memory.protection.cost import HARDWARE, Cost, Hardware, cost
from backends.memory.protection.policy import CODES, RESULT_BITS, Layer, Protection, chosen, residual, word

EMPTY = torch.zeros(0)
LAYERS = {
    "a": Layer(4, 9, 70, 1.0, EMPTY, EMPTY),
    "b": Layer(10, 36, 3, 2.0, EMPTY, EMPTY),
    "c": Layer(3, 5, 33, 2.0, EMPTY, EMPTY),
}
FUSE = {"x": Layer(2, 7, 65, 1.0, EMPTY, EMPTY), "y": Layer(5, 11, 4, 1.0, EMPTY, EMPTY)}
IMPORTANT = {"a": [1, 0, 0, 1], "b": [1, 1, 1, 0, 0, 0, 0, 0, 0, 0], "c": [0, 0, 0]}
AGAIN = {"a": [0, 1, 0, 0], "b": [0] * 9 + [1], "c": [1, 0, 1]}
SMALL = Hardware(0.3, 5.0, 3.0, 0.7, 0.11, 0.21, 0.13, 0.17, 6, 40, 5)
CHECKS = {"ecc8": (8, 5), "ecc16": (16, 6), "ecc32": (32, 7), "ecc64": (64, 8)}


def masks(found: dict[str, list[int]]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) > 0 for name, values in found.items()}


def test_the_constants_are_those_of_the_sources() -> None:
    assert asdict(HARDWARE) == pytest.approx({
        "cell": 0.224, "multiplier": 396.875, "adder": 278, "register": 5.98, "gate": 1.575, "multiply": 0.19375, "add": 0.1,
        "read": 0.15625, "pes": 64, "port": 64, "rows": 32,
    })  # fmt: skip
    assert HARDWARE.element == pytest.approx(396.875 + 278 + 48 * 5.98)
    assert HARDWARE.voter == pytest.approx(4 * 1.575)
    assert SMALL.element == pytest.approx(5.0 + 3.0 + 48 * 0.7)
    assert RESULT_BITS == 16


def added_up(
    p: Protection, bits: int, volts: float, again: bool, fuse: dict[str, Layer], h: Hardware
) -> tuple[float, float, float]:  # fmt: skip
    """Area, energy and time of the model that the module states, one channel after the other."""
    element, voter = h.multiplier + h.adder + 48 * h.register, 4 * h.gate
    extra, decoder = {"tmr": (2.0, voter), "void": (0.0, 0.0)}.get(p.code) or (
        CHECKS[p.code][1] / CHECKS[p.code][0], h.gate * (CHECKS[p.code][1] + 2),
    )  # fmt: skip
    inner, outer = sorted((p.inner, bits))[0], sorted((p.outer, bits))[0]
    area, energy, multiplications, twice = 0.0, 0.0, 0, 0
    for name, layer in LAYERS.items():
        for channel in range(layer.channels):
            cells = layer.weights * (bits + extra * (inner if IMPORTANT[name][channel] else outer))
            passes = -(-layer.pixels // h.rows)
            area, energy = area + cells * h.cell, energy + cells * passes * h.read
            work = layer.weights * layer.pixels
            multiplications += work
            twice += work * AGAIN[name][channel] * again
            energy += (work * (16 + 2 * p.logic) / 16 + 3 * work * AGAIN[name][channel] * again) * (h.multiply + h.add)
            energy += layer.pixels * h.add * p.restricted
    area += (h.port / bits) * max(inner, outer) * decoder
    area += h.pes * (element * (16 + 2 * p.logic) / 16 + voter * p.logic + h.adder * p.restricted)
    area += 3 * p.width * element if again else 0.0
    time = max(1.0, (twice / p.width) / (multiplications / h.pes))
    energy *= volts * volts
    for layer in fuse.values():
        weights = layer.channels * layer.weights
        area += weights * 8 * h.cell
        energy += weights * 8 * -(-layer.pixels // h.rows) * h.read + weights * layer.pixels * (h.multiply + h.add)
        time += weights * layer.pixels / multiplications
    return area, energy, time


POLICIES = [
    Protection(), Protection("void"), Protection("tmr", inner=3, outer=1), Protection("tmr", inner=1, outer=3),
    Protection("ecc8", inner=5), Protection("ecc16", outer=4, logic=3), Protection("ecc32", inner=16, outer=2, logic=16),
    Protection("ecc64", inner=16, outer=16, restricted=True), Protection("tmr", width=3),
    Protection(logic=5, width=1, restricted=True),
]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("hardware", [HARDWARE, SMALL])
def test_a_cost_is_the_sum_over_channels_elements_and_ports(policy: Protection, hardware: Hardware) -> None:
    for bits, (volts, rate), again, fuse in product((4, 8), ((1.0, 0.0), (20 / 24, 1.115e-2)), (False, True), ({}, FUSE)):
        recomputed = masks(AGAIN if again else {name: [0] * len(values) for name, values in AGAIN.items()})
        found = cost(LAYERS, bits, policy, masks(IMPORTANT), recomputed, rate, fuse, hardware)
        expected = added_up(policy, bits, volts, again, fuse, hardware)
        assert (found.area, found.energy, found.time) == pytest.approx(expected, rel=1e-9)


def test_without_a_fuse_or_hardware_there_is_none_and_the_usual_one() -> None:
    none = {name: torch.zeros(layer.channels) > 0 for name, layer in LAYERS.items()}
    found = cost(LAYERS, 8, Protection(inner=2), masks(IMPORTANT), none, 0.0)
    expected = added_up(Protection(inner=2), 8, 1.0, False, {}, HARDWARE)
    assert (found.area, found.energy, found.time) == pytest.approx(expected, rel=1e-9)


def test_what_is_never_built_or_has_no_voltage_has_no_cost() -> None:
    for policy in (Protection("void", inner=1), Protection("void", outer=1)):
        with pytest.raises(InputError, match="where bits are protected, got void, which has no cost"):
            cost(LAYERS, 8, policy, masks(IMPORTANT), masks(AGAIN), 0.0)
    cost(LAYERS, 8, Protection(), masks(IMPORTANT), masks(AGAIN), 0.2056)
    with pytest.raises(InputError, match=r"at most 20.56 %, got 20.57 %"):
        cost(LAYERS, 8, Protection(), masks(IMPORTANT), masks(AGAIN), 0.2057)


@pytest.mark.parametrize("one", [HARDWARE, Protection(), LAYERS["a"], Cost(1.0, 3.0, 5.0)])
def test_what_a_cost_is_made_of_cannot_be_changed(one: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        one.pes = 7


LIMITS: dict[str, tuple[float, float, float]] = {
    "important": (0.0, 1.0, 1e-9), "recomputed": (0.0, 1.0, 1e-9), "inner": (0, 16, 1), "outer": (0, 16, 1), "logic": (0, 16, 1)
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_a_policy_is_refused_just_outside_of_its_limits_and_accepted_on_them(name: str) -> None:
    low, high, step = LIMITS[name]
    for value in (low, high):
        assert getattr(Protection(**{name: value}), name) == value  # type: ignore[arg-type]
    for value in (low - step, high + step):
        with pytest.raises(InputError, match=rf"{name} must lie in \[0, {high:g}\], got {value}"):
            Protection(**{name: value})  # type: ignore[arg-type]


def test_a_policy_by_default_protects_nothing_and_its_code_and_width_are_checked() -> None:
    assert Protection() == Protection("tmr", 1.0, 0, 0, 0, 0.0, 8, False)
    assert CODES == ("tmr", "ecc8", "ecc16", "ecc32", "ecc64", "void")
    assert all(replace(Protection(), code=code).code == code for code in CODES)
    with pytest.raises(InputError, match=r"code must be one of tmr, ecc8, .* got parity"):
        Protection("parity")  # type: ignore[arg-type]
    assert Protection(width=1).width == 1
    with pytest.raises(InputError, match="width must be 1 or more, got 0"):
        Protection(width=0)


@pytest.mark.parametrize("data", [8, 16, 32, 64])
def test_words_have_a_hamming_code_and_a_parity_bit(data: int) -> None:
    hamming = next(r for r in range(1, 20) if 2**r - r - 1 >= data)
    assert word(f"ecc{data}") == (data, hamming + 1) == CHECKS[f"ecc{data}"]  # type: ignore[arg-type]
    for code in ("tmr", "void"):
        with pytest.raises(InputError, match=f"only a code of words has check bits, ecc8 to ecc64, got {code}"):
            word(code)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.0, 1e-3, 0.07, 0.3, 1.0])
def test_what_remains_wrong_is_the_sum_over_all_error_patterns(rate: float) -> None:
    def probability(pattern: tuple[int, ...]) -> float:
        return rate ** sum(pattern) * (1 - rate) ** (len(pattern) - sum(pattern))

    three = sum(probability(pattern) for pattern in product((0, 1), repeat=3) if sum(pattern) >= 2)
    assert residual("tmr", rate) == pytest.approx(three, rel=1e-12)
    # the first of 13 cells is wrong, and not the only one
    first = sum(probability((1, *others)) for others in product((0, 1), repeat=12) if any(others))
    assert residual("ecc8", rate) == pytest.approx(first, rel=1e-9)
    for code, (data, check) in CHECKS.items():
        n = data + check
        share = sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) * k / n for k in range(2, n + 1))
        assert residual(code, rate) == pytest.approx(share, rel=1e-6, abs=1e-15)  # type: ignore[arg-type]
    assert residual("void", rate) == 0.0


def taken(scores: dict[str, list[float]], share: float, by: str) -> dict[str, list[bool]]:
    """Channels in order of what they are worth for their cost, until the next one would be too much."""
    price = {name: layer.weights * (layer.pixels if by == "macs" else 1) for name, layer in LAYERS.items()}
    whole = sum(price[name] * layer.channels for name, layer in LAYERS.items())
    ranked = sorted(
        ((name, channel) for name, layer in LAYERS.items() for channel in range(layer.channels)),
        key=lambda one: -scores[one[0]][one[1]] / price[one[0]],
    )
    found, spent = {name: [False] * layer.channels for name, layer in LAYERS.items()}, 0
    for name, channel in ranked:
        spent += price[name]
        if spent > share * whole * (1 + 1e-9):
            break
        found[name][channel] = True
    return found


@pytest.mark.parametrize("by", ["weights", "macs"])
@pytest.mark.parametrize("seed", range(4))
def test_chosen_channels_are_the_worthiest_ones_that_fit_into_the_share(by: Any, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores = {
        name: (torch.rand(layer.channels, generator=rng) * layer.weights).round(decimals=seed) for name, layer in LAYERS.items()
    }
    lists = {name: values.double().tolist() for name, values in scores.items()}
    for share in [0.0, 0.01, 0.1, 0.31, 0.5, 0.77, 0.99, 1.0]:
        found = chosen(LAYERS, scores, share, by)
        assert {name: mask.tolist() for name, mask in found.items()} == taken(lists, share, by)


def test_a_share_that_is_met_exactly_is_taken() -> None:
    layers = {"a": Layer(10, 7, 3, 1.0, EMPTY, EMPTY)}
    scores = {"a": torch.arange(10.0)}
    for count in range(11):
        assert int(chosen(layers, scores, count / 10, "macs")["a"].sum()) == count
        assert int(chosen(layers, scores, count / 10 - 1e-6, "macs")["a"].sum()) == max(count - 1, 0)
