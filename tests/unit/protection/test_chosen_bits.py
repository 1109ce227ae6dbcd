"""Attacks on a tiny memory against searches that know every flip."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backends.memory.attacks.search import flipped, halved, progressive, projected
from backends.memory.config import Quantization
from backends.memory.encoding import Patterns, store

SCHEMES = [
    Quantization(4), Quantization(8, symmetric=False, signed=False), Quantization(16, ranges="channel"), Quantization(2),
]  # fmt: skip
schemes = pytest.mark.parametrize("scheme", SCHEMES, ids=["4", "8, unsigned", "16, channels", "2"])


class Problem:
    """``sum_i a_i w_i + b_i w_i^2`` over 13 weights in three tensors, of which some ``b`` are negative; counts what is asked."""

    def __init__(self, scheme: Quantization, seed: int = 0, curved: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        sizes = {"a": (4, 2), "b": (3,), "c": (2,)}
        weights = {name: torch.tensor(rng.standard_normal(shape) * 1.7**n) for n, (name, shape) in enumerate(sizes.items())}
        self.stored = store(weights, scheme)
        self.a, self.b = rng.standard_normal(13), curved * rng.standard_normal(13)
        self.gradients, self.seen, self.met = 0, list[Patterns](), list[Patterns]()

    def weights(self, patterns: Patterns) -> NDArray[np.float64]:
        return np.concatenate([tensor.double().flatten().numpy() for tensor in self.stored.tensors(patterns).values()])

    def value(self, patterns: Patterns) -> float:
        w = self.weights(patterns)
        return float(self.a @ w + self.b @ w**2)

    def slope(self, patterns: Patterns) -> NDArray[np.float32]:
        return (self.a + 2 * self.b * self.weights(patterns)).astype(np.float32)

    def loss(self, patterns: Patterns) -> float:
        self.seen.append(patterns.copy())
        return self.value(patterns)

    def gradient(self, patterns: Patterns) -> tuple[float, NDArray[np.float32]]:
        self.gradients += 1
        self.met.append(patterns.copy())
        return self.value(patterns), self.slope(patterns)


def with_bit(read: Patterns, weight: int, bit: int) -> Patterns:
    other = read.copy()
    other[weight] ^= read.dtype.type(1 << bit)
    return other


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_differing_bits_are_counted_weight_by_weight(kind: type) -> None:
    one = np.array([0, 3, 77, 255, 128], kind)
    other = np.array([0, 0, 78, 0, 129], kind)
    if kind is np.uint16:
        one, other = one * 257, other
    assert flipped(one, other).tolist() == [int(a ^ b).bit_count() for a, b in zip(one.tolist(), other.tolist(), strict=True)]


def best_flips(problem: Problem, flips: int) -> tuple[Patterns, int]:
    """One after the other: of each tensor the flip that promises most to first order, of these the one with the largest loss."""
    stored, read = problem.stored, problem.stored.patterns.copy()
    best, losses = read, 1
    for _ in range(flips):
        slope, before, tried = problem.slope(read), problem.weights(read), list[Patterns]()
        # all weights with the same bit flipped at once, since each counts by itself
        moved = [problem.weights(read ^ read.dtype.type(1 << bit)) - before for bit in range(stored.bits)]
        for place in ((0, 8), (8, 11), (11, 13)):
            free = [weight for weight in range(*place) if read[weight] == stored.patterns[weight]]
            promised = {(weight, bit): float(slope[weight] * moved[bit][weight]) for weight in free for bit in range(stored.bits)}
            if promised and max(promised.values()) > 0:
                tried.append(with_bit(read, *max(promised, key=promised.__getitem__)))
        if not tried:
            break
        losses += len(tried)
        read = max(tried, key=problem.value)
        best = max(best, read, key=problem.value)
    return best, losses


@schemes
@pytest.mark.parametrize("flips", [1, 3, 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_progressive_takes_the_best_promised_bit_of_each_tensor_and_then_the_best_of_them(
    scheme: Quantization, flips: int, seed: int
) -> None:
    problem = Problem(scheme, seed)
    before = problem.stored.patterns.copy()
    best, losses = best_flips(problem, flips)
    found = progressive(problem.stored, problem.gradient, problem.loss, flips)
    assert found.tolist() == best.tolist()
    assert len(problem.seen) == losses
    assert problem.stored.patterns.tolist() == before.tolist()


def test_for_a_linear_loss_one_progressive_flip_is_the_best_of_all() -> None:
    problem = Problem(Quantization(5), 4, curved=0.0)
    every = [with_bit(problem.stored.patterns, weight, bit) for weight in range(13) for bit in range(5)]
    found = progressive(problem.stored, problem.gradient, problem.loss, 1)
    assert found.tolist() == max(every, key=problem.value).tolist()


def test_progressive_ends_where_nothing_promises_to_rise() -> None:
    problem = Problem(Quantization(6))
    problem.a, problem.b = np.zeros(13), np.zeros(13)
    found = progressive(problem.stored, problem.gradient, problem.loss, 5)
    assert found.tolist() == problem.stored.patterns.tolist()
    assert (problem.gradients, len(problem.seen)) == (1, 1)


def ascended(problem: Problem, flips: int, steps: int, strides: tuple[float, ...]) -> list[Patterns]:
    """What projected gradient ascent in codes meets, weight by weight."""
    stored, bits = problem.stored, problem.stored.bits
    written, largest = stored.integers().tolist(), 2 ** (bits - 1) - 1
    met = [stored.patterns]
    for stride in strides:
        read = stored.patterns
        for _ in range(steps):
            slope = [float(g) * float(s) for g, s in zip(problem.slope(read), stored.steps, strict=True)]
            unit = max(map(abs, slope)) / (stride * largest)
            codes = stored.integers(read).tolist()
            moved = [sorted((-largest, round(q + g / unit), largest))[1] for q, g in zip(codes, slope, strict=True)]
            order = sorted(range(13), key=lambda i: -abs(moved[i] - written[i]))[:flips]
            read = stored.patterns.copy()
            for i in order:
                differ = int(stored.patterns[i]) ^ int(stored.encoded(np.array([moved[i]]))[0])
                if differ:
                    read = with_bit(read, i, differ.bit_length() - 1)
            met.append(read)
    return met


@schemes
@pytest.mark.parametrize(("steps", "strides"), [(1, (0.25,)), (4, (0.3, 1.0)), (7, (0.05, 0.9, 0.2))])
@pytest.mark.parametrize(("seed", "curved"), [(0, 1.0), (1, 1.0), (2, 0.0)])
def test_projected_keeps_the_furthest_codes_and_of_each_its_highest_changed_bit(
    scheme: Quantization, steps: int, strides: tuple[float, ...], seed: int, curved: float
) -> None:
    for flips in (13, 40) if scheme.bits < 16 else (1, 5, 12, 13, 40):  # coarse codes move equally far
        problem = Problem(scheme, seed, curved)
        found = projected(problem.stored, problem.gradient, flips, steps, strides)
        met = ascended(problem, flips, steps, strides)
        assert [read.tolist() for read in problem.met] == [read.tolist() for read in met]
        assert found.tolist() == max(met, key=problem.value).tolist()
        assert problem.gradients == 1 + steps * len(strides)
        assert problem.value(found) >= problem.value(problem.stored.patterns)
        assert flipped(problem.stored.patterns, found).max() <= 1


def test_projected_takes_ten_steps_of_a_quarter_and_of_the_whole_range() -> None:
    problem = Problem(Quantization(16), 3)
    found = projected(problem.stored, problem.gradient, 4)
    met = ascended(problem, 4, 10, (0.25, 1.0))
    assert [read.tolist() for read in problem.met] == [read.tolist() for read in met]
    assert found.tolist() == max(met, key=problem.value).tolist()
    assert problem.gradients == 21


def test_projected_returns_what_was_written_where_all_else_is_worse_or_nothing_moves() -> None:
    problem = Problem(Quantization(8), 1)
    lying = projected(problem.stored, lambda read: (problem.value(read), -problem.slope(read)), 1, 3, (0.01,))
    assert problem.value(lying) == problem.value(problem.stored.patterns)
    problem.a, problem.b = np.zeros(13), np.zeros(13)
    assert projected(problem.stored, problem.gradient, 5).tolist() == problem.stored.patterns.tolist()
    assert problem.gradients == 1


Group = tuple[frozenset[int], float]


def rounds(problem: Problem, size: int, groups: int) -> list[list[Group]]:
    """The groups of each round that was asked, half as many each time: weights whose highest bit was flipped, and their loss."""
    asked = []
    for read in problem.seen[1:]:
        changed = np.flatnonzero(read != problem.stored.patterns)
        assert len(changed) == size
        assert set((read ^ problem.stored.patterns)[changed].tolist()) == {1 << (problem.stored.bits - 1)}
        asked.append((frozenset(changed.tolist()), problem.value(read)))
    found = []
    while groups:
        found.append(asked[:groups])
        asked, groups = asked[groups:], groups // 2
    assert not asked
    return found


def union(groups: list[Group]) -> frozenset[int]:
    return frozenset().union(*(group for group, _ in groups))


@pytest.mark.parametrize(("queries", "flips", "groups"), [
    (1, 1, 1), (2, 1, 1), (3, 1, 1), (5, 1, 2), (9, 1, 4), (15, 1, 7), (16, 1, 7), (64, 1, 13), (64, 2, 6), (12, 2, 5), 
    (64, 3, 4), (64, 6, 2), (64, 7, 1), (64, 13, 1), (64, 50, 1),
])  # fmt: skip
@pytest.mark.parametrize("seed", [0, 5])
def test_halved_keeps_the_half_of_the_groups_with_the_larger_losses(queries: int, flips: int, groups: int, seed: int) -> None:
    problem = Problem(Quantization(8, symmetric=False, signed=False), 2)
    found = (
        halved(problem.stored, problem.loss, flips, queries, seed)
        if seed
        else halved(problem.stored, problem.loss, flips, queries)
    )
    size = min(flips, 13)
    assert problem.seen[0].tolist() == problem.stored.patterns.tolist()
    assert len(problem.seen) <= max(2, queries)
    each = rounds(problem, size, groups)
    assert [len(one) for one in each] == [groups >> k for k in range(groups.bit_length())]
    assert len(union(each[0])) == groups * size
    weights = np.repeat([8, 3, 2], [8, 3, 2]) * np.random.default_rng(seed).standard_exponential(13)
    assert union(each[0]) == {*np.argsort(weights)[: groups * size].tolist()}
    for one, following in itertools.pairwise(each):
        better = sorted(one, key=lambda group: -group[1])[: len(one) // 2]
        assert union(following) == union(better)
    assert found.tolist() == max(problem.seen, key=problem.value).tolist()


def test_halved_mixes_the_kept_weights_anew() -> None:
    problem = Problem(Quantization(), 2)
    halved(problem.stored, problem.loss, 2, 64, 1)
    first, second, *_ = rounds(problem, 2, 6)
    assert {group for group, _ in second} != {group for group, _ in sorted(first, key=lambda one: -one[1])[:3]}


def test_where_no_flip_raises_the_loss_what_was_written_is_returned() -> None:
    problem = Problem(Quantization(8), 1)
    written = problem.stored.patterns.tolist()
    assert projected(problem.stored, lambda read: (3.5, problem.slope(read)), 4, 3).tolist() == written
    assert progressive(problem.stored, problem.gradient, lambda read: 3.5, 4).tolist() == written
    assert halved(problem.stored, lambda read: 3.5, 2, 64).tolist() == written


def test_of_a_code_of_16_bits_that_changes_in_its_sign_alone_the_sign_is_flipped() -> None:
    stored = store({"w": torch.tensor([32767.0, 1.0, 5.0])}, Quantization(16))
    losses = iter([1.0, 3.0])
    # stride 2 moves the code 1 to -32767, whose pattern differs in the sign alone
    found = projected(stored, lambda read: (next(losses), np.array([0.0, -1.0, 0.0], np.float32)), 1, 1, (2.0,))
    assert found.tolist() == [32767, 0x8001, 5]
