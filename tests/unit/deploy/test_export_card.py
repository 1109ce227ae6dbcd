"""The numbers of a model card, and the conversions of pixels, without an export."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bbfuse
import bbfuse.deploy.onnx as exporting
from backends.base import InputError
from backends.datasets.base import Dataset
from bbfuse.config.schema import RunConfig
from bbfuse.deploy.onnx import ExportConfig, card, export
from bbfuse.deploy.trained import Trained, Uncalibrated
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import HEADS, Head
from tests.helpers.studies.summaries import made_summary

SHAPE = (3, 4, 5)


def trained(head: str = "affine", probabilities: bool = False) -> Trained:
    config = RunConfig(chip_seed=29 if head == "affine" else None, optimizer="spsa", seed=41, bit_error_rate=0.0375)
    fuse = Fuse("Filter", SHAPE, torch.Generator().manual_seed(0))
    placed: Head = HEADS["affine"](7, 0.0) if head == "affine" else Uncalibrated()
    return Trained(config, fuse, placed, torch.zeros(0 if head == "affine" else 23, 7), probabilities)


def rows(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE))


def test_a_card_gives_the_numbers_of_the_summary() -> None:
    learnt = trained()
    text = card(learnt, made_summary(chips=1), ExportConfig(Path("run"), Path("out")))
    found = rows(text)
    assert found == {
        "target": "digits, simulated; 7 classes", "for": "chip 29, 3.75 % bit errors", "fuse": "Filter, 228 parameters",
        "head": "affine", "trained by": "spsa, seed 41", "images sent": "18,453 in 1,276 requests",
        "recovered points": "38.7 of 51.9 lost",
        "energy": "13.7 % of the target's weight-read energy is saved at 0.837 of the lowest voltage without errors, "
                  "with the fuse's own reads subtracted",
        "accuracy on held-out images": "%", "at nominal voltage": "93.1", "at nominal voltage, fuse and head": "91.7",
        "3.75 % bit errors, unprotected": "41.2", "3.75 % bit errors, head alone": "58.3",
        "3.75 % bit errors, fuse alone": "64.7", "3.75 % bit errors, fuse and head": "79.9",
    }  # fmt: skip
    assert 'corrected = InferenceSession("head.onnx").run(None, {"logits": logits})[0]' in text
    assert "* `head.onnx` (affine): `logits` (n, 7) float32 to `corrected`, logits of the same shape." in text
    assert "`images` (n, 3, 4, 5) float32 in [-1, 1] to `fused` (n, 3, 4, 5) float32 in [-1, 1]" in text


def test_a_card_for_the_population_gives_spreads_and_how_a_chip_is_calibrated() -> None:
    text = card(trained("standardize"), made_summary(saving=None), ExportConfig(Path("run"), Path("out"), "uint8", "float32"))
    found = rows(text)
    assert found["for"] == "the population of chips, reported on 3 chips unseen ones, 3.75 % bit errors".replace("3 chips", "3")
    assert found["3.75 % bit errors, unprotected"] == "41.2 ± 3.1"
    assert found["3.75 % bit errors, fuse and head"] == "79.9 ± 2.6"
    assert found["energy"] == "unknown: no voltage was measured for this rate, or the target's architecture is unknown"
    assert "from its responses to 23 raw images" in text
    assert 'head.onnx"' not in text
    assert "`images` (n, 3, 4, 5) uint8 from 0 to 255 to `fused` (n, 3, 4, 5) float32 in [-1, 1]" in text
    two = card(trained("standardize"), made_summary(chips=2), ExportConfig(Path("run"), Path("out")))
    assert rows(two)["3.75 % bit errors, head alone"] == "58.3 ± 4.7"


class Half(nn.Module):
    """A fuse that halves."""

    image_shape = SHAPE

    def forward(self, images: Tensor) -> Tensor:
        return images / 2


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[nn.Module, Tensor, tuple[str, str]]]:
    """What was to be exported."""
    seen: list[tuple[nn.Module, Tensor, tuple[str, str]]] = []

    def note(module: nn.Module, samples: Tensor, names: tuple[str, str]) -> bytes:
        seen.append((module, samples, names))
        return names[1].encode()

    monkeypatch.setattr(exporting, "onnx_of", note)
    return seen


@pytest.mark.parametrize("takes", ["float32", "uint8"])
@pytest.mark.parametrize("gives", ["float32", "uint8"])
def test_pixels_are_converted_on_both_sides_of_the_fuse(
    takes: Any, gives: Any, exported: list[tuple[nn.Module, Tensor, tuple[str, str]]], tmp_path: Path
) -> None:
    learnt = trained()
    learnt.fuse = Half()  # type: ignore[assignment]
    export(learnt, "a card", ExportConfig(tmp_path / "run", tmp_path / "a" / "b" / "out", takes, gives))
    assert {path.name: path.read_text() for path in (tmp_path / "a" / "b" / "out").iterdir()} == {
        "fuse.onnx": "fused", "head.onnx": "corrected", "README.md": "a card",
    }  # fmt: skip
    (fuse, samples, names), (head, answers, others) = exported
    assert (names, others) == (("images", "fused"), ("logits", "corrected"))
    assert not fuse.training
    raw = torch.tensor([0, 37, 128, 255], dtype=torch.uint8) if takes == "uint8" else torch.tensor([-1.0, -0.71, 0.004, 1.0])
    halved = (raw.double() / 255 * 2 - 1) / 2 if takes == "uint8" else raw.double() / 2
    if gives == "uint8":
        assert fuse(raw).dtype == torch.uint8
        assert fuse(raw).tolist() == torch.round((halved + 1) * 255 / 2).tolist()
    else:
        torch.testing.assert_close(fuse(raw).double(), halved, rtol=0, atol=1e-6)
    assert samples.shape == (3, *SHAPE)
    lowest, highest = (0, 255) if takes == "uint8" else (-1, 1)
    assert lowest <= samples.min() < lowest + 0.05 * (highest - lowest)
    assert highest - 0.05 * (highest - lowest) < samples.max() <= highest
    assert answers.shape == (3, 7)
    assert head is learnt.head
    assert 3.0 < answers.std() < 8.0  # sd 5, of 21 numbers drawn by a fixed seed


def test_samples_are_the_same_every_time_and_probabilities_where_the_target_gives_them(
    exported: list[tuple[nn.Module, Tensor, tuple[str, str]]], tmp_path: Path
) -> None:
    for name, probabilities in (("a", False), ("b", False), ("c", True)):
        export(trained(probabilities=probabilities), "", ExportConfig(tmp_path, tmp_path / name))
    (_, images, _), (_, logits, _), (_, again, _), (_, others, _), _, (_, shares, names) = exported
    assert torch.equal(images, again)
    assert torch.equal(logits, others)
    assert names == ("probabilities", "corrected")
    torch.testing.assert_close(shares, logits.exp() / logits.exp().sum(1, keepdim=True))


def test_the_card_of_a_run_without_bit_errors_speaks_of_none(digits: Dataset, tmp_path: Path) -> None:
    def middle(images: Any) -> Any:
        return images.flatten(1)[:, 20:30]

    result = bbfuse.fit(
        middle, dataclasses.replace(digits, name="scans"), optimizer="spsa", budget=1_500, validation={"images": 20, "times": 1},
        report={"images": 30}, out=tmp_path / "run",
    )  # fmt: skip
    text = card(result.trained, result.summary, ExportConfig(result.folder, tmp_path / "out"))
    assert text.startswith("# Fuse for middle (scans)\n")
    assert "| target | middle; 10 classes |\n| for | inputs of another domain |" in text
    kept, share = " and ".join(result.summary["kept_parts"]) or "neither", 100 * result.summary["accuracy"]["kept"]["mean"]
    assert f"| no bit errors, kept after validation: {kept} | {share:.1f} |" in text
    assert f"| recovered points | {result.summary['recovered_points']:.1f} |" in text
    for words in ("nominal", "low voltage", "these bit errors", " lost", "simulated;", "object:"):
        assert words not in text


@pytest.mark.parametrize(
    ("there", "error", "code", "told"),
    [
        (True, None, 0, "written: {out}\n"),
        (True, RuntimeError("numbers differ"), 1, "error: numbers differ\n"),
        (True, InputError("not empty"), 2, "error: not empty\n"),
        (False, None, 2, "error: --run {run} has no summary.json that can be read: "),
    ],
)
def test_the_command_exports_with_the_card_of_the_runs_summary(
    there: bool,
    error: Exception | None,
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learnt, seen = trained(), []

    def export(*given: Any) -> None:
        seen.append(given)
        if error is not None:
            raise error

    monkeypatch.setattr(exporting.Trained, "load", lambda folder, flag, trust: learnt)
    monkeypatch.setattr(exporting, "export", export)
    if there:
        (tmp_path / "summary.json").write_text(json.dumps(made_summary(chips=1)))
    assert exporting.main(["--run", str(tmp_path), "--out", str(tmp_path / "out")]) == code
    config = ExportConfig(tmp_path, tmp_path / "out")
    assert seen == ([(learnt, card(learnt, made_summary(chips=1), config), config)] if there else [])
    out, err = capsys.readouterr()
    assert (err if code else out).startswith(told.format(run=tmp_path, out=tmp_path / "out"))
    assert (out if code else err) == ""


@pytest.mark.parametrize(("error", "reason"), [(OSError(28, "No space left"), "No space left"), (OSError("odd"), "odd")])
def test_what_cannot_be_written_is_refused_with_the_reason(
    error: OSError, reason: str, exported: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError) as told:
        export(trained(), "", ExportConfig(tmp_path, tmp_path / "out"))
    assert str(told.value) == f"--out {tmp_path / 'out'} cannot be written: {reason}"
    assert list(tmp_path.iterdir()) == []


def test_what_is_to_be_exported_is_not_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExportConfig(Path("a"), Path("b")).takes = "uint8"  # type: ignore[misc]


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="is not empty: choose another folder"):
        export(trained(), "", ExportConfig(tmp_path, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_module_is_a_script_that_leaves_out_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "--run", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    monkeypatch.delitem(sys.modules, "bbfuse.export", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("bbfuse.export", run_name="__main__", alter_sys=True)
    assert ended.value.code == 2
    assert f"--run {tmp_path / 'none'} holds no" in capsys.readouterr().err
