"""Tasks: grids, settings stored by their differences, summaries of all runs or the reason of the first that failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.base import TargetError
from bbfuse.compare import executor, tasks
from bbfuse.compare.tasks import Outcome, Task
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.config.serialization import to_dict
from bbfuse.objective.eopm import EopmConfig

WHOLE = ReportConfig(share=1.0)
TASKS = [Task({"arm": arm}, RunConfig(chip_seed=chip, budget=1700)) for arm, chip in (("x", 3), ("y", 4))]


def test_a_grid_has_all_combinations_and_its_last_axis_varies_fastest() -> None:
    found = list(tasks.grid(lambda a, chip: RunConfig(budget=1000 * a, chip_seed=chip), a=(3, 2), chip=range(2)))
    assert [task.labels for task in found] == [{"a": 3, "chip": 0}, {"a": 3, "chip": 1}, {"a": 2, "chip": 0}, {"a": 2, "chip": 1}]
    expected = [RunConfig(budget=1000 * a, chip_seed=c, report=WHOLE) for a in (3, 2) for c in range(2)]
    assert [task.config for task in found] == expected


def test_settings_are_kept_by_their_differences() -> None:
    configs = [
        RunConfig(chip_seed=3, report=WHOLE),
        RunConfig(budget=1700, report=WHOLE, eopm=EopmConfig(chips=3), validation=ValidationConfig(times=0)),
    ]
    kept = tasks.settings_of([Task({}, config) for config in configs])
    assert kept["defaults"] == to_dict(RunConfig(report=WHOLE))
    assert kept["runs"] == [{"chip_seed": 3}, {"budget": 1700, "eopm": {"chips": 3}, "validation": {"times": 0}}]
    assert tasks.configs_of(json.loads(json.dumps(kept))) == configs


def test_runs_are_executed_under_the_root_and_a_failure_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Outcome({"n": 1}), Outcome({"n": 2})]
    given: list[Any] = []
    monkeypatch.setattr(executor, "outcomes", lambda *called: given.append(called) or found)
    folders = [task.folder(Path("root")) for task in TASKS]
    assert executor.run_all(Path("root"), TASKS, "here") == ([{"n": 1}, {"n": 2}], folders)
    assert given == [(TASKS, folders, "here")]
    found[1] = Outcome(None, "why")
    with pytest.raises(TargetError, match=r"^1 of 2 runs failed, the others are kept; y: why$"):
        executor.run_all(Path("root"), TASKS)
    with pytest.raises(ValueError, match="shorter"):
        executor.summaries_of(TASKS, found[:1])
