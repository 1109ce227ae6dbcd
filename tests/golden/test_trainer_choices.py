"""What the settings of a run change in its steps: images, labels, sampling, chips, heads; and what is kept of it on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, BackendInfo, Chip, InputError
from backends.datasets.base import Dataset, Split
from backends.kinds.remote import RemoteConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.heads.affine import AffineConfig
from bbfuse.heads.standardize import StandardizeConfig
from bbfuse.objective.eopm import EopmConfig
from bbfuse.objective.step import Probe, Score, Step
from bbfuse.optimizers.base import GradientEstimator
from bbfuse.optimizers.spsa import Spsa
from bbfuse.querying.ledger import Ledger
from bbfuse.runs.folder import RunFolder, events
from bbfuse.training.trainer import Trainer
from tests.helpers.references.open_target import (
    CLASSES,
    CONFIG,
    DATA,
    ONE,
    POPULATION,
    STRICT,
    Open,
    answers,
    chips,
    steps_of,
    trained,
)
from tests.helpers.references.points import named


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """``image`` with a black frame, seen through a window that begins ``down`` and ``right`` in the frame."""
    frame = torch.full((1, 10, 10), -1.0)
    frame[:, 1:9, 1:9] = image
    return frame[:, down : down + 8, right : right + 8]


def test_augmented_images_are_shifted_each_by_its_own_draw(tmp_path: Path) -> None:
    _, seen = steps_of(dataclasses.replace(STRICT, augment=True, budget=900), tmp_path / "a")
    assert len(seen) > 3
    for number, step in enumerate(seen):
        down, right = torch.randint(0, 3, (2, 7), generator=named(5, "augment", number)).tolist()
        expected = [shifted(DATA.train.images[i], d, r) for i, d, r in zip(step.index.tolist(), down, right, strict=True)]
        assert torch.equal(step.images, torch.stack(expected))
    _, plain = steps_of(dataclasses.replace(STRICT, budget=900), tmp_path / "b")
    assert all(torch.equal(step.images, DATA.train.images[step.index]) for step in plain)
    assert all(torch.equal(step.labels, DATA.train.labels[step.index]) for step in plain)
    assert [step.number for step in plain] == list(range(len(plain)))
    assert {step.seed for step in plain} == {5}


def test_labels_of_the_target_are_its_classes_at_nominal_voltage_for_training_and_validation(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, labels="target")
    flipped = dataclasses.replace(
        DATA, train=dataclasses.replace(DATA.train, labels=3 - DATA.train.labels),
        validation=dataclasses.replace(DATA.validation, labels=3 - DATA.validation.labels),
    )  # fmt: skip
    trainer, target, _, _ = trained(config, tmp_path / "a", data=flipped)
    assert torch.equal(trainer.labels, answers(DATA.train.images, NOMINAL).argmax(1))
    assert torch.equal(trainer.validation_labels, answers(DATA.validation.images[:23], NOMINAL).argmax(1))
    assert [(len(images), chip) for images, chip in target.asked[:3]] == [(60, NOMINAL), (23, NOMINAL), (40, ONE)]
    lines = [line["validation"] for line in events(tmp_path / "a") if "validation" in line]
    first = trainer.heads.state_dict()["first"]
    logits = answers(DATA.validation.images[:23], ONE) / first["spread"] @ first["matrix"].T + first["bias"]
    assert lines[0] == np.mean(logits.argmax(1).numpy() == trainer.validation_labels.numpy())


def test_uniform_sampling_needs_no_difficulty_and_weighs_all_alike(tmp_path: Path) -> None:
    _, seen = steps_of(dataclasses.replace(STRICT, sampling="uniform"), tmp_path / "a")
    for number, step in enumerate(seen):
        rng = named(5, "batch", number)
        order, start = torch.randperm(60, generator=rng).numpy(), torch.rand((), generator=rng, dtype=torch.float64).item()
        assert step.index.tolist() == [order[int((start + place) * 60 / 7)] for place in range(7)]
        assert step.weights.tolist() == pytest.approx([1.0] * 7)
        assert step.hard is False
    _, hard = steps_of(STRICT, tmp_path / "b")
    assert hard[0].hard is True


def test_a_head_is_calibrated_on_the_first_images_that_are_owned_as_many_as_it_wants() -> None:
    def raw(**changed: Any) -> int:
        trainer = Trainer(
            dataclasses.replace(POPULATION, budget=9_000, **changed), Open().info, DATA, Ledger(Open(), 9_000), None
        )
        return int(trainer.heads.queries_before_training[0])

    assert raw(head="standardize", standardize=StandardizeConfig(images=11)) == 11
    assert raw(head="standardize") == 50
    for head in ("affine", "net"):
        assert raw(head=head, chip_seed=3, affine=AffineConfig(images=13)) == 13
        assert raw(head=head, chip_seed=3, affine=AffineConfig()) == 60


def test_a_method_knows_whether_the_run_has_one_chip() -> None:
    for config, rate in ((STRICT, 5e-3), (POPULATION, 3e-3)):  # what rge takes by default
        made = Trainer(dataclasses.replace(config, optimizer="rge"), Open().info, DATA, Ledger(Open(), 9), None).stages.optimizer
        assert isinstance(made, GradientEstimator)
        assert made.learning_rate(0, 9) == rate


def test_a_run_begins_with_the_fuse_and_the_head_that_another_one_ended_with(tmp_path: Path) -> None:
    trainer, _, _, _ = trained(CONFIG, tmp_path / "a")
    with contextlib.closing(RunFolder.open(tmp_path / "a")[0]) as records:
        records.write_fuse(trainer.trained())
    for changed, taken in (({}, True), ({"head": "none"}, False), ({"chip_seed": 4}, False)):
        config = dataclasses.replace(CONFIG, init=tmp_path / "a", **changed)
        made = Trainer(config, Open().info, DATA, Ledger(Open(), 9), None)
        assert torch.equal(made.fuse.vector(), trainer.fuse.vector())
        assert made.heads.warm_started is taken
        if taken:
            assert torch.equal(made.heads.state_dict()["kept"]["matrix"], trainer.heads.state_dict()["kept"]["matrix"])


def test_the_trust_in_a_surrogate_is_on_record_where_there_is_one(tmp_path: Path) -> None:
    for trust in (None, 0.25):
        with contextlib.closing(RunFolder.create(tmp_path / str(trust), CONFIG)) as records:
            trainer = Trainer(CONFIG, Open().info, DATA, Ledger(Open(), 500), records)
            trainer.stages.optimizer.trust = trust
            trainer.run(lambda _: None)
        steps = [line for line in events(tmp_path / str(trust)) if "loss" in line]
        assert [line.get("trust", "none") for line in steps] == [trust or "none"] * 25


def test_the_population_is_validated_and_reported_on_chips_of_their_own(tmp_path: Path) -> None:
    config = dataclasses.replace(
        POPULATION, validation=ValidationConfig(images=9, times=2), report=ReportConfig(chips=3, images=19)
    )
    trainer, target, reported, _ = trained(config, tmp_path / "a")
    steps = trainer.plan.steps
    validated = [chip.seed for images, chip in target.asked if len(images) == 9]
    assert validated == [40_000, 40_000 + steps]
    assert {chip for images, chip in target.asked if len(images) == 19} == {
        NOMINAL, *(Chip(0.05, 50_000 + place) for place in range(3))
    }  # fmt: skip
    assert torch.equal(target.asked[-2][0], DATA.test.images[:19])
    assert reported["perturbed"]["chips"] == 3
    assert reported["clean"] == np.mean(
        answers(DATA.test.images[:19], NOMINAL).argmax(1).numpy() == DATA.test.labels[:19].numpy()
    )


def test_a_target_is_watched_at_nominal_voltage_and_on_the_first_chip_of_the_training(tmp_path: Path) -> None:
    remote = RemoteConfig(url="http://somewhere", watch=1)
    for config, seed in ((POPULATION, chips(0, 1)[0]), (STRICT, 3)):
        _, target, _, _ = trained(dataclasses.replace(config, backend="remote", remote=remote), tmp_path / str(seed))
        asked = [(len(images), chip) for images, chip in target.asked[:4]]
        assert asked == [(8, NOMINAL), (8, Chip(0.05, seed))] * 2


def test_with_a_model_in_place_of_the_target_chips_are_drawn_for_one_chip_too(tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, Open().info, DATA, Ledger(Open(), 500), None)
    (term,) = trainer.objective.terms(0, lambda chip: trainer.heads.head_for(chip, answers), simulated=True)
    assert term.chip == Chip(0.05, int(torch.randint(30_000, (1,), generator=named(5, "training chips", 0))))
    assert term.weight == 5.0
    assert trainer.config.eopm == EopmConfig()


@pytest.mark.parametrize(("shape", "classes"), [((1, 8, 9), CLASSES), ((1, 8, 8), CLASSES + 1)])
def test_data_that_the_target_does_not_take_are_refused_before_it_is_asked(shape: tuple[int, int, int], classes: int) -> None:
    info = BackendInfo("other", Open().info.access, shape, classes)
    with pytest.raises(InputError, match=r"other takes images \(1, 8, .*classes, but `data=some` has \(1, 8, 8\) and 4"):
        Trainer(CONFIG, info, DATA, Ledger(Open(), 500), None)


def test_a_run_goes_on_from_its_last_checkpoint_with_everything_that_changes(tmp_path: Path) -> None:
    whole, _, accuracy, _ = trained(CONFIG, tmp_path / "a")
    stop = RuntimeError("stopped")

    def at_ten(status: Any) -> None:
        if status.step == 10:
            raise stop

    target = Open()
    records = RunFolder.create(tmp_path / "b", CONFIG)
    first = Trainer(CONFIG, target.info, DATA, Ledger(target, 500), records)
    with pytest.raises(RuntimeError, match="stopped"):
        first.run(at_ten, checkpoint_seconds=-1.0)
    second = Trainer(CONFIG, target.info, DATA, Ledger(target, 500), records)
    assert second.run(lambda _: None) == accuracy
    records.close()
    assert second.step == whole.step
    # the tenth step was made twice, as its checkpoint was not written yet
    assert second.ledger.images == whole.ledger.images
    assert sum(len(images) for images, _ in target.asked) == whole.ledger.images + 7
    for one, other in zip(whole.fuse.parameters(), second.fuse.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(whole.sampler.difficulty, second.sampler.difficulty)
    for name, value in whole.heads.state_dict()["kept"].items():
        assert torch.equal(second.heads.state_dict()["kept"][name], value)
    assert second.validation == whole.validation
    assert second.loss == whole.loss


@pytest.mark.parametrize(
    ("tick", "wanted", "every"),
    [(10.0, {"checkpoint_seconds": 0.0}, 1), (10.0, {"checkpoint_seconds": 25.0}, 3), (10.0, {"checkpoint_seconds": 30.0}, 4),
     (10.5, {}, 1), (9.5, {}, 2)],
)  # fmt: skip
def test_a_checkpoint_is_written_after_the_warm_up_and_when_the_last_one_is_older_than_wanted_or_ten_seconds(
    tick: float, wanted: dict[str, float], every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(0.0, tick)  # the clock is read once a step, and again when a checkpoint was written
    with contextlib.closing(RunFolder.create(tmp_path / "a", CONFIG)) as records:
        trainer = Trainer(CONFIG, Open().info, DATA, Ledger(Open(), 500), records)
        written: list[int] = []
        monkeypatch.setattr(trainer, "save", lambda: written.append(trainer.step))
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: next(now))
            trainer.run(lambda _: None, **wanted)  # type: ignore[arg-type]
    assert written == list(range(0, 26, every))


def test_a_stage_counts_its_own_steps_and_its_schedule_runs_over_those_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, told = dataclasses.replace(STRICT, generator="MLP", grow="Filter", budget=1_200), list[tuple[int, int]]()
    update = Spsa.update

    def spied(self: Spsa, step: Step, steps: int) -> None:
        told.append((step.number, steps))
        update(self, step, steps)

    monkeypatch.setattr(Spsa, "update", spied)
    trainer, seen = steps_of(config, tmp_path / "a")
    whole, begun = trainer.plan.steps, trainer.stages.begun
    assert 0 < begun < whole
    assert told == [*((number, whole) for number in range(begun)), *((number, whole - begun) for number in range(whole - begun))]
    assert {step.seed for step in seen[:begun]} == {5}
    assert {step.seed for step in seen[begun:]} == {named(5, "stage", 1).initial_seed()}
    (grown,) = [line for line in events(tmp_path / "a") if "generator" in line]
    assert grown == {"step": begun, "images": grown["images"], "generator": "Filter+MLP"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_in_bfloat16_probes_are_made_in_it_from_images_with_channels_last(precision: Any, tmp_path: Path) -> None:
    found: list[tuple[bool, bool]] = []

    def scorer(step: Step, probes: Sequence[Probe]) -> list[Score | None]:
        found.append((torch.is_autocast_enabled("cpu"), step.images.is_contiguous(memory_format=torch.channels_last)))
        return list(step.scored_here(probes))

    folded = [Split(part.images.reshape(-1, 2, 4, 8), part.labels) for part in (DATA.train, DATA.validation, DATA.test)]
    config, target = dataclasses.replace(STRICT, precision=precision, budget=900), Open()
    target.info = dataclasses.replace(target.info, image_shape=(2, 4, 8))
    with contextlib.closing(RunFolder.create(tmp_path / "a", config)) as records:
        Trainer(config, target.info, Dataset("folded", CLASSES, *folded), Ledger(target, 900), records, scorer).run(
            lambda _: None
        )
    assert set(found) == {(precision == "bfloat16", precision == "bfloat16")}
