"""The command of the study of NeuralFuse's tables: its config, its tables, and who draws them."""

from __future__ import annotations

import runpy
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig
from experiments.paper import __main__ as paper
from experiments.paper.rows import KEYS
from experiments.paper.tiers import TIERS
from tests.helpers.studies.drawn import cells, headers


def row(study: str, target: str, method: str, rate: float, **known: Any) -> dict[str, Any]:
    named = {"study": study, "target": target, "method": method, "rate": rate, "bits": 8, "images": 0}
    return {**dict.fromkeys(KEYS), **named, **known}


ROWS = [
    row("relaxed", "A", "backprop", 0.05, generator="ConvL", source="A", perturbed_mean=0.3126, perturbed_sd=0.0521,
        fused_mean=0.8174, fused_sd=0.0234, paper_fused_mean=0.878, saving=0.1249, images=360_000),
    row("relaxed", "A", "backprop", 0.005, generator="ConvL", source="A", perturbed_mean=0.7126, perturbed_sd=0.0,
        fused_mean=0.9, fused_sd=0.01, saving=-0.216, images=360_000),
    row("restricted", "A", "backprop", 0.05, generator="UNetL", source="B", perturbed_mean=0.3, perturbed_sd=0.1, fused_mean=0.5,
        fused_sd=0.2, bits=5),
    row("restricted", "A", "backprop", 0.05, generator="UNetL", source="A+B", perturbed_mean=0.3, perturbed_sd=0.1,
        fused_mean=0.6, fused_sd=0.2),
    row("alternatives", "A", "no fuse", 0.05, perturbed_mean=0.3, perturbed_sd=0.1, saving=0.3),
    row("alternatives", "A", "classifier", 0.0, owned=200, perturbed_mean=0.95, perturbed_sd=0.0, saving=0.9),
]  # fmt: skip


def test_a_column_in_which_nothing_differs_is_left_out_but_for_accuracies() -> None:
    relaxed, restricted, other, _ = paper._table(ROWS).renderables
    assert [table.title for table in (relaxed, restricted, other)] == ["relaxed: A", "restricted: A", "alternatives: A"]
    assert headers(relaxed) == ["rate", "bare", "fused", "paper", "saved"]
    assert cells(relaxed) == [
        ["5 %", "31.3 ± 5.2", "81.7 ± 2.3", "87.8", "12 %"], ["0.5 %", "71.3 ± 0.0", "90.0 ± 1.0", "", "-22 %"],
    ]  # fmt: skip
    assert headers(restricted) == ["fuse", "bits", "bare", "fused"]
    assert cells(restricted) == [
        ["UNetL from B", "5", "30.0 ± 10.0", "50.0 ± 20.0"], ["UNetL from A+B", "8", "30.0 ± 10.0", "60.0 ± 20.0"]
    ]  # fmt: skip
    assert headers(other) == ["by", "rate", "bare", "fused", "saved"]
    assert cells(other) == [
        ["no fuse", "5 %", "30.0 ± 10.0", "", "30 %"], ["classifier, 200 owned", "0 %", "95.0 ± 0.0", "", "90 %"]
    ]  # fmt: skip
    whole = paper._cells(ROWS[0])
    assert (whole["fuse"], whole["by"], whole["sent"]) == ("ConvL", "backprop", "360,000")


def test_what_is_committed_is_of_the_tier_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tier, task = TIERS["cifar10"], Task({"a": 1}, RunConfig())
    said: list[Any] = []
    monkeypatch.setattr(paper, "fit_targets", said.append)
    monkeypatch.setattr(paper, "tasks", lambda of: [task])
    monkeypatch.setattr(paper, "run_all", lambda root, tasks: ([{"of": root}], [Path("there")]))
    monkeypatch.setattr(paper, "rows", lambda of, records: [(of.name, records)])
    monkeypatch.setattr(paper, "draw", lambda found, name: said.append((found, name)))
    monkeypatch.setattr(paper.checkpoint, "read", lambda path: SimpleNamespace(validation_accuracy=path.stem.split(".")[0]))
    config, found = paper.compute("cifar10")
    assert found == [("cifar10", [(task, {"of": tier.root}, Path("there"))])]
    assert said == [tier, (found, "paper_cifar10")]
    assert config["validation"] == {"resnet20": "resnet20", "vgg11": "vgg11", "resnet8-bn": "resnet8-bn"}
    assert (config["tier"], config["recipe"], config["runs"]) == ("cifar10", asdict(tier.recipe), [{}])


def test_as_a_program_it_knows_its_tiers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments.paper", "--tier", "moon"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(paper.__file__), run_name="__main__")
    assert ended.value.code == 2
    assert "--tier must be one of cpu, cifar10, gpu, got moon" in capsys.readouterr().err


def test_a_list_of_results_that_is_too_short_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "fit_targets", lambda tier: None)
    monkeypatch.setattr(paper, "tasks", lambda tier: [Task({}, RunConfig())])
    monkeypatch.setattr(paper, "run_all", lambda root, tasks: ([], []))
    monkeypatch.setattr(paper, "rows", lambda tier, records: pytest.fail("rows of less than was asked for"))
    with pytest.raises(ValueError, match="shorter"):
        paper.compute("cpu")
