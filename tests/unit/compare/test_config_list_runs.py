"""A list of configurations: each run is executed once, by processes or by Ray, and shown in one table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bbfuse.compare import config_list, executor
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.execution import execute
from experiments import tuning

TWO = """
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.config.schema import RunConfig

small = {"head": "none", "budget": 1500, "validation": ValidationConfig(images=20, times=2), "report": ReportConfig(images=50)}
CONFIGS = {name: RunConfig(chip_seed=chip, **small) for chip, name in enumerate(("first", "second"))}
"""


def summaries(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    assert config_list.main([*words, "--json"], "python -m experiments.study") == 0
    found: dict[str, dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.ray
@pytest.mark.usefixtures("network")  # fitted once, and not by every process
def test_a_list_is_executed_once_and_processes_and_ray_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TWO)
    found = []
    for words in ([], ["--ray-address", "local"]):
        place = tmp_path / str(len(words))
        place.mkdir()
        monkeypatch.chdir(place)
        found.append(summaries([str(file), *words], capsys))
        assert list(found[-1]) == ["first", "second"]
        assert len(list((place / "runs" / "mine").iterdir())) == 2
    kept = [(path, path.read_bytes()) for path in sorted(place.glob("runs/mine/*/summary.json"))]
    assert config_list.main([str(file)], "python -m experiments.study") == 0
    assert "second" in capsys.readouterr().out
    assert [(path, path.read_bytes()) for path, _ in kept] == kept  # read, not done again: their seconds are the same
    for summary in (summary for both in found for summary in both.values()):
        del summary["seconds"]
    assert found[0] == found[1]


SMALL = RunConfig(head="none", budget=1500, validation=ValidationConfig(images=20, times=2), report=ReportConfig(images=50))


@pytest.mark.slow
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("words", [[], pytest.param(["--ray-address", "local"], marks=pytest.mark.ray)], ids=["cores", "ray"])
def test_a_run_that_fails_is_reported_and_stops_no_other(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(TWO)
    first, _ = config_list.tasks_in(file)
    folder = first.folder(Path("runs") / "mine")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert config_list.main([str(file), *words, "--json"], "python -m experiments.study") == 1
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert "begun with other defaults" in found["first"]["failed"]
    assert found["second"]["queries"]["images"] <= 1500
    assert "first: failed: " in told.err
    assert "second: done" in told.err
    assert "Traceback" not in told.err


def _die(task: Task, folder: Path) -> dict[str, Any]:
    import os

    if task.config.chip_seed == 0:
        os._exit(1)
    return {"queries": {"images": 3}, "accuracy": {"perturbed_fused": {"mean": 0.5}}}


@pytest.mark.slow
def test_a_process_that_dies_stops_no_other_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "run_task", _die)
    tasks = [Task({"name": chip}, dataclasses.replace(SMALL, chip_seed=chip)) for chip in (0, 1, 0, 2)]
    found = executor.outcomes(tasks, [tmp_path] * 4)
    assert [outcome.summary is None for outcome in found] == [True, False, True, False]
    assert "terminated" in found[0].reason


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("network")
def test_trials_of_ray_tune_give_the_rows_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray.tune")
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    small = {"budget": 1500, "validation": ValidationConfig(times=0), "report": ReportConfig(images=50)}
    tasks = [
        Task(
            {"setting": "chip", "method": "rge", "value": value, "seed": 100},
            tuning.ARMS["rge"].config(value, chip_seed=100, **small),
        )
        for value in (1e-4, 1e-1)
    ]

    def rows(summaries: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
        records = [{**task.labels, **tuning._record(*one)} for task, *one in zip(tasks, summaries, folders, strict=True)]
        return tuning._rows(records, folders)

    here = [task.folder(tmp_path / "here") for task in tasks]
    alone = rows([execute(dataclasses.replace(task.config, out=folder)) for task, folder in zip(tasks, here, strict=True)], here)
    capsys.readouterr()
    assert rows(*tuning.by_tune(tmp_path / "there", tasks, "local")) == alone
    assert alone[0]["accuracy"] != alone[1]["accuracy"]
    assert capsys.readouterr().out == ""
