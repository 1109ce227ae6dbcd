"""Which bits and which channels matter: error power by bit, rates that are tolerated, and channels profiled by answers alone.

Digits, 8 bits, training images and chips alone. ``kind`` `power`: the share of the squared error that wrong bits at one place
(``place``, 0 the lowest) have in all, of stored weights and of logits; ``expected`` by the law of four. `left`: the share left
with so many (``place``) top bits never wrong. `rate`: the bit error rate at which the logits' squared change is a hundredth of
their variance (``site`` `logits`), or one image in fifty is answered otherwise (`answers`), relative to that with no bit
protected; expected is the inverse of the power left. `channels`: rank correlation of the harm of each channel by answers alone,
from ``queries`` images sent, with that by gradients; at least 0.7 is wished. ``site`` `weights` is wrong bits in memory,
`results` those of 16 in the processing elements.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean, pstdev
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from backends.base import NOMINAL, Chip
from backends.memory.protection.policy import Protection
from backends.memory.protection.simulator import ProtectedSimulator, Site
from backends.memory.protection.vulnerability import error_power, from_answers, rank_correlation
from bbfuse.seeds import training_chips
from experiments.cross_layer import DIGITS
from experiments.study import command

__all__ = ["main"]

BITS = 8
CHIPS = 10
IMAGES = 200
RATE_OF_POWER = 1e-3
LIMITS = {"logits": 0.01, "answers": 0.02}
"""Of the rates that are tolerated: squared change of the logits relative to their variance; share of answers that are others."""
QUERIES = (2_000, 3_500)
FIRST = {2_000: 2, 3_500: 4}
"""Questions that every channel gets, of four images each, before the rest goes where it decides."""
SEEDS = range(3)
CHANNEL_RATE = 0.05
IMPORTANT = 0.3


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("cross_layer_profiles", _compute, _table, arguments)


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    settings = {"chips": CHIPS, "images": IMAGES, "rate_of_power": RATE_OF_POWER, "limits": LIMITS, "seeds": len(SEEDS),
                "channel_rate": CHANNEL_RATE, "important": IMPORTANT}  # fmt: skip
    return settings, [*_powers(), *_rates(), *_channels()]


def _record(
    kind: str, site: str, place: int | None, value: float, sd: float, expected: float, queries: int | None
) -> dict[str, Any]:
    return {"data": "digits", "kind": kind, "site": site, "place": place, "value": value, "sd": sd, "expected": expected,
            "queries": queries}  # fmt: skip


def _powers() -> list[dict[str, Any]]:
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
    rows = []
    for site, found in power.items():
        for bit, value in enumerate(found):
            rows.append(_record("power", site, bit, value / sum(found), 0.0, 4.0**bit / error_power(BITS), None))
        for count in range(1, 5):
            left = sum(found[: BITS - count]) / sum(found)
            rows.append(_record("left", site, count, left, 0.0, error_power(BITS, count) / error_power(BITS), None))
    return rows


def _rates() -> list[dict[str, Any]]:
    rows = []
    for site in LIMITS:
        tolerated = [_tolerated(count, site) for count in range(4)]
        for count, rate in enumerate(tolerated):
            expected = error_power(BITS) / error_power(BITS, count)
            rows.append(_record("rate", site, count, rate / tolerated[0], 0.0, expected, None))
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
        answers = [simulator.logits(images, Chip(math.exp(middle), seed)) for seed in seeds]
        if site == "answers":
            harm = mean(float((some.argmax(1) != clean.argmax(1)).double().mean()) for some in answers)
        else:
            harm = mean(float((some - clean).square().mean() / clean.var()) for some in answers)
        low, high = (middle, high) if harm < LIMITS[site] else (low, middle)
    return math.exp((low + high) / 2)


def _channels() -> list[dict[str, Any]]:
    layers, scores = DIGITS.known(1.0)
    simulator = ProtectedSimulator(DIGITS.network(1.0), layers, arithmetic=1.0)
    channels = [(name, mask > 0) for name, layer in layers.items() for mask in torch.eye(layer.channels)]
    images, rows = DIGITS.dataset.train.images[600:800], []
    sites: dict[Site, Mapping[str, Tensor]] = {"weights": scores.weights, "results": scores.results}
    for site, reference in sites.items():
        truth = torch.cat([reference[name] for name in layers])

        for queries in QUERIES:
            found = []
            for seed in SEEDS:
                ask = partial(_answers, simulator, site, channels, 10_000 * seed)
                rng = torch.Generator().manual_seed(seed)
                profile = from_answers(ask, images, len(channels), queries, IMPORTANT, first=FIRST[queries], rng=rng)
                found.append(rank_correlation(profile.mean, truth))
            rows.append(_record("channels", site, None, mean(found), pstdev(found), 0.7, queries))
    return rows


def _answers(
    simulator: ProtectedSimulator, site: Site, channels: Sequence[tuple[str, Tensor]], chip: int,
    images: Tensor, channel: int | None, seed: int,
) -> Tensor:  # fmt: skip
    """Logits with errors in one channel, of the layer and the mask that stand at its place; of chips from ``chip`` on."""
    if channel is None:
        return simulator.logits(images, NOMINAL)
    name, mask = channels[channel]
    return simulator.confined(images, Chip(CHANNEL_RATE, chip + seed), site, {name: mask})


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("", "site", "place", "queries", "found", "expected", title="digits, 8 bits")
    words = {
        "power": "share of the error power by bit, %", "left": "left with so many top bits protected, %",
        "rate": "tolerated rate, times", "channels": "rank correlation with gradients",
    }  # fmt: skip
    for row in rows:
        scale = 100 if row["kind"] in ("power", "left") else 1
        found = f"{scale * row['value']:.2f}" + (f" ± {row['sd']:.2f}" if row["kind"] == "channels" else "")
        expected = f"{scale * row['expected']:.2f}" if row["kind"] != "channels" else "at least 0.7"
        place = "" if row["place"] is None else str(row["place"])
        table.add_row(words[row["kind"]], row["site"], place, f"{row['queries']:,}" if row["queries"] else "", found, expected)
    return table


if __name__ == "__main__":
    from experiments.cross_layer_profiles import main

    sys.exit(main(sys.argv[1:]))
