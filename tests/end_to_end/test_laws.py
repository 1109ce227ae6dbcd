"""The laws end to end, on a closed-form target: pure, counted, resumable, blind to what it must not see."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, Access, BackendInfo, Chip, InputError, Sending, TargetError
from backends.datasets.base import Dataset
from bbfuse.config.checks import validate
from bbfuse.heads.affine import AffineConfig
from bbfuse.optimizers.rge import RgeConfig
from bbfuse.querying.budget import BudgetSpentError
from bbfuse.querying.ledger import Ledger
from bbfuse.runs.folder import RunFolder, events
from bbfuse.training.planning import Queries
from bbfuse.training.trainer import Trainer
from tests.helpers.answering import Killable, KilledError, Probabilities
from tests.helpers.runs import BASE, RUNS, STRICT, run, same
from tests.helpers.targets import LinearBackend

EVERY = [pytest.param(name, marks=pytest.mark.slow) if name == "follow, statistics that move" else name for name in RUNS]


@pytest.mark.parametrize("name", EVERY)
def test_the_same_run_twice_is_the_same_run_and_every_image_is_counted(
    name: str, tmp_path: Path, linear: LinearBackend, digits: Dataset
) -> None:
    first = run(RUNS[name], tmp_path / "a", linear, digits)
    assert first["images"] == linear.received <= RUNS[name].budget
    planned = first["planned"]
    assert planned.images >= first["images"]
    assert planned.requests >= first["requests"]
    assert first["exact"] == (planned == Queries(first["images"], first["requests"])) == ("growing, cma" not in name)
    torch.rand(3)  # the global stream is nobody's business
    assert same(first, run(RUNS[name], tmp_path / "b", LinearBackend(digits), digits, paid=False, seconds=0.0))
    lines = events(tmp_path / "a")
    assert [line["images"] for line in lines] == sorted(line["images"] for line in lines)
    assert sum("validation" in line for line in lines) == 3


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("seconds", [0.0, pytest.param(1e9, marks=pytest.mark.slow)], ids=["often", "never"])
def test_killed_anywhere_and_resumed_it_is_the_uninterrupted_run(
    name: str, seconds: float, tmp_path: Path, linear: LinearBackend, digits: Dataset
) -> None:
    """Killed in the warm-up or the first steps, in training, in the closing report: what was answered is not paid again."""
    config = RUNS[name]
    whole = run(config, tmp_path / "whole", LinearBackend(digits), digits)
    middle = whole["requests"] // 2
    for kill in (middle,) if seconds == 0.0 else (2, middle, whole["requests"] - 2):
        linear.received, cut = 0, tmp_path / f"cut{kill}"
        with pytest.raises(KilledError):
            run(config, cut, Killable(linear, kill), digits, seconds=seconds)
        resumed = run(config, cut, linear, digits, seconds=seconds)
        assert same(whole, resumed)
        assert resumed["images"] + resumed["lost"] == linear.received <= config.budget
        assert events(tmp_path / "whole") == events(cut)


class Wall:
    """Lets questions and answers through and nothing else, the answers as plain numbers."""

    def __init__(self, inner: LinearBackend) -> None:
        self._ask = inner.query
        self.info = inner.info
        self.asked: set[str] = set()

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        assert not images.requires_grad
        return torch.tensor(self._ask(images, chip, sending).tolist())

    def __getattr__(self, name: str) -> Any:
        self.asked.add(name)
        raise AttributeError(name)


@pytest.mark.parametrize("name", STRICT)
def test_a_strict_method_uses_answers_and_nothing_else(name: str, tmp_path: Path, linear: LinearBackend, digits: Dataset) -> None:
    """Behind a wall that passes numbers only, every run is the same number for number, and nobody looks for more."""
    wall = Wall(linear)
    assert same(run(RUNS[name], tmp_path / "walled", wall, digits), run(RUNS[name], tmp_path / "open", linear, digits))
    assert not wall.asked


@pytest.mark.parametrize("name", ["rge", "population"])
def test_however_often_it_is_killed_the_budget_holds(name: str, tmp_path: Path, linear: LinearBackend, digits: Dataset) -> None:
    for _ in range(12):
        with pytest.raises(KilledError):
            run(RUNS[name], tmp_path / "cut", Killable(linear, 9), digits)
    result = run(RUNS[name], tmp_path / "cut", linear, digits)
    assert result["images"] + result["lost"] == linear.received <= RUNS[name].budget


@pytest.mark.parametrize("name", ["rge", "population"])
def test_without_journal_a_resumed_run_asks_again_and_is_the_same(
    name: str, tmp_path: Path, linear: LinearBackend, digits: Dataset
) -> None:
    whole = run(RUNS[name], tmp_path / "whole", LinearBackend(digits), digits, paid=False)
    with pytest.raises(KilledError):
        run(RUNS[name], tmp_path / "cut", Killable(linear, whole["requests"] // 2), digits, paid=False, seconds=0.01)
    assert same(whole, run(RUNS[name], tmp_path / "cut", linear, digits, paid=False))


class Flaky(LinearBackend):
    """Every third request is sent three times before it is answered."""

    calls = 0

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        self.calls += 1
        for _ in range(2 if self.calls % 3 == 0 else 0):
            sending(len(images))
            self.received += len(images)
        return super().query(images, chip, sending)


def test_retries_shorten_the_training_and_never_break_the_budget(tmp_path: Path, digits: Dataset) -> None:
    calm, flaky = LinearBackend(digits), Flaky(digits)
    config = dataclasses.replace(BASE, budget=12_000)
    run(config, tmp_path / "calm", calm, digits)
    try:
        counted = run(config, tmp_path / "flaky", flaky, digits)["images"]
        assert counted == flaky.received
    except BudgetSpentError as error:  # retries took even what was kept for the report
        assert re.fullmatch(r"\d+ more images would pass the limit of 12000, \d+ are sent", str(error))
    assert flaky.received <= config.budget
    assert len(events(tmp_path / "flaky")) < len(events(tmp_path / "calm"))


@pytest.mark.parametrize("name", EVERY)
def test_the_smallest_budget_allows_one_step_and_one_less_is_refused(
    name: str, tmp_path: Path, linear: LinearBackend, digits: Dataset
) -> None:
    with pytest.raises(InputError, match="give at least") as error:
        run(dataclasses.replace(RUNS[name], budget=1), tmp_path / "a", linear, digits)
    smallest = int(str(error.value).split()[-1])
    with pytest.raises(InputError, match="does not allow one step"):
        run(dataclasses.replace(RUNS[name], budget=smallest - 1), tmp_path / "b", linear, digits)
    assert linear.received == 0
    run(dataclasses.replace(RUNS[name], budget=smallest), tmp_path / "c", linear, digits)
    assert 0 < linear.received <= smallest


def test_training_wins_back_what_a_shift_of_the_answers_took(tmp_path: Path, digits: Dataset) -> None:
    for name in ("rge", "rge, no head", "spsa, standardize"):
        accuracy = run(RUNS[name], tmp_path / name, LinearBackend(digits), digits)["accuracy"]
        lost = accuracy["clean"] - accuracy["perturbed"]["mean"]
        assert lost > 0.2
        assert accuracy["perturbed_fused"]["mean"] > accuracy["perturbed"]["mean"] + 0.5 * lost


class Spy(LinearBackend):
    """Keeps what it was asked."""

    def __init__(self, data: Dataset) -> None:
        super().__init__(data)
        self.asked: list[tuple[Tensor, Chip]] = []

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        self.asked.append((images, chip))
        return super().query(images, chip, sending)


def test_nothing_but_the_report_sees_test_images_or_reporting_chips(tmp_path: Path, digits: Dataset) -> None:
    spy = Spy(digits)
    run(RUNS["population"], tmp_path / "a", spy, digits)
    reporting = {Chip(0.05, 50_000 + index) for index in range(3)}
    test = {image.numpy().tobytes() for image in digits.test.images}
    kinds = []
    for images, chip in spy.asked:
        about_test = any(image.numpy().tobytes() in test for image in images)
        kinds.append(about_test or chip in reporting)
    first = kinds.index(True)
    assert all(kinds[first:]) or {chip for _, chip in spy.asked[first:]} <= reporting | {NOMINAL}
    assert not any(kinds[:first])


def test_labels_of_the_target_are_its_own_answers_and_the_data_labels_are_not_used(tmp_path: Path, digits: Dataset) -> None:
    scrambled = dataclasses.replace(
        digits,
        train=dataclasses.replace(digits.train, labels=digits.train.labels.flip(0)),
        validation=dataclasses.replace(digits.validation, labels=digits.validation.labels.flip(0)),
    )
    config = RUNS["labels of the target"]
    assert same(
        run(config, tmp_path / "a", LinearBackend(digits), digits),
        run(config, tmp_path / "b", LinearBackend(digits), scrambled),
    )


def test_a_target_that_fails_in_mid_run_loses_nothing(tmp_path: Path, linear: LinearBackend, digits: Dataset) -> None:
    class Failing(Killable):
        def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
            try:
                return super().query(images, chip, sending)
            except KilledError:
                return torch.full((len(images), 10), torch.nan)

    whole = run(BASE, tmp_path / "whole", LinearBackend(digits), digits)
    with pytest.raises(TargetError, match="not finite"):
        run(BASE, tmp_path / "cut", Failing(linear, 50), digits)
    assert same(whole, run(BASE, tmp_path / "cut", linear, digits))


def test_a_target_of_another_shape_is_refused_before_it_is_asked(tmp_path: Path, linear: LinearBackend, digits: Dataset) -> None:
    linear.info = BackendInfo("other", Access.LOGITS, (3, 32, 32), 10)
    with pytest.raises(InputError, match="takes images"):
        run(BASE, tmp_path / "a", linear, digits)
    assert linear.received == 0


def test_the_head_alone_is_the_one_fitted_before_the_fuse(tmp_path: Path, digits: Dataset) -> None:
    long = run(BASE, tmp_path / "a", LinearBackend(digits), digits)["accuracy"]
    short = run(dataclasses.replace(BASE, budget=3_500), tmp_path / "b", LinearBackend(digits), digits)["accuracy"]
    still = run(dataclasses.replace(BASE, affine=AffineConfig(lr=1e-9)), tmp_path / "c", LinearBackend(digits), digits)[
        "accuracy"
    ]
    assert long["perturbed_head"] == short["perturbed_head"] == still["perturbed_head"]


def test_probes_rounded_to_256_levels_still_teach(tmp_path: Path, linear: LinearBackend, digits: Dataset) -> None:
    """Smoothing of half a level on average: many pixels stay where they were. With and without memory the fuse wins points."""
    linear.info = dataclasses.replace(linear.info, eight_bits=True)
    for number, settings in enumerate((RgeConfig(smoothing=0.004), RgeConfig(smoothing=0.02, broyden=False))):
        config = dataclasses.replace(BASE, head="none", budget=20_000, rge=settings)
        accuracy = run(config, tmp_path / str(number), linear, digits)["accuracy"]
        assert accuracy["perturbed_fused"]["mean"] > accuracy["perturbed"]["mean"] + 0.05


@pytest.mark.parametrize("head", ["none", "affine", "standardize"])
def test_a_target_that_answers_with_probabilities_is_recognised_and_learnt_from(
    head: str, tmp_path: Path, digits: Dataset
) -> None:
    config = dataclasses.replace(BASE, head=head, budget=20_000)
    validate(config)
    ledger = Ledger(Probabilities(digits), config.budget)
    with contextlib.closing(RunFolder.create(tmp_path / "run", config)) as folder:
        accuracy = Trainer(config, ledger.info, digits, ledger, folder).run(lambda _: None)
    assert ledger.kind == "probabilities"
    assert accuracy["perturbed_fused"]["mean"] > accuracy["perturbed"]["mean"] + 0.05
