"""Drift checks and the response cache in whole runs, and runs with many requests in flight."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.base import Chip, InputError, Sending
from backends.datasets.base import Dataset
from backends.kinds.remote import RemoteConfig
from bbfuse.config.checks import validate
from bbfuse.config.schema import RunConfig
from bbfuse.runs.folder import events
from bbfuse.training.planning import Queries
from tests.helpers.answering import Killable, KilledError
from tests.helpers.runs import BASE, RUNS, run, same
from tests.helpers.targets import LinearBackend

WATCHED = dataclasses.replace(BASE, backend="remote", remote=RemoteConfig(url="http://somewhere", watch=4))
CASES = {
    "one chip": WATCHED,
    "population": dataclasses.replace(RUNS["population"], backend="remote", remote=WATCHED.remote),
    "no errors": dataclasses.replace(WATCHED, bit_error_rate=0.0),
    "more often than there are steps": dataclasses.replace(
        WATCHED, remote=RemoteConfig(url="http://x", watch=500), budget=17_000
    ),
    "growing": dataclasses.replace(WATCHED, grow="Filter"),
}


class Odd(LinearBackend):
    """A target with one of the faults that a run looks for."""

    fault = ""
    asked = 0

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        self.asked += 1
        logits = super().query(images, Chip(0.0) if self.fault == "knows no chips" else chip, sending)
        if self.fault == "noise":
            return logits + 0.1 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(self.asked))
        return logits + 0.5 if self.fault == "another" or (self.fault == "drift" and self.asked > 100) else logits


def odd(data: Dataset, fault: str) -> Odd:
    made = Odd(data)
    made.fault = fault
    return made


@pytest.mark.parametrize("name", CASES)
def test_drift_checks_are_planned_counted_and_recorded(name: str, tmp_path: Path, linear: LinearBackend, digits: Dataset) -> None:
    found = run(CASES[name], tmp_path / "a", linear, digits)
    assert found["exact"]
    assert found["planned"] == Queries(found["images"], found["requests"])
    assert found["images"] == linear.received <= CASES[name].budget
    target = {"answers": "logits", "deterministic": True, "noise": 0.0, "drift": 0.0}
    assert found["target"] == {**target, "honours_chip": None if name == "no errors" else True}
    drifts = [line for line in events(tmp_path / "a") if "drift" in line]
    assert [line["drift"] for line in drifts] == [0.0] * len(drifts)
    if name == "more often than there are steps":
        assert len(drifts) == sum("loss" in line for line in events(tmp_path / "a"))
    else:
        assert len(drifts) == 4


@pytest.mark.parametrize(
    ("fault", "words", "expected"),
    [
        ("", None, {"deterministic": True, "honours_chip": True, "noise": 0.0, "drift": 0.0}),
        (
            "knows no chips",
            "responses are the same at nominal voltage and on chip 3",
            {"deterministic": True, "honours_chip": False},
        ),
        (
            "noise",
            "responses are not repeatable: the same query changed a logit by",
            {"deterministic": False, "honours_chip": True},
        ),
        ("drift", None, {"deterministic": True, "honours_chip": True, "noise": 0.0}),
    ],
)
def test_a_fault_of_the_target_is_reported_in_one_line_and_in_the_summary(
    fault: str, words: str | None, expected: dict[str, Any], tmp_path: Path, digits: Dataset
) -> None:
    told: list[str] = []
    found = run(WATCHED, tmp_path / "a", odd(digits, fault), digits, say=told.append, store=tmp_path / "store")
    assert expected.items() <= found["target"].items()
    assert [words in line and "\n" not in line for line in told] == [True] if words else told == []
    drifts = [line["drift"] for line in events(tmp_path / "a") if "drift" in line]
    assert max(drifts) == found["target"]["drift"]
    if fault == "drift":
        sd = torch.stack([LinearBackend(digits).query(digits.train.images[:8], chip, lambda _: None)
                          for chip in (Chip(0.0), Chip(0.05, 3))]).std(correction=0)  # fmt: skip
        assert found["target"]["drift"] == pytest.approx(0.5 / sd.item(), rel=1e-3)
    # what does not repeat itself or has drifted is not taken from the store
    again = run(WATCHED, tmp_path / "b", odd(digits, fault), digits, store=tmp_path / "store", say=told.append)
    assert (again["kept"] == 0) == (fault == "noise")


def test_a_repeated_run_with_a_cache_sends_its_drift_checks_alone_and_is_identical(tmp_path: Path, digits: Dataset) -> None:
    bare = run(WATCHED, tmp_path / "bare", LinearBackend(digits), digits)
    first = run(WATCHED, tmp_path / "a", LinearBackend(digits), digits, store=tmp_path / "store")
    backend = LinearBackend(digits)
    second = run(WATCHED, tmp_path / "b", backend, digits, store=tmp_path / "store")
    assert second["images"] == backend.received == 6 * 16
    for other in (first, second):
        assert other["images"] + other["kept"] == bare["images"]
        assert other["accuracy"] == bare["accuracy"]
        assert torch.equal(other["state"], bare["state"])
    losses = [[line.get("loss") for line in events(tmp_path / name)] for name in ("bare", "a", "b")]
    assert losses[0] == losses[1] == losses[2]


def test_a_cache_of_a_target_that_has_changed_is_not_used(tmp_path: Path, digits: Dataset) -> None:
    run(WATCHED, tmp_path / "a", LinearBackend(digits), digits, store=tmp_path / "store")
    told: list[str] = []
    found = run(WATCHED, tmp_path / "b", odd(digits, "another"), digits, store=tmp_path / "store", say=told.append)
    assert ["differs from the responses received now" in line for line in told] == [True]
    assert found["kept"] == 0
    assert same(found, run(WATCHED, tmp_path / "c", odd(digits, "another"), digits))


class Busy(LinearBackend):
    """Answers several requests at once, each when it pleases."""

    def __init__(self, data: Dataset) -> None:
        super().__init__(data)
        self._lock, self._random, self.now, self.most = threading.Lock(), random.Random(0), 0, 0

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            pause = self._random.random() / 2000
            answer = super().query(images, chip, sending)
        time.sleep(pause)
        with self._lock:
            self.now -= 1
        return answer


@pytest.mark.parametrize(
    "name", ["rge", "nes", "cma", "rge, plain", "follow", "guided", "population, all terms, two chips a step"]
)
def test_a_run_with_many_requests_in_flight_is_identical_to_one_with_one(name: str, tmp_path: Path, digits: Dataset) -> None:
    one = run(RUNS[name], tmp_path / "a", LinearBackend(digits), digits)
    busy = Busy(digits)
    many = run(RUNS[name], tmp_path / "b", busy, digits, in_flight=4)
    assert same(one, many)
    assert many["images"] == busy.received
    assert events(tmp_path / "a") == events(tmp_path / "b")
    assert busy.most <= 4
    assert busy.most > 1 or name == "follow"  # which asks one question a step


@pytest.mark.parametrize("kill", [1, 3, 30, 170])
def test_a_run_killed_with_several_requests_in_flight_and_resumed_is_identical(
    kill: int, tmp_path: Path, digits: Dataset
) -> None:
    config = dataclasses.replace(WATCHED, optimizer="nes")
    whole = run(config, tmp_path / "a", LinearBackend(digits), digits)
    busy = Busy(digits)
    with pytest.raises(KilledError):
        run(config, tmp_path / "b", Killable(busy, kill), digits, in_flight=4)
    resumed = run(config, tmp_path / "b", busy, digits, in_flight=4)
    assert same(whole, resumed)
    assert resumed["target"] == whole["target"]
    assert 0 < resumed["lost"] <= 128
    assert resumed["images"] + resumed["lost"] == busy.received <= config.budget


@pytest.mark.parametrize(
    ("remote", "words"),
    [
        (RemoteConfig(store="kept"), "`remote.store` has no effect without `remote.url`"),
        (RemoteConfig(url="http://x", store="kept", watch=0), "`remote.store` needs the check .* drop `remote.watch=0`"),
        (RemoteConfig(url="http://x", watch=-1), "`remote.watch` must be 0 or more, got -1"),
        (RemoteConfig(in_flight=0), "`remote.in_flight` must be above 0, got 0"),
    ],
)
def test_invalid_combinations_of_remote_settings_are_refused(remote: RemoteConfig, words: str) -> None:
    with pytest.raises(InputError, match=words):
        validate(RunConfig(backend="remote", remote=remote))


def test_only_a_given_server_is_checked_for_drift_by_default() -> None:
    assert RunConfig().remote.checks == RunConfig(backend="remote").remote.checks == 0
    assert RunConfig(backend="remote", remote=RemoteConfig(url="http://x")).remote.checks == 3
    assert RunConfig(backend="remote", remote=RemoteConfig(url="http://x", watch=0)).remote.checks == 0
