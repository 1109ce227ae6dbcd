"""The laws end to end, on a closed-form target: pure, counted, resumable, blind to what it must not see."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.data import Dataset
from backends.interface import NOMINAL, Access, BackendInfo, Chip, InputError, Sending, TargetError
from bbfuse.config import (
    WITH_SURROGATE,
    AffineConfig,
    EopmConfig,
    ReportConfig,
    RunConfig,
    StandardizeConfig,
    ValidationConfig,
    validate,
)
from bbfuse.journal import Journal
from bbfuse.ledger import Ledger
from bbfuse.methods import METHODS, FollowConfig, RgeConfig, SurrogateConfig, TransferConfig
from bbfuse.planning import Queries
from bbfuse.records import RunFolder, events
from bbfuse.store import Store
from bbfuse.train import Trainer
from tests.helpers.targets import LinearBackend

BASE = RunConfig(budget=6_000, chip_seed=3, batch=16, validation=ValidationConfig(images=40, times=3))
SURROGATE = SurrogateConfig("perceptron", steps=20, rounds=1, updates=1, memory=10)
STRICT = [name for name, method in METHODS.items() if method.needs == Access.LOGITS]
RUNS: dict[str, RunConfig] = {
    "rge, no head": dataclasses.replace(BASE, head="none", sampling="uniform"),
    **{name: dataclasses.replace(BASE, optimizer=name) for name in STRICT if name not in WITH_SURROGATE},
    **{name: dataclasses.replace(BASE, batch=64, optimizer=name, surrogate=SURROGATE) for name in ("follow", "guided")},
    "follow, statistics that move": dataclasses.replace(
        BASE, batch=64, optimizer="follow", generator="UNetS", surrogate=SURROGATE
    ),
    "transfer": dataclasses.replace(
        BASE, optimizer="transfer", surrogate=SURROGATE, transfer=TransferConfig(steps=20, images=100)
    ),
    "follow, population": dataclasses.replace(
        BASE,
        chip_seed=None,
        batch=64,
        optimizer="follow",
        surrogate=SURROGATE,
        follow=FollowConfig(every=2),
        report=ReportConfig(chips=3),
        standardize=StandardizeConfig(images=20),
    ),
    "rge, plain": dataclasses.replace(BASE, rge=RgeConfig(broyden=False, directions=2)),
    "rge, parameters": dataclasses.replace(BASE, rge=RgeConfig(space="parameters")),
    "spsa, standardize": dataclasses.replace(BASE, optimizer="spsa", head="standardize"),
    "growing": dataclasses.replace(BASE, grow="Filter"),
    "warm-up and growing, cma": dataclasses.replace(BASE, optimizer="cma", head="none", warm_up=500, grow="Filter"),
    "augmented": dataclasses.replace(BASE, optimizer="spsa", augment=True),
    "net head": dataclasses.replace(BASE, head="net"),
    "clean term": dataclasses.replace(BASE, eopm=EopmConfig(clean_weight=1.0)),
    "labels of the target": dataclasses.replace(BASE, labels="target", images=300),
    "population": dataclasses.replace(
        BASE, chip_seed=None, report=ReportConfig(chips=3), standardize=StandardizeConfig(images=20)
    ),
    "population, all terms, two chips a step": dataclasses.replace(
        BASE,
        chip_seed=None,
        eopm=EopmConfig(chips=2, terms="all"),
        report=ReportConfig(chips=3),
        standardize=StandardizeConfig(images=20),
    ),
}


class KilledError(Exception): ...


class Killable:
    """Passes questions on, and dies with the answer to number ``at`` under way."""

    def __init__(self, inner: LinearBackend, at: int) -> None:
        self.info = inner.info
        self._inner, self._left = inner, at

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        answer = self._inner.query(images, chip, sending)
        self._left -= 1
        if self._left < 0:
            raise KilledError
        return answer

    def close(self) -> None: ...


def run(
    config: RunConfig, folder: Path, backend: Any, data: Dataset, paid: bool = True, seconds: float = 1e9,
    store: Path | None = None, in_flight: int = 1, say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    validate(config)
    records = RunFolder.open(folder)[0] if (folder / "config.json").exists() else RunFolder.create(folder, config)
    journal = Journal(folder / "answers.jsonl") if paid else None
    kept = Store(store, "somebody") if store else None
    ledger = Ledger(backend, config.budget, journal, kept, in_flight)
    try:
        trainer = Trainer(config, backend.info, data.owned(config.images), ledger, records)
        accuracy = trainer.run(lambda _: None, checkpoint_seconds=seconds, say=say)
        trainer.save()
    finally:
        records.close()
        for opened in (journal, kept):
            if opened:
                opened.close()
    head = [] if trainer.heads.trained is None else [p.detach().flatten() for p in trainer.heads.trained.parameters()]
    state = torch.cat([*(tensor.flatten().double() for tensor in trainer.fuse.state_dict().values()), *head])
    return {
        "accuracy": accuracy,
        "images": ledger.images,
        "requests": ledger.requests,
        "state": state,
        "lost": ledger.lost,
        "kept": ledger.kept,
        "target": trainer.watch.found(ledger.kind),
        "planned": sum(trainer.plan.sent(config).values(), Queries()),
        "exact": trainer.plan.exact,
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[name] == b[name] for name in ("accuracy", "images", "requests")) and torch.equal(a["state"], b["state"])


@pytest.mark.parametrize("name", RUNS)
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


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["often", "never"])
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
    except Exception as error:
        assert "would pass the limit" in str(error)  # retries took even what was kept for the report
    assert flaky.received <= config.budget
    assert len(events(tmp_path / "flaky")) < len(events(tmp_path / "calm"))


@pytest.mark.parametrize("name", RUNS)
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


class Probabilities(LinearBackend):
    """Answers with the softmax of its logits, in float16 as an API might round them."""

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        return super().query(images, chip, sending).softmax(1).half().float()


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
