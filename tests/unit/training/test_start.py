"""A run may begin where another one ended; it is a run like any other from there on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.base import InputError
from backends.datasets.base import Dataset
from bbfuse.config.schema import RunConfig
from bbfuse.config.serialization import from_dict, to_dict
from bbfuse.heads.standardize import StandardizeConfig
from bbfuse.optimizers.rge import RgeConfig
from bbfuse.querying.ledger import Ledger
from bbfuse.runs.folder import RunFolder, events
from bbfuse.training.trainer import Trainer
from tests.helpers.answering import Killable, KilledError
from tests.helpers.runs import BASE, RUNS, run, same
from tests.helpers.targets import LinearBackend


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> tuple[Path, Trainer, dict[str, Any]]:
    """A run of `BASE`: its folder, its trainer, its accuracies."""
    path = tmp_path_factory.mktemp("ended") / "run"
    backend = LinearBackend(digits)
    with contextlib.closing(RunFolder.create(path, BASE)) as folder:
        trainer = Trainer(BASE, backend.info, digits, Ledger(backend, BASE.budget), folder)
        accuracy = trainer.run(lambda _: None)
        folder.write_fuse(trainer.trained())
    return path, trainer, accuracy


def begun(config: RunConfig, data: Dataset) -> Trainer:
    backend = LinearBackend(data)
    return Trainer(config, backend.info, data.owned(config.images), Ledger(backend, 0), folder=None)


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_on_the_same_chip_it_starts_with_fuse_and_head_and_pays_for_neither(
    ended: tuple[Path, Trainer, dict[str, Any]], tmp_path: Path, linear: LinearBackend, digits: Dataset
) -> None:
    path, other, accuracy = ended
    config = dataclasses.replace(BASE, init=path, budget=4_000, rge=RgeConfig(lr=1e-9))
    trainer = begun(config, digits)
    assert equal(trainer.fuse.state_dict(), other.fuse.state_dict())
    assert trainer.heads.trained is not None
    assert other.heads.trained is not None
    assert equal(trainer.heads.trained.state_dict(), other.heads.trained.state_dict())
    assert trainer.plan.before_training.images == 0 < other.plan.before_training.images
    own = run(config, tmp_path / "run", linear, digits)["accuracy"]
    first, last = (
        [line["validation"] for line in events(place) if "validation" in line][index]
        for place, index in ((tmp_path / "run", 0), (path, -1))
    )
    assert first == last
    assert own["perturbed_head"] == accuracy["perturbed_head"]


@pytest.mark.parametrize(
    "changed",
    [
        {"chip_seed": 4},
        {"bit_error_rate": 0.04},
        {"head": "net"},
        {"head": "none"},
        {"target": "resnet20"},
        {"chip_seed": None, "head": "standardize", "standardize": StandardizeConfig(images=20), "budget": 12_000},
    ],
    ids=str,
)
def test_elsewhere_it_starts_with_the_fuse_and_a_head_of_its_own(
    changed: dict[str, Any], ended: tuple[Path, Trainer, dict[str, Any]], digits: Dataset
) -> None:
    path, other, _ = ended
    config = dataclasses.replace(BASE, **changed)
    trainer, without = begun(dataclasses.replace(config, init=path), digits), begun(config, digits)
    assert equal(trainer.fuse.state_dict(), other.fuse.state_dict())
    assert not equal(trainer.fuse.state_dict(), without.fuse.state_dict())
    assert not trainer.heads.warm_started
    assert trainer.plan == without.plan


@pytest.mark.parametrize("name", ["rge", "cma", "clean term", "population"])
@pytest.mark.parametrize("kill", [0, 20, 60])
def test_killed_and_resumed_it_is_the_uninterrupted_run_and_does_not_need_the_other_folder(
    name: str, kill: int, ended: tuple[Path, Trainer, dict[str, Any]], tmp_path: Path, digits: Dataset
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ended[0], other)
    config = dataclasses.replace(RUNS[name], init=other)
    whole = run(config, tmp_path / "whole", LinearBackend(digits), digits)
    with pytest.raises(KilledError):
        run(config, tmp_path / "cut", Killable(LinearBackend(digits), kill), digits)
    shutil.rmtree(other)
    assert same(whole, run(config, tmp_path / "cut", LinearBackend(digits), digits))
    assert events(tmp_path / "whole") == events(tmp_path / "cut")


def test_statistics_of_normalisation_come_with_the_fuse(tmp_path: Path, digits: Dataset) -> None:
    config = dataclasses.replace(BASE, generator="ConvS", images=300)
    other = begun(config, digits)
    with contextlib.closing(RunFolder.create(tmp_path, config)) as folder:
        folder.write_fuse(other.trained())
    own = begun(dataclasses.replace(config, images=None, init=tmp_path), digits)
    assert any("running_mean" in name for name in own.fuse.state_dict())
    assert equal(own.fuse.state_dict(), other.fuse.state_dict())


def test_what_cannot_be_taken_over_is_refused_in_one_line(
    ended: tuple[Path, Trainer, dict[str, Any]], tmp_path: Path, digits: Dataset
) -> None:
    torn, foreign, bare = tmp_path / "torn", tmp_path / "foreign", tmp_path / "bare"
    for copy in (torn, foreign, bare):
        shutil.copytree(ended[0], copy)
    (torn / "fuse.pt").write_bytes((ended[0] / "fuse.pt").read_bytes()[:1000])
    saved = torch.load(foreign / "fuse.pt", weights_only=True)
    torch.save({**saved, "image_shape": [3, 32, 32]}, foreign / "fuse.pt")
    (bare / "config.json").unlink()
    for config, words in (
        (dataclasses.replace(BASE, init=tmp_path), "holds no fuse.pt: give the folder of a run that has ended"),
        (dataclasses.replace(BASE, init=torn), "fuse.pt cannot be read"),
        (dataclasses.replace(BASE, init=bare), "`init` .*bare holds no run that can be read"),
        (dataclasses.replace(BASE, init=ended[0], generator="UNetXS"), "fuse MLP .* this run has UNetXS .* drop `init`"),
        (dataclasses.replace(BASE, init=foreign), r"for images \(3, 32, 32\), this run has MLP for \(1, 8, 8\)"),
    ):
        with pytest.raises(InputError, match=words) as error:
            begun(config, digits)
        assert "\n" not in str(error.value)


def test_the_folder_is_part_of_the_settings() -> None:
    config = RunConfig(init=Path("runs/a"))
    plain = json.loads(json.dumps(to_dict(config)))
    assert plain["init"] == "runs/a"
    assert from_dict(plain) == config
