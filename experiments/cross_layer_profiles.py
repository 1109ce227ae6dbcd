"""Which bits and channels matter: error power by bit, tolerated bit error rates, and channels profiled by queries alone.

Digits, 8 bits, training images and chips alone. ``kind`` `power`: the share of the squared error that bit errors at one place
(``place``, 0 the lowest) have in all, of stored weights and of logits; ``expected`` by the law of four. `left`: the share left
with ``place`` top bits free of errors. `rate`: the bit error rate at which the squared change of the logits is a hundredth of
their variance (``site`` `logits`), or the predicted class of one image in fifty changes (`answers`), relative to that with no bit
protected; expected is the inverse of the power left. `channels`: rank correlation of the vulnerability of each channel from
``queries`` images sent with that from gradients; at least 0.7 is expected. ``site`` `weights` is bit errors in memory, `results`
those of the 16-bit results of the processing elements.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean, pstdev
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from backends.base import NOMINAL, Chip
from backends.memory.protection.policy import Protection
from backends.memory.protection.simulator import ProtectedSimulator, Site
from backends.memory.protection.vulnerability import error_power, from_responses, rank_correlation
from bbfuse.compare.display.tables import lines
from bbfuse.compare.measured import value
from bbfuse.compare.tasks import Row
from bbfuse.seeds import training_chips
from experiments.cross_layer_designs import DIGITS
from experiments.study import Measurement

__all__ = ["RESULT"]

BITS = 8
CHIPS = 10
IMAGES = 200
RATE_OF_POWER = 1e-3
LIMITS = {"logits": 0.01, "answers": 0.02}
"""What is tolerated: squared change of the logits relative to their variance; share of changed predictions."""
QUERIES = (2_000, 3_500)
FIRST = {2_000: 2, 3_500: 4}
"""Queries of four images for every channel, before the rest is spent where it decides."""
SEEDS = range(3)
CHANNEL_RATE = 0.05
IMPORTANT = 0.3


def _record(
    kind: str, site: str, place: int | None, value: float, expected: float, sd: float = 0.0, queries: int | None = None
) -> Row:  # fmt: skip
    return {"data": "digits", "kind": kind, "site": site, "place": place, "value": value, "sd": sd, "expected": expected,
            "queries": queries}  # fmt: skip


def _powers() -> list[Row]:
    layers, _ = DIGITS.known(1.0)
    images, chips = DIGITS.dataset.train.images[:IMAGES], [Chip(RATE_OF_POWER, seed) for seed in training_chips(0, 0, CHIPS)]
    power: dict[str, list[float]] = {"weights": [], "logits": []}
    for bit in range(BITS):
        simulator = ProtectedSimulator(DIGITS.network(1.0), layers, bits=1 << bit)
        right, clean = simulator.weights(NOMINAL), simulator.logits(images, NOMINAL)
        steps = {name: float(tensor.abs().max()) / 127 for name, tensor in right.items()}
        power["weights"].append(sum(
            float(((simulator.weights(chip)[name] - right[name]) / steps[name]).double().square().sum())
            for chip in chips for name in right
        ))  # fmt: skip
        power["logits"].append(sum(float((simulator.logits(images, chip) - clean).double().square().sum()) for chip in chips))
    rows, whole = [], error_power(BITS)
    for site, found in power.items():
        rows += [_record("power", site, bit, value / sum(found), 4.0**bit / whole) for bit, value in enumerate(found)]
        for count in range(1, 5):
            left = sum(found[: BITS - count]) / sum(found)
            rows.append(_record("left", site, count, left, error_power(BITS, count) / whole))
    return rows


def _rates() -> list[Row]:
    rows = []
    for site in LIMITS:
        tolerated = [_tolerated(count, site) for count in range(4)]
        for count, rate in enumerate(tolerated):
            rows.append(_record("rate", site, count, rate / tolerated[0], error_power(BITS) / error_power(BITS, count)))
    return rows


def _tolerated(count: int, site: str) -> float:
    """The rate at which the limit of ``site`` is reached, by bisection of its logarithm; chips are nested."""
    layers, _ = DIGITS.known(1.0)
    images, seeds = DIGITS.dataset.train.images[:IMAGES], training_chips(0, 1, CHIPS)
    simulator = ProtectedSimulator(DIGITS.network(1.0), layers, None, Protection("void", inner=count, outer=count))
    clean = simulator.logits(images, NOMINAL)
    low, high = math.log(1e-5), math.log(0.5)
    for _ in range(8):
        middle = (low + high) / 2
        found = [simulator.logits(images, Chip(math.exp(middle), seed)) for seed in seeds]
        if site == "answers":
            change = mean(float((logits.argmax(1) != clean.argmax(1)).double().mean()) for logits in found)
        else:
            change = mean(float((logits - clean).square().mean() / clean.var()) for logits in found)
        low, high = (middle, high) if change < LIMITS[site] else (low, middle)
    return math.exp((low + high) / 2)


def _channels() -> list[Row]:
    layers, scores = DIGITS.known(1.0)
    simulator = ProtectedSimulator(DIGITS.network(1.0), layers, arithmetic=1.0)
    channels = [(name, mask > 0) for name, layer in layers.items() for mask in torch.eye(layer.channels)]
    images, rows = DIGITS.dataset.train.images[600:800], []
    references: tuple[tuple[Site, Any], ...] = (("weights", scores.weights), ("results", scores.results))
    for site, reference in references:
        truth = torch.cat([reference[name] for name in layers])
        for queries in QUERIES:
            found = []
            for seed in SEEDS:
                query = partial(_logits, simulator, site, channels, 10_000 * seed)
                rng = torch.Generator().manual_seed(seed)
                profile = from_responses(query, images, len(channels), queries, IMPORTANT, first=FIRST[queries], rng=rng)
                found.append(rank_correlation(profile.mean, truth))
            rows.append(_record("channels", site, None, mean(found), 0.7, pstdev(found), queries))
    return rows


def _logits(
    simulator: ProtectedSimulator, site: Site, channels: Sequence[tuple[str, Tensor]], chip: int,
    images: Tensor, channel: int | None, seed: int,
) -> Tensor:  # fmt: skip
    """Logits with errors in one channel, given as a place in ``channels`` (layer and mask); of chips from ``chip`` on."""
    if channel is None:
        return simulator.logits(images, NOMINAL)
    name, mask = channels[channel]
    return simulator.confined(images, Chip(CHANNEL_RATE, chip + seed), site, {name: mask})


HEADINGS = {
    "power": "share of the error power by bit, %", "left": "left with so many top bits protected, %",
    "rate": "tolerated rate, relative", "channels": "rank correlation with gradients",
}  # fmt: skip


def _scaled(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row[key] * (100 if row['kind'] in ('power', 'left') else 1):.2f}"


def _table(rows: list[Row]) -> Table:
    found, expected = _scaled("value"), _scaled("expected")
    return lines(rows, {
        "": lambda row: HEADINGS[row["kind"]], "site": value("site"), "place": value("place"), "queries": value("queries", ","),
        "found": lambda row: found(row) + (f" ± {row['sd']:.2f}" if row["kind"] == "channels" else ""),
        "expected": lambda row: "at least 0.7" if row["kind"] == "channels" else expected(row),
    }, title="digits, 8 bits")  # fmt: skip


RESULT = Measurement(
    "cross_layer_profiles",
    {"chips": CHIPS, "images": IMAGES, "rate_of_power": RATE_OF_POWER, "limits": LIMITS, "seeds": len(SEEDS),
     "channel_rate": CHANNEL_RATE, "important": IMPORTANT},
    lambda: [*_powers(), *_rates(), *_channels()],
    _table,
)  # fmt: skip

if __name__ == "__main__":
    from experiments.cross_layer_profiles import RESULT

    sys.exit(RESULT.main(sys.argv[1:]))
