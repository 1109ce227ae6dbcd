"""When a run calls its callbacks, and what with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bbfuse.callbacks.base import Callback, Start, Status
from bbfuse.config import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.config.serialization import to_dict
from bbfuse.execution import execute
from bbfuse.runs.folder import events

CONFIG = RunConfig(
    optimizer="spsa", chip_seed=0, budget=2_000, validation=ValidationConfig(20, 3), report=ReportConfig(images=10)
)  # fmt: skip


class Recorder(Callback):
    """Keeps all calls; raises ``error`` after step ``at``."""

    def __init__(self, at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._at, self._error = at, error

    def on_start(self, start: Start) -> None:
        self.calls.append(("start", start))

    def on_step(self, status: Status) -> None:
        self.calls.append(("step", status))
        if status.step == self._at:
            raise self._error

    def on_validation(self, status: Status) -> None:
        self.calls.append(("validation", status))

    def on_end(self, summary: dict[str, Any]) -> None:
        self.calls.append(("end", summary))

    def of(self, kind: str) -> list[Any]:
        return [given for name, given in self.calls if name == kind]


def comparable(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in ("seconds", "config")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Recorder]:
    """A run, its summary, and the calls that two callbacks got."""
    folder, first, second = tmp_path_factory.mktemp("run") / "whole", Recorder(), Recorder()
    summary = execute(dataclasses.replace(CONFIG, out=folder), [first, second])
    assert first.calls == second.calls
    return folder, summary, first


def test_the_start_comes_first_and_the_summary_last(whole: tuple[Path, dict[str, Any], Recorder]) -> None:
    folder, summary, recorder = whole
    assert recorder.calls[0] == ("start", Start(to_dict(dataclasses.replace(CONFIG, out=folder)), folder, 0))
    assert recorder.calls[-1] == ("end", summary)
    assert [len(recorder.of(name)) for name in ("start", "end")] == [1, 1]


def test_steps_and_validations_are_those_of_the_events(whole: tuple[Path, dict[str, Any], Recorder]) -> None:
    folder, _, recorder = whole
    written = events(folder)
    steps, validations = recorder.of("step"), recorder.of("validation")
    losses = [line for line in written if "loss" in line]
    assert [(status.step, status.images, status.loss) for status in steps] == [
        (line["step"] + 0, line["images"], line["loss"]) for line in losses
    ]
    assert [status.step for status in steps] == list(range(1, steps[-1].steps + 1))
    assert [status.validation for status in validations] == [line["validation"] for line in written if "validation" in line]
    assert len(validations) == 3
    assert {status.budget for status in steps} == {2_000}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_ends_the_run_which_goes_on_as_if_nothing_had_happened(
    error: type[BaseException], whole: tuple[Path, dict[str, Any], Recorder], tmp_path: Path
) -> None:
    folder, again = tmp_path / "run", Recorder()
    with pytest.raises(error):
        execute(dataclasses.replace(CONFIG, out=folder), [Recorder(5, error)])
    assert not (folder / "summary.json").exists()
    assert comparable(execute(RunConfig(resume=folder), [again])) == comparable(whole[1])
    (start,) = again.of("start")
    assert start.step == 0  # no checkpoint was due yet
    assert [status.step for status in again.of("step")] == list(range(1, again.of("step")[-1].steps + 1))
    assert json.loads((folder / "summary.json").read_text()) == again.of("end")[0]


def test_a_callback_that_overrides_nothing_changes_nothing(
    whole: tuple[Path, dict[str, Any], Recorder], tmp_path: Path
) -> None:  # fmt: skip
    assert comparable(execute(dataclasses.replace(CONFIG, out=tmp_path / "run"), [Callback()])) == comparable(whole[1])
