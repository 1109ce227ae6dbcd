"""Tasks as trials of Ray Tune: their metric, their folders, and trials that fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from backends.base import InputError, TargetError
from bbfuse.compare import trials
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig


def record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"accuracy": 2 * summary["of"]}


TASKS = [
    Task({"method": "rge", "value": value}, RunConfig(chip_seed=seed, threads=threads))
    for seed, (value, threads) in enumerate(((0.1, 1), (0.2, 3), (0.3, 2)))
]


def test_without_an_address_the_runs_use_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trials, "run_all", lambda *given: given)
    assert trials.run_trials(tmp_path, TASKS, None, record) == (tmp_path, TASKS)


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Ray Tune that tries every point of the grid in this process; what it was given."""
    seen: dict[str, Any] = {"failing": (), "connected": []}

    def fit(trial: Any, grid: list[int]) -> list[Any]:
        seen["metrics"] = [trial({"place": place}) for place in grid]
        print("progress of Tune")
        return [SimpleNamespace(error="first line\nlast line\n" if place in seen["failing"] else None) for place in grid]

    module = ModuleType("ray.tune")
    vars(module).update(
        with_resources=lambda trial, needed: seen.update(needed=needed) or trial,
        grid_search=lambda values: values,
        TuneConfig=lambda **given: given,
        RunConfig=lambda **given: given,
        Tuner=lambda trial, param_space, tune_config, run_config: SimpleNamespace(
            fit=lambda: seen.update(tune=tune_config, run=run_config) or fit(trial, param_space["place"])
        ),
    )
    ray = ModuleType("ray")
    vars(ray).update(tune=module)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", module)

    @contextmanager
    def joined(address: str) -> Iterator[None]:
        seen["connected"].append(address)
        yield

    def run(task: Task, folder: Path) -> dict[str, Any]:
        folder.mkdir(parents=True)
        summary = {"of": task.labels["value"]}
        (folder / "summary.json").write_text(json.dumps(summary))
        return summary

    monkeypatch.setattr(trials, "connected", joined)
    monkeypatch.setattr(trials, "run_task", run)
    return seen


def test_a_trial_of_ray_tune_is_a_run_of_the_grid(
    tune: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summaries, folders = trials.run_trials(tmp_path, TASKS, "here:6379", record)
    assert summaries == [{"of": 0.1}, {"of": 0.2}, {"of": 0.3}]
    assert folders == [task.folder(tmp_path.resolve()) for task in TASKS]
    assert tune["metrics"] == [{"method": "rge", "value": v, "accuracy": 2 * v} for v in (0.1, 0.2, 0.3)]
    assert tune["needed"] == {"cpu": 3}
    assert tune["tune"] == {"metric": "accuracy", "mode": "max"}
    assert tune["run"] == {"name": "tune", "storage_path": str(tmp_path.resolve()), "verbose": 0}
    assert tune["connected"] == ["here:6379"]
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "progress of Tune\n")


def test_a_trial_that_fails_is_reported_with_its_last_line(tune: dict[str, Any], tmp_path: Path) -> None:
    tune["failing"] = (1,)
    with pytest.raises(TargetError, match=r"1 of 3 runs failed, the others are kept; rge, 0\.2: last line"):
        trials.run_trials(tmp_path, TASKS, "here:6379", record)


def test_a_missing_ray_tune_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.delitem(sys.modules, "ray.tune", raising=False)
    with pytest.raises(InputError, match="`ray_address` needs Ray Tune here"):
        trials.run_trials(tmp_path, TASKS, "here:6379", record)
