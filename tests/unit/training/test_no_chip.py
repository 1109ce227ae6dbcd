"""Runs without a chip: the network is used as it is, every query goes to nominal voltage, and nothing is sent twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from backends.datasets.loading import load
from backends.kinds.base import BACKENDS, Opening
from backends.kinds.simulated import Local
from backends.memory.config import Memory
from backends.targets.fit import fitted
from bbfuse.cli.run import parse
from bbfuse.cli.tables import closing_table
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ValidationConfig
from bbfuse.execution import execute, forecast
from bbfuse.optimizers.base import OPTIMIZERS

SMALL = RunConfig(no_chip=True, budget=3000, images=200, validation=ValidationConfig(images=30, times=2))


@pytest.mark.parametrize("backend", ["local", "whitebox"])
def test_the_network_responds_as_it_is_where_it_is_not_stored(backend: str) -> None:
    data = load("digits")
    images = data.test.images[:20]
    expected = fitted("digits", data)(images)
    for memory, same in ((None, True), (Memory(), False)):
        opened = BACKENDS[backend].open(Opening("digits", data, memory, "cpu", Local.Config(), lambda _: None))
        for chip in (NOMINAL, Chip(0.05, 3))[: 2 if same else 1]:
            assert torch.equal(opened.query(images, chip, lambda _: None), expected) == same


@pytest.mark.parametrize("optimizer", ["rge", "follow", "cma", "backprop"])
def test_every_query_is_nominal_and_what_was_planned_is_sent(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends.simulated import SimulatedBackend

    sent: Counter[Chip] = Counter()
    respond = SimulatedBackend.query

    def counted(self: SimulatedBackend, images: Tensor, chip: Chip, sending: object) -> Tensor:
        sent[chip] += len(images)
        return respond(self, images, chip, sending)  # type: ignore[arg-type]

    monkeypatch.setattr(SimulatedBackend, "query", counted)
    backend = "whitebox" if OPTIMIZERS[optimizer].access > 1 else "local"
    config = SMALL.replaced(optimizer=optimizer, backend=backend)
    planned = forecast(config)
    summary = execute(config.replaced(out=tmp_path / "run"))
    assert sent == {NOMINAL: summary["queries"]["images"]}
    assert planned["queries"]["images"] == summary["queries"]["images"]
    assert planned["purposes"]["report"]["images"] == 2 * summary["report"]["images"]


def test_the_summary_has_no_values_of_bit_errors_and_the_pages_no_words_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(SMALL.replaced(out=tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [summary["accuracy"][key] for key in ("clean", "clean_fused")] == [None, None]
    assert summary["lost_points"] is None
    assert set(summary["energy"].values()) == {None}
    assert summary["report"]["chips"] == 0
    capsys.readouterr()
    closing_table(summary)
    page = (tmp_path / "run" / "report.html").read_text().split("<details>")[0]
    for text in (capsys.readouterr().out.replace("target without bit errors", ""), page):
        for word in ("bit error", "voltage", "energy", "nominal", "protection", "chip "):
            assert word not in text, word
        assert "uncorrected" in text


def test_the_flag_replaces_chip_0(tmp_path: Path) -> None:
    config = parse(["--no-chip"])
    assert (config.no_chip, config.chip_seed, config.chip) == (True, None, NOMINAL)
    assert parse([]).chip == Chip(0.05, 0)
