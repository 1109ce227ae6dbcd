"""A fuse on hardened targets: its runs, points and energies, the lowest voltage, and the tables of toy rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backends.memory.config import Memory
from backends.training.recipe import RECIPE
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig
from experiments import hardened_fuse
from tests.helpers.studies.toys import cells, headers, tables_of, toy_data

NAMES = ("normal", "rquant", "clip", "randbet, 10 %")


def test_the_runs_are_those_of_every_target_rate_and_chip() -> None:
    tasks = hardened_fuse.STUDY.tasks()
    named = [(name, rate, chip) for name in NAMES for rate in (0.05, 0.1) for chip in (0, 1)]
    assert [task.labels for task in tasks] == [{"hardening": n, "rate": rate, "chip": chip} for n, rate, chip in named]
    files = {"normal": "normal", "rquant": "rquant", "clip": "clip", "randbet, 10 %": "randbet"}
    for task, (name, rate, chip) in zip(tasks, named, strict=True):
        scheme = Memory("normal" if name == "normal" else "rquant", 8)
        file = f"runs/hardened_fuse/{files[name]}.pt"
        whole = ReportConfig(share=1.0)
        assert task.config == RunConfig(target=file, memory=scheme, bit_error_rate=rate, chip_seed=chip, report=whole)
    assert (hardened_fuse.WISHED, hardened_fuse.NOISE) == (2.5, 0.5)


def test_the_targets_are_fitted_as_their_cells_say(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(hardened_fuse, "load", toy_data)
    monkeypatch.setattr(hardened_fuse, "fit_to", lambda *given: made.append(given))
    monkeypatch.setattr(torch, "set_num_threads", made.append)
    hardened_fuse.STUDY.prepare()
    assert made[0] == 1
    assert [(path.name, target, data.name) for path, target, data, _ in made[1:]] == [
        (f"{name}.pt", "digits-gn", "digits") for name in ("normal", "rquant", "clip", "randbet")
    ]
    rates = [recipe.hardening.rate for *_, recipe in made[1:]]
    assert rates == [None, None, None, 0.1]
    assert [recipe.steps for *_, recipe in made[1:]] == [RECIPE.steps] * 4


def test_a_record_has_per_cent_and_the_energy_that_is_paid() -> None:
    found = {"clean": 0.975, **{name: {"mean": mean} for name, mean in (
        ("perturbed", 0.31), ("perturbed_head", 0.72), ("perturbed_fused", 0.84), ("perturbed_fuse", 0.5),
    )}}  # fmt: skip
    record = hardened_fuse.STUDY.record({"accuracy": found, "energy": {"saving_bare": 0.37, "saving": -0.15}}, Path("x"))
    assert record == pytest.approx(
        {"clean": 97.5, "bare": 31.0, "head": 72.0, "fused": 84.0, "energy_bare": 0.63, "energy_fused": 1.15}
    )


def test_rows_are_means_and_population_sds_over_chips() -> None:
    chips = {
        ("clip", 0.05): [(91.0, 94.0, 97.5), (85.0, 95.0, 98.0), (70.0, 97.0, 96.0)], ("clip", 0.1): [(50.0, 70.0, 69.0)],
        ("normal", 0.05): [(30.0, 33.0, 44.0), (21.0, 43.0, 48.0)], ("normal", 0.1): [(11.0, 13.0, 29.0), (9.0, 12.0, 31.0)],
    }  # fmt: skip
    records = [
        {"hardening": name, "rate": rate, "clean": 97 + place, "bare": bare, "head": head, "fused": fused,
         "energy_bare": 0.6 + place / 10, "energy_fused": 0.8 + place / 10}
        for (name, rate), found in chips.items() for place, (bare, head, fused) in enumerate(found)
    ]  # fmt: skip
    rows = hardened_fuse.STUDY.rows(records[::-1], [])[::-1]
    assert [(row["hardening"], row["rate"]) for row in rows] == list(chips)
    for row, found in zip(rows, chips.values(), strict=True):
        means, sds = np.mean(found, 0), np.std(found, 0)
        assert row["chips"] == len(found)
        assert [row["bare_mean"], row["head_mean"], row["fused_mean"]] == pytest.approx(means.tolist())
        assert [row["bare_sd"], row["head_sd"], row["fused_sd"]] == pytest.approx(sds.tolist())
        assert row["fuse_adds"] == pytest.approx(means[2] - means[1])
        last = len(found) - 1  # the first of the reversed records
        assert (row["clean"], row["data"]) == (97 + last, "digits")
        assert (row["energy_bare"], row["energy_fused"]) == (0.6 + last / 10, 0.8 + last / 10)


def row(name: str, rate: float, clean: float, bare: float, head: float, fused: float) -> dict[str, Any]:
    values = {"bare_mean": bare, "head_mean": head, "fused_mean": fused, "bare_sd": 1.5, "head_sd": 0.75, "fused_sd": 0.25}
    more = {"energy_bare": 0.7 - rate, "energy_fused": 0.9 - rate, "fuse_adds": fused - head}
    return {"hardening": name, "rate": rate, "clean": clean} | values | more


ROWS = [
    row("a", 0.05, 97.0, 90.0, 95.5, 96.0), row("a", 0.1, 97.0, 96.0, 93.0, 95.5),
    row("b", 0.05, 98.0, 95.75, 97.0, 97.75), row("b", 0.1, 98.0, 95.0, 95.25, 96.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wished", "key", "rate"),
    [
        (95.5, "bare", None), (90.0, "bare", 0.1), (95.5, "head", 0.05), (93.0, "head", 0.1), (95.51, "head", None),
        (95.5, "fused", 0.1),
    ],
)  # fmt: skip
def test_the_least_voltage_has_every_lower_rate_at_the_wish_or_above(wished: float, key: str, rate: float | None) -> None:
    found = hardened_fuse._least(ROWS, "a", key, wished)
    assert (found and found["rate"]) == rate
    assert found is None or found["hardening"] == "a"


def test_the_tables_show_what_the_fuse_adds_and_the_lowest_voltage() -> None:
    table, least = tables_of(hardened_fuse.STUDY.table(ROWS))
    assert headers(table) == ["hardening", "bit errors", "nominal", "no fuse", "head", "head and fuse", "the fuse adds"]
    assert cells(table) == [
        ["a", "5 %", "97.0", "90.0 ± 1.5", "95.5 ± 0.8", "96.0 ± 0.2", "nothing"],  # half a point is noise
        ["a", "10 %", "97.0", "96.0 ± 1.5", "93.0 ± 0.8", "95.5 ± 0.2", "+2.5"],
        ["b", "5 %", "98.0", "95.8 ± 1.5", "97.0 ± 0.8", "97.8 ± 0.2", "+0.8"],
        ["b", "10 %", "98.0", "95.0 ± 1.5", "95.2 ± 0.8", "96.0 ± 0.2", "+0.8"],
    ]
    assert least.title == "lowest voltage with 95.5 % or more"
    assert headers(least) == ["hardening", "no fuse: rate, energy", "head", "head and fuse"]
    assert cells(least) == [
        ["a", "none", "5 %, 0.65", "10 %, 0.80"],
        ["b", "5 %, 0.65", "5 %, 0.65", "10 %, 0.80"],
    ]
