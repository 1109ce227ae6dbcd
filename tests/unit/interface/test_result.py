"""What the result of ``bbfuse.fit`` gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bbfuse
from backends.memory.simulator import Simulator
from bbfuse.result import Result
from tests.unit.interface.conftest import Arrays

CHIP = bbfuse.Chip(0.2, 3)


@pytest.fixture(scope="module")
def result(own: nn.Module, arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run for one chip."""
    return bbfuse.fit(  # type: ignore[no-any-return]
        own, arrays, chip=CHIP, optimizer="spsa", budget=1_500, validation={"images": 20, "times": 2}, report={"images": 40},
        out=tmp_path_factory.mktemp("runs") / "one",
    )  # fmt: skip


def test_it_predicts_with_fuse_target_on_its_chip_and_head(result: Result, own: nn.Module, arrays: Arrays) -> None:
    images = torch.from_numpy(arrays[0][:50])
    simulator = Simulator(own)
    with torch.no_grad():
        fused = result.fuse(images * 2 - 1)
        expected = result.head(simulator.logits((fused + 1) / 2, CHIP))
    scores = result.scores(arrays[0][:50])
    assert torch.allclose(scores, expected, atol=1e-5)
    assert torch.equal(result.predict(images), scores.argmax(1))
    other = result.scores(images, bbfuse.Chip(0.05, 4))
    assert not torch.allclose(other, scores)


def test_summary_report_and_parts_are_those_of_the_folder(result: Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert result.summary == json.loads((result.folder / "summary.json").read_text())
    assert result.report() == result.folder / "report.html"
    assert "Held-out accuracy, 20 % bit errors, chip 3" in capsys.readouterr().out
    loaded = bbfuse.load(result.folder)
    images = torch.zeros(3, 1, 8, 8)
    assert torch.equal(loaded.fuse(images), result.fuse(images))


def test_it_is_one_line_in_a_shell_and_a_table_in_a_notebook(result: Result) -> None:
    accuracy = result.summary["accuracy"]
    before, after = (f"{100 * accuracy[name]['mean']:.1f} %" for name in ("perturbed", "perturbed_fused"))
    images = result.summary["queries"]["images"]
    assert repr(result) == f"<bbfuse.Result {result.folder}: {before} -> {after}, {images:,} images sent>"
    page = result._repr_html_()
    assert page.startswith("<pre>")
    assert f"{100 * accuracy['perturbed_head']['mean']:.1f} %" in page


def test_it_is_saved_whole_and_never_over_something_else(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "a" / "saved")
    assert bbfuse.load(tmp_path / "a" / "saved").config == bbfuse.load(result.folder).config
    with pytest.raises(bbfuse.InputError, match=r"saved exists already: choose another folder$"):
        result.save(tmp_path / "a" / "saved")


def test_it_is_trained_on_with_another_budget(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    further = result.resume(1_700)
    assert further.summary["config"]["init"] == str(result.folder)
    assert further.summary["queries"]["budget"] == 1_700
    assert further.folder != result.folder


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (np.zeros((2, 3, 8, 8)), "must have the form of the data of the run, n of (1, 8, 8), got [2, 3, 8, 8]"),
        (np.zeros((1, 8, 8)), "must have the form of the data of the run, n of (1, 8, 8), got [1, 8, 8]"),
        (np.full((2, 1, 8, 8), 2.0), "must lie in [0, 1] as the data of the run do, got others"),
        (np.full((2, 1, 8, 8), np.nan), "must lie in [0, 1] as the data of the run do, got others"),
    ],
)
def test_inputs_of_another_form_are_refused(inputs: Any, words: str, result: Result) -> None:
    with pytest.raises(bbfuse.InputError) as error:
        result.predict(inputs)
    assert str(error.value) == f"`inputs` {words}"


def test_a_result_for_the_population_is_calibrated_for_the_chip_that_is_given(
    own: nn.Module, arrays: Arrays, tmp_path: Path
) -> None:
    result = bbfuse.fit(
        own, arrays, chip=bbfuse.Population(0.05), optimizer="spsa", budget=3_000, batch=16,
        validation={"images": 20, "times": 1}, report={"images": 40, "chips": 1}, out=tmp_path / "run",
    )  # fmt: skip
    with pytest.raises(bbfuse.InputError, match=r"^`chip` must be given after a run for the population"):
        result.predict(arrays[0][:5])
    first, second = (result.scores(arrays[0][:20], bbfuse.Chip(0.05, seed)) for seed in (70, 71))
    assert not torch.allclose(first, second)
    assert torch.equal(result.scores(arrays[0][:20], bbfuse.Chip(0.05, 70)), first)  # calibrated anew


@pytest.mark.parametrize("kept", [(), ("head",), ("fuse",), ("fuse", "head")])
def test_without_a_chip_it_shows_and_prints_what_was_kept(
    kept: tuple[str, ...], result: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"perturbed": 0.1, "perturbed_head": 0.2, "perturbed_fuse": 0.3, "perturbed_fused": 0.4}
    key = "_".join(["perturbed", {(): "", ("head",): "head", ("fuse",): "fuse"}.get(kept, "fused")]).rstrip("_")
    accuracy = {
        "clean": None,
        "clean_fused": None,
        **{name: {"mean": value, "sd": 0.0, "chips": 1} for name, value in values.items()},
    }
    accuracy["kept"] = accuracy[key]
    config = {**result.summary["config"], "no_chip": True, "chip_seed": None}
    healthy = Result(result.folder, {**result.summary, "config": config, "accuracy": accuracy, "kept_parts": list(kept)})
    assert f"10.0 % -> {100 * values[key]:.1f} %" in repr(healthy)
    healthy.report()
    shown = capsys.readouterr().out
    assert f", {100 * values[key]:.1f} %" in next(
        line for line in shown.splitlines() if line.startswith("kept after validation: ")
    )
    assert "train one without a head" not in shown
    result.report()
    assert "train one without a head" in capsys.readouterr().out
