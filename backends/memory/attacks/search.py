"""Adversarial bit errors: stored bits whose flips increase a loss most, at most one bit a weight.

`projected` finds all flips together by projected gradient ascent (after Stutz et al., TPAMI 2023, arXiv 2104.08323; step and
projection are ours, its text was not at hand), `progressive` one after the other (the bit-flip attack, Rakin et al., ICCV 2019),
`halved` from losses alone, without gradients. Each returns the patterns with the largest loss that it found, the written
ones included, so that the loss never decreases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from backends.memory.encoding import Patterns, Stored

__all__ = ["Gradient", "Loss", "flipped", "halved", "progressive", "projected"]

Loss = Callable[[Patterns], float]
"""The loss of the network that reads these patterns."""
Gradient = Callable[[Patterns], tuple[float, NDArray[np.float32]]]
"""The same, and its gradient with respect to the weights (weights,), in the order of the patterns."""
_STRIDES = (0.25, 1.0)


def flipped(written: Patterns, read: Patterns) -> NDArray[np.int64]:
    """How many bits of each weight differ (weights,)."""
    octets = (written ^ read).view(np.uint8).reshape(len(written), -1)
    counts: NDArray[np.int64] = np.unpackbits(octets, axis=1).sum(1, dtype=np.int64)
    return counts


def projected(stored: Stored, gradient: Gradient, flips: int, steps: int = 10, strides: Sequence[float] = _STRIDES) -> Patterns:
    """Projected gradient ascent in the codes ``q``, once for each of ``strides``: ``q += stride Q g / max|g|``, rounded.

    ``g`` is the gradient with respect to the codes. Of the codes that have moved the ``flips`` that moved furthest are kept, and
    of each the highest bit that differs from what was written, which moves the code the same way; all else is as written. The
    next step starts there.
    """
    q, largest = stored.integers(), 2 ** (stored.quantization.bits - 1) - 1
    scale = stored.steps
    first = gradient(stored.patterns)
    best, most = stored.patterns, first[0]
    for stride in strides:
        read, (_, slope) = stored.patterns, first
        for _ in range(steps):
            slope = slope * scale
            top = float(np.abs(slope).max())
            if not top > 0:
                break
            moved = np.clip(np.rint(stored.integers(read) + stride * largest / top * slope), -largest, largest).astype(np.int64)
            distance = np.abs(moved - q)
            furthest = np.argpartition(-distance, min(flips, len(q) - 1))[:flips]
            furthest = furthest[distance[furthest] > 0]
            differ = stored.patterns[furthest] ^ stored.encoded(moved[furthest])
            read = stored.patterns.copy()
            read[furthest] ^= _highest(differ)
            loss, slope = gradient(read)
            if loss > most:
                best, most = read, loss
    return best


def progressive(stored: Stored, gradient: Gradient, loss: Loss, flips: int) -> Patterns:
    """One flip after the other: in each tensor the bit with the largest predicted increase, ``g`` times its change of the weight;
    of these, the one that increases the loss most when it is tried.

    Costs a gradient and a loss for each tensor and flip. A weight is flipped once at most. Stops early when no flip increases the
    loss.
    """
    scale, values = stored.steps, _values(stored)
    read = stored.patterns.copy()
    best, most = read.copy(), loss(read)
    for _ in range(flips):
        _, slope = gradient(read)
        bits = (read[:, None] >> np.arange(stored.quantization.bits, dtype=read.dtype)) & 1
        gains = (slope * scale)[:, None] * values * (1 - 2 * bits.astype(np.int8))
        gains[read != stored.patterns] = -np.inf
        tried = []
        for place in stored.places:
            weight, bit = divmod(int(gains[place].argmax()), stored.quantization.bits)
            weight += place.start
            if gains[weight, bit] <= 0:
                continue
            read[weight] ^= read.dtype.type(1 << bit)
            tried.append((loss(read), weight, bit))
            read[weight] ^= read.dtype.type(1 << bit)
        if not tried:
            break
        now, weight, bit = max(tried)
        read[weight] ^= read.dtype.type(1 << bit)
        if now > most:
            best, most = read.copy(), now
    return best


def halved(stored: Stored, loss: Loss, flips: int, queries: int, seed: int = 0) -> Patterns:
    """From losses alone: highest bits of random weights in groups of ``flips``, of which the half with the larger losses is kept
    and mixed anew until one group is left (successive halving). Evaluates the loss at most ``queries`` times, and at least twice.

    Every tensor has the same number of first candidates, as far as it has weights: a bit error in a small tensor affects more
    of the network.
    """
    rng = np.random.default_rng(seed)
    highest = stored.patterns.dtype.type(1 << (stored.quantization.bits - 1))
    size = min(flips, len(stored.patterns))
    best, most = stored.patterns, loss(stored.patterns)
    groups = max(
        1, min((queries - 1) // 2, len(stored.patterns) // size)
    )  # 1 + g + g/2 + ... + 1 evaluations are at most 2 g + 1
    order = rng.standard_exponential(len(stored.patterns))
    for place in stored.places:
        order[place] *= place.stop - place.start
    candidates = rng.permutation(np.argsort(order)[: groups * size])
    while True:
        parts = candidates.reshape(-1, size)
        losses = []
        for part in parts:
            read = stored.patterns.copy()
            read[part] ^= highest
            losses.append(loss(read))
            if losses[-1] > most:
                best, most = read, losses[-1]
        if len(parts) == 1:
            return best
        kept = np.argsort(losses)[::-1][: len(parts) // 2]
        candidates = rng.permutation(parts[kept].ravel())


def _values(stored: Stored) -> NDArray[np.int64]:
    """The value of each bit in a code (bits,), lowest first."""
    values = 1 << np.arange(stored.quantization.bits)
    if stored.quantization.signed:
        values[-1] *= -1
    return values


def _highest(patterns: Patterns) -> Patterns:
    """The highest bit of each pattern that is 1, alone."""
    filled = patterns.copy()
    for shift in (1, 2, 4, 8):
        filled |= filled >> filled.dtype.type(shift)
    return filled ^ (filled >> filled.dtype.type(1))
