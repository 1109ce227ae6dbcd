"""What is exported gives torch's numbers in another runtime, and its card the run's."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import bbfuse
from bbfuse.deploy.onnx import main, onnx_of
from bbfuse.fuse.generators.base import GENERATORS
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import HEADS
from bbfuse.heads.standardize import Standardize
from tests.helpers.runs import run_folder

SPREAD = {"mean": 0.5, "sd": 0.02, "chips": 1}
SUMMARY = {
    "accuracy": {
        "clean": 0.983, "clean_fused": 0.972, "perturbed": {**SPREAD, "mean": 0.423},
        "perturbed_head": {**SPREAD, "mean": 0.932}, "perturbed_fuse": {**SPREAD, "mean": 0.941},
        "perturbed_fused": {**SPREAD, "mean": 0.965},
    },
    "recovered_points": 54.2, "lost_points": 56.0, "queries": {"images": 19870, "requests": 1234},
    "energy": {"saving": 0.125, "voltage": 0.83},
}  # fmt: skip


def given_by(model: bytes | Path, **inputs: Tensor) -> Tensor:
    """What onnxruntime makes of it."""
    session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(output)


def moved(module: nn.Module) -> nn.Module:
    """``module`` with other parameters than those it began with."""
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("name", [*GENERATORS, "Filter+MLP"])
def test_every_generator_gives_torchs_numbers_for_any_number_of_images(name: str) -> None:
    shape = (2, 8) if name == "Conv1d" else (1, 8, 8)
    fuse = moved(Fuse(name, shape, torch.Generator().manual_seed(0)))
    images = torch.rand((7, *shape), generator=torch.Generator().manual_seed(1)) * 2 - 1
    model = onnx_of(fuse, images[:2], ("images", "fused"))
    for some in (images, images[:1]):
        assert torch.allclose(given_by(model, images=some), fuse(some), atol=1e-5)
    assert not torch.allclose(fuse(images), images, atol=1e-2)


@pytest.mark.parametrize("name", ["affine", "net", "standardize"])
def test_every_head_gives_torchs_numbers(name: str) -> None:
    logits = 5 * torch.randn((20, 10), generator=torch.Generator().manual_seed(2))
    head = Standardize(logits, 2 * logits.flip(0) + 1) if name == "standardize" else moved(HEADS[name](10, 0.0))
    model = onnx_of(head, logits[:3], ("logits", "corrected"))
    assert torch.allclose(given_by(model, logits=logits), head(logits), atol=1e-4)
    assert not torch.allclose(head(logits), logits, atol=0.1)


class _Other(nn.Module):
    """Gives other numbers the more often it is called."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images + float(self.calls)


def test_a_model_with_other_numbers_is_not_declared_done() -> None:
    with pytest.raises(RuntimeError, match="numbers differ from torch's by"):
        onnx_of(_Other(), torch.zeros(2, 1), ("x", "y"))


def ended(folder: Path) -> Path:
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    return folder


@pytest.mark.parametrize(("takes", "gives"), [("float32", "float32"), ("uint8", "float32"), ("uint8", "uint8")])
def test_the_command_writes_models_and_a_card(takes: str, gives: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = ended(run_folder(tmp_path / "run")), tmp_path / "a" / "out"
    assert main(["--run", str(run), "--out", str(out), "--takes", takes, "--gives", gives]) == 0
    assert capsys.readouterr().out == f"written: {out}\n"
    assert {path.name for path in out.iterdir()} == {"fuse.onnx", "head.onnx", "README.md"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    trained, rng = bbfuse.load(run), torch.Generator().manual_seed(5)
    stored = torch.randint(0, 256, (9, 1, 8, 8), dtype=torch.uint8, generator=rng)
    images = stored / 127.5 - 1.0
    fused = given_by(out / "fuse.onnx", images=stored if takes == "uint8" else images)
    expected = trained.fuse(images)
    if gives == "uint8":
        assert fused.dtype == torch.uint8
        assert (fused - (expected + 1.0) * 127.5).abs().max() <= 0.5 + 1e-3
    else:
        assert torch.allclose(fused, expected, atol=1e-5)
    logits = torch.randn((9, 10), generator=rng)
    assert torch.allclose(given_by(out / "head.onnx", logits=logits), trained.head(logits), atol=1e-4)
    card = (out / "README.md").read_text()
    for words in (
        "| chip 3, 5 % bit errors |", "19,870 in 1,234 requests", "54.2 of 56.0 lost", "12.5 % of the target's",
        "| at nominal voltage | 98.3 |", "unprotected | 42.3 |", "fuse and head | 96.5 |", "`head.onnx` (affine)",
    ):  # fmt: skip
        assert words in card, words
    assert f"`images` (n, 1, 8, 8) {'uint8 from 0 to 255' if takes == 'uint8' else 'float32 in [-1, 1]'}" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {"images": (stored if takes == "uint8" else images).numpy()}
    names["target"] = lambda _: logits.numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        exec(code, names)
    assert torch.allclose(torch.from_numpy(names["corrected"]), trained.head(logits), atol=1e-4)


def test_a_head_that_each_chip_has_of_its_own_is_not_written(tmp_path: Path) -> None:
    run, out = ended(run_folder(tmp_path / "run", "standardize", None)), tmp_path / "out"
    assert main(["--run", str(run), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"fuse.onnx", "README.md"}
    card = (out / "README.md").read_text()
    assert "calibrated for each chip, from its responses to 20 raw images" in card
    assert "the population of chips, reported on 1 unseen ones" in card
    assert 'head.onnx"' not in card


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, unended = ended(run_folder(tmp_path / "run")), run_folder(tmp_path / "unended")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    bare = Path(tmp_path / "bare")
    for words, told in (
        (["--run", str(tmp_path / "nowhere"), "--out", str(bare)], "nowhere holds no fuse.pt"),
        (["--run", str(unended), "--out", str(bare)], "has no summary.json that can be read"),
        (["--run", str(run), "--out", str(full)], "is not empty: choose another folder"),
        (["--run", str(run), "--out", str(full / "mine" / "deeper")], "cannot be written"),
        (["--run", str(run), "--out", str(bare), "--takes", "int4"], "--takes"),
        (["--run", str(run), "--out", str(bare)], "the export needs onnxscript, which is not installed"),
    ):
        if "not installed" in told:
            monkeypatch.setitem(sys.modules, "onnxscript", None)
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert told in err
        assert (out, err.count("\n")) == ("", 1)
    assert not bare.exists()
    assert [path.name for path in full.iterdir()] == ["mine"]


def test_a_head_behind_probabilities_takes_probabilities(tmp_path: Path) -> None:
    run, out = ended(run_folder(tmp_path / "run", answers="probabilities")), tmp_path / "out"
    assert main(["--run", str(run), "--out", str(out)]) == 0
    answers = torch.randn((9, 10), generator=torch.Generator().manual_seed(5)).softmax(1)
    expected = bbfuse.load(run).head(answers)
    assert torch.allclose(given_by(out / "head.onnx", probabilities=answers), expected, atol=1e-4)
    assert torch.allclose(bbfuse.load(run_folder(tmp_path / "other")).head(answers.log()), expected, atol=1e-4)
    assert "`probabilities` (n, 10) float32 to `corrected`" in (out / "README.md").read_text()
