"""Chosen bit errors: what each attack is asked, the errors after it, and what is printed and drawn of toy rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backends.base import Chip
from backends.memory.config import Memory, Quantization
from backends.memory.simulator import Simulator
from backends.training.recipe import RECIPE
from experiments import bit_attacks, hardened_targets
from experiments.hardened_targets import HardenedTarget
from tests.helpers.studies.toys import cells, headers, kept_figures, lines, toy_data, toy_network

TARGET = HardenedTarget("toy target", bits=4, clip=0.9, norm="bn")


def test_the_setting_is_the_stated_one() -> None:
    assert bit_attacks.FLIPS == (5, 10, 20, 40, 80, 160, 320)
    assert bit_attacks.MOST == {"progressive": 20, "halved": 80}
    assert (bit_attacks.SEEN, bit_attacks.QUERIES, bit_attacks.CHIPS, bit_attacks.BROKEN) == (64, 200, 10, 50.0)
    assert list(bit_attacks.COLOURS) == ["normal", "rquant", "clip", "randbet, 10 %", "advbet", "clip, advbet"]
    assert len(set(bit_attacks.COLOURS.values())) == 6


class Attacks:
    """Each flips the highest bits of so many weights, from another place on, and says what it was given."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def wrong(self, stored: Any, first: int, flips: int) -> Any:
        patterns = stored.patterns.copy()
        patterns[first : first + flips] ^= patterns.dtype.type(8)
        return patterns

    def projected(self, stored: Any, gradient: Any, flips: int) -> Any:
        self.asked.append(("projected", gradient(stored.patterns)[1].shape, flips))
        return self.wrong(stored, 0, flips)

    def progressive(self, stored: Any, gradient: Any, loss: Any, flips: int) -> Any:
        value, slopes = gradient(stored.patterns)
        assert loss(stored.patterns) == pytest.approx(value)
        self.asked.append(("progressive", slopes.shape, flips))
        return self.wrong(stored, 4, flips)

    def halved(self, stored: Any, loss: Any, flips: int, queries: int) -> Any:
        self.asked.append(("halved", loss(stored.patterns), flips, queries))
        return self.wrong(stored, 9, flips)


def test_rows_are_errors_of_held_out_images_after_each_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    attacks, fits, data = Attacks(), [], toy_data()

    def fitted(name: str, data: Any, recipe: Any, device: str) -> torch.nn.Module:
        fits.append((name, recipe, device))
        return toy_network()

    named = {"attacks": attacks, "load": toy_data, "FLIPS": (2, 5, 11), "SEEN": 6, "QUERIES": 31, "CHIPS": 3}
    for name, value in named.items():
        monkeypatch.setattr(bit_attacks, name, value)
    monkeypatch.setattr(bit_attacks, "MOST", {"progressive": 2, "halved": 5})
    monkeypatch.setattr(hardened_targets, "fitted", fitted)
    rows = bit_attacks._rows(TARGET)
    assert fits == [("digits-bn", TARGET.recipe(RECIPE), "cpu")]
    simulator = Simulator(toy_network(), Memory("rquant"), Quantization(4, symmetric=False, signed=False))
    stored = simulator.stored

    def error(weights: dict[str, torch.Tensor]) -> float:
        said = simulator.respond(data.test.images, weights).argmax(1).numpy()
        return 100 * float(np.mean(said != data.test.labels.numpy()))

    def random(flips: int) -> float:
        return float(np.mean([error(simulator.weights(Chip(flips / (4 * 39), chip))) for chip in (50_000, 50_001, 50_002)]))

    expected = [
        *(("projected", flips, error(simulator.read(attacks.wrong(stored, 0, flips)))) for flips in (2, 5, 11)),
        ("progressive", 2, error(simulator.read(attacks.wrong(stored, 4, 2)))),
        *(("halved", flips, error(simulator.read(attacks.wrong(stored, 9, flips)))) for flips in (2, 5)),
        *(("random", flips, random(flips)) for flips in (2, 5, 11)),
    ]
    assert len({value for *_, value in expected}) >= 5
    clean = error(simulator.read(stored.patterns))
    assert rows == [
        {"data": "digits", "target": "digits-bn", "hardening": "toy target", "attack": attack, "flips": flips,
         "error": pytest.approx(clean), "robust_error": pytest.approx(value)}
        for attack, flips, value in expected
    ]  # fmt: skip
    seen = data.validation[:6]
    loss = torch.nn.functional.cross_entropy(simulator.respond(seen.images, simulator.read(stored.patterns)), seen.labels)
    whole = (39,)
    assert attacks.asked == [
        *(("projected", whole, flips) for flips in (2, 5, 11)), ("progressive", whole, 2),
        *(("halved", pytest.approx(loss.item()), flips, 31) for flips in (2, 5)),
    ]  # fmt: skip


def test_the_shown_targets_are_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(bit_attacks, "_rows", lambda target: [target.name, target.advbet])
    monkeypatch.setattr(torch, "set_num_threads", drawn.append)
    settings, rows = replace(bit_attacks.RESULT, draw=drawn.append).compute()
    assert rows == ["normal", None, "rquant", None, "clip", None, "randbet, 10 %", None, "advbet", 20, "clip, advbet", 20]
    assert drawn == [1, rows]
    assert settings == {"data": "digits", "flips": (5, 10, 20, 40, 80, 160, 320), "seen": 64, "queries": 200, "chips": 10}


def row(name: str, attack: str, flips: int, error: float) -> dict[str, Any]:
    return {"hardening": name, "attack": attack, "flips": flips, "robust_error": error}


ROWS = [
    row("normal", "projected", 5, 12.0), row("normal", "projected", 40, 60.0), row("normal", "projected", 80, 50.5),
    row("normal", "halved", 5, 9.0), row("normal", "halved", 10, 50.0),
    row("clip", "progressive", 10, 3.25), row("clip", "random", 320, 71.0),
]  # fmt: skip


def test_a_target_is_broken_where_the_error_is_above_one_half() -> None:
    assert bit_attacks.needed(ROWS[:3]) == 40
    assert bit_attacks.needed(ROWS[2:4]) == 80
    assert bit_attacks.needed(ROWS[3:5]) is None  # a half is not more than half


def test_the_table_shows_errors_by_flips_and_the_flips_that_break_a_target() -> None:
    table = bit_attacks._table(ROWS)
    assert headers(table) == ["hardening", "attack", "5", "10", "20", "40", "80", "160", "320", "flips for 50 %"]
    assert cells(table) == [
        ["normal", "projected", "12.0", "", "", "60.0", "50.5", "", "", "40"],
        ["normal", "halved", "9.0", "50.0", "", "", "", "", "", "> 10"],
        ["clip", "progressive", "", "3.2", "", "", "", "", "", "> 10"],
        ["clip", "random", "", "", "", "", "", "", "71.0", "320"],
    ]


def test_the_figure_has_a_line_for_each_target_and_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = kept_figures(bit_attacks, monkeypatch, tmp_path)
    bit_attacks._draw(ROWS)
    (axes,) = figures["bit_attacks.svg"].axes
    found = {line.get_label(): points for line, points in zip(axes.lines, lines(axes), strict=True)}
    named = [f"{name}, {attack}" for name in bit_attacks.COLOURS for attack in ("projected", "progressive", "halved")]
    assert list(found) == named
    assert found["normal, projected"] == ([5, 40, 80], [12.0, 60.0, 50.5])
    assert found["normal, halved"] == ([5, 10], [9.0, 50.0])
    assert found["clip, progressive"] == ([10], [3.25])
    assert found["clip, projected"] == found["advbet, halved"] == ([], [])
    assert [line.get_linestyle() for line in axes.lines[:3]] == ["-", "--", ":"]
    assert axes.get_xscale() == "log"
    assert axes.get_legend() is not None
