"""The file of a hardened target: how it was made, what takes it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backends.base import InputError
from backends.datasets.base import Dataset
from backends.memory.config import PRESETS
from backends.targets import checkpoint, networks
from backends.targets.fit import fitted, main
from backends.training.hardening import Hardening
from backends.training.recipe import RECIPE
from bbfuse.cli import run

RQUANT = PRESETS["rquant"][0]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("targets") / "hard.pt"
    flags = "--quantization rquant --bits 4 --clip 0.2 --randbet 0.02 --gradients mean --steps 40 --seed 5 --out"
    assert main([*flags.split(), str(path)]) == 0
    return path


def test_the_file_is_the_fitted_target_with_how_it_was_made(file: Path, digits: Dataset) -> None:
    held = checkpoint.read(file)
    assert (held.architecture, held.image_shape, held.classes) == ("digits", (1, 8, 8), 10)
    assert 0.5 < held.validation_accuracy <= 1.0
    assert json.loads(json.dumps(held.config))["recipe"]["hardening"]["quantization"]["bits"] == 4
    loaded = fitted(str(file), digits)
    hardening = Hardening(replace(RQUANT, bits=4), clip=0.2, rate=0.02, gradients="mean")
    again = fitted("digits", digits, replace(RECIPE, steps=40, seed=5, hardening=hardening))
    for name, weights in again.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_run_and_a_plan_take_the_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = f"--target {file} --memory.quantization rquant --memory.bits 4 --chip-seed 0 --budget 4000 --json"
    assert run.main([*flags.split(), "--out", str(tmp_path / "run")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["accuracy"]["clean"] > 0.5
    assert summary["energy"]["saving"] is not None
    assert run.main(["--target", str(file), "--plan"]) == 0


@pytest.mark.parametrize("damage", ["pickle", "weights", "accuracy", "cut"])
def test_a_spoilt_file_is_refused_in_one_line(
    file: Path, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blob, held, spoilt = bytearray(file.read_bytes()), torch.load(file, weights_only=True), tmp_path / "spoilt.pt"
    if damage == "accuracy":
        torch.save({**held, "validation_accuracy": 1.0}, spoilt)
    else:
        place = {"pickle": 100, "cut": 0, "weights": blob.find(held["weights"]["0.weight"].numpy().tobytes()) + 40}[damage]
        blob[place] ^= 1
        spoilt.write_bytes(bytes(blob[: len(blob) // 2] if damage == "cut" else blob))
    assert run.main(["--target", str(spoilt), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "spoilt" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("what", "value", "words"),
    [
        ("classes", 7, "has 7 classes, but `data` has 10"),
        ("architecture", "resnet20", "takes images"),
        ("architecture", "alexnet", "got alexnet"),
    ],
)
def test_a_file_for_other_images_or_classes_is_refused(file: Path, what: str, value: object, words: str, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    checkpoint.write(other, replace(checkpoint.read(file), **{what: value}))
    with pytest.raises(InputError, match=words):
        networks.build(str(other), (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--out x.bin", "--out must end with .pt"),
        ("--out x.pt --target y.pt", "--target must be an architecture"),
        ("--out x.pt --target alexnet", "got alexnet"),
        ("--out x.pt --steps 0", "--steps must be greater than 0"),
        ("--out x.pt --label-smoothing 1", "--label-smoothing must lie in"),
        ("--out /proc/x.pt --steps 1", "cannot be written"),
        ("--out x.pt --bits 9 --quantization normal", "bits must be 2 to 8, or 16"),
    ],
)
def test_a_fit_that_cannot_be_is_refused_in_one_line(
    flags: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(flags.split()) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert words in told
    assert not any(tmp_path.iterdir())


def test_a_server_has_the_file_by_its_name(file: Path) -> None:
    from backends.server.command import ServerConfig, _opened

    (backend,) = _opened(ServerConfig(target=(str(file),)))
    assert backend.info.name == "hard"
    with pytest.raises(InputError, match="each target once"):
        _opened(ServerConfig(target=(str(file), str(file))))
