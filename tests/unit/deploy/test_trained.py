"""What a run leaves is what it trained: loaded, it answers as the run did in its closing report."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bbfuse
from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Dataset
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig
from bbfuse.heads.standardize import StandardizeConfig
from bbfuse.querying.ledger import Ledger
from bbfuse.runs.folder import RunFolder
from bbfuse.training.evaluation import accuracy
from bbfuse.training.trainer import Trainer
from tests.helpers.answering import Probabilities
from tests.helpers.runs import BASE
from tests.helpers.targets import LinearBackend

POPULATION = dataclasses.replace(
    BASE, chip_seed=None, budget=12_000, report=ReportConfig(chips=2), standardize=StandardizeConfig(images=20)
)


def trained_run(
    config: RunConfig, path: Path, data: Dataset, target: type[LinearBackend] = LinearBackend
) -> tuple[Trainer, dict[str, Any]]:
    """A run of ``config`` before the closed-form ``target`` in ``path``: its trainer and its accuracies."""
    backend = target(data)
    with contextlib.closing(RunFolder.create(path, config)) as folder:
        trainer = Trainer(config, backend.info, data, Ledger(backend, config.budget), folder)
        accuracies = trainer.run(lambda _: None)
        folder.write_fuse(trainer.trained())
    return trainer, accuracies


@pytest.mark.parametrize(
    "changed",
    [{"head": "none"}, {"head": "standardize"}, {"head": "affine"}, {"head": "net"}, {"grow": "Filter"}, {"generator": "ConvS"}],
    ids=str,
)
def test_on_its_chip_it_is_as_accurate_as_the_run_reported(
    changed: dict[str, Any], tmp_path: Path, digits: Dataset, linear: LinearBackend
) -> None:
    config = dataclasses.replace(BASE, budget=4_000, **changed)
    trainer, reported = trained_run(config, tmp_path, digits)
    loaded = bbfuse.load(tmp_path)
    chip = Chip(config.bit_error_rate, 3)
    asked: list[Tensor] = []

    def target(images: Tensor) -> Tensor:
        asked.append(images)
        return linear.query(images, chip, lambda _: None)

    logits = loaded(digits.test.images, target)
    assert torch.equal(asked[0], trainer.fused(digits.test.images))
    assert not torch.equal(asked[0], digits.test.images)
    assert accuracy(logits, digits.test.labels) == reported["perturbed_fused"]["mean"]
    assert not logits.requires_grad
    assert not loaded.training
    assert loaded.calibrating_images == 0


def test_on_an_unseen_chip_it_is_calibrated_by_a_few_answers(tmp_path: Path, digits: Dataset, linear: LinearBackend) -> None:
    trainer, _ = trained_run(POPULATION, tmp_path, digits)
    loaded = bbfuse.load(str(tmp_path))
    chip = Chip(0.05, 123_456)
    raw = digits.train.images[: loaded.calibrating_images]
    assert len(raw) == 20
    answers, reference = (linear.query(raw, which, lambda _: None) for which in (chip, NOMINAL))
    with pytest.raises(InputError, match="call calibrate") as error:
        loaded(raw, lambda _: answers)
    assert "\n" not in str(error.value)
    loaded.calibrate(answers)
    expected = trainer.heads.head_for(chip)(answers)
    assert torch.equal(loaded.head(answers), expected)
    assert not torch.equal(expected, answers)
    assert loaded.calibrating_images == 0
    loaded.calibrate(answers[:10], reference[:10])
    assert torch.allclose(loaded.head(answers[:10]).mean(0), reference[:10].mean(0), atol=1e-5)
    assert not torch.equal(loaded.head(answers), expected)
    with pytest.raises(InputError, match=r"at least 2 rows of 10: got \[19, 10\] and \[20, 10\]"):
        loaded.calibrate(answers[:19])


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path: Path, digits: Dataset) -> None:
    whole = tmp_path / "whole"
    trained_run(dataclasses.replace(BASE, budget=4_000), whole, digits)
    with pytest.raises(InputError, match="the head affine of this run is not calibrated"):
        bbfuse.load(whole).calibrate(torch.zeros(5, 10))
    names = ("torn", "bare", "foreign", "another head", "not a run's", "no generator")
    torn, bare, foreign, other, strange, unknown = (Path(shutil.copytree(whole, tmp_path / name)) for name in names)
    (torn / "fuse.pt").write_bytes((whole / "fuse.pt").read_bytes()[:1000])
    (bare / "config.json").unlink()
    saved = torch.load(whole / "fuse.pt", weights_only=True)
    torch.save({**saved, "image_shape": [3, 32, 32], "generator": "UNetS"}, foreign / "fuse.pt")
    settings = json.loads((whole / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "head": "net"}))
    torch.save({"fuse": {}}, strange / "fuse.pt")
    torch.save({**saved, "generator": "Nothing"}, unknown / "fuse.pt")
    for folder, words in (
        (tmp_path / "nowhere", "nowhere holds no fuse.pt: give the folder of a run that has ended"),
        (torn, "torn/fuse.pt cannot be read"),
        (bare, "bare holds no run that can be read"),
        (foreign, "fuse.pt is not that of its config.json: Error"),
        (other, "fuse.pt is not that of its config.json: Error"),
        (strange, "fuse.pt lacks 'generator'"),
        (unknown, "must be one of .* got Nothing"),
    ):
        with pytest.raises(InputError, match=words) as error:
            bbfuse.load(folder)
        assert "\n" not in str(error.value)


def test_the_package_alone_imports_no_torch() -> None:
    code = "import bbfuse, sys; assert callable(bbfuse.load); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("config", [dataclasses.replace(BASE, budget=4_000), POPULATION], ids=["affine", "standardize"])
def test_behind_a_target_that_answers_with_probabilities_the_head_gets_what_it_was_trained_on(
    config: RunConfig, tmp_path: Path, digits: Dataset
) -> None:
    trainer, _ = trained_run(config, tmp_path, digits, Probabilities)
    target, ledger = Probabilities(digits), trainer.ledger
    ledger.limit = 10**9
    loaded, chip = bbfuse.load(tmp_path), trainer.chip or Chip(0.05, 123_456)
    if loaded.calibrating_images:
        raw = digits.train.images[: loaded.calibrating_images]
        loaded.calibrate(target.query(raw, chip, lambda _: None))
    images = digits.test.images[:50]
    with torch.no_grad():
        expected = trainer.heads.head_for(chip)(ledger.query(trainer.fused(images), chip))
    assert torch.equal(loaded(images, lambda fused: target.query(fused, chip, lambda _: None)), expected)
