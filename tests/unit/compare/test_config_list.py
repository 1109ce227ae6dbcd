"""A list of configurations in a Python file: executed, shown in one table, and refused where it is none."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from bbfuse.compare import config_list
from bbfuse.compare.tasks import Outcome, Task
from bbfuse.config.schema import RunConfig
from experiments import study

PROGRAM = "python -m experiments.study"


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


SUMMARY = {"queries": {"images": 1650}, "accuracy": {"perturbed": {"mean": 0.3126}, "perturbed_fused": {"mean": 0.7654}}}
LIST = "from bbfuse.config.schema import RunConfig\nCONFIGS = [RunConfig(chip_seed=chip) for chip in (3, 4)]\n"


def test_a_list_of_configurations_is_executed_and_a_failure_is_reported(
    monkeypatch: pytest.MonkeyPatch, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Outcome(SUMMARY), Outcome(SUMMARY)]
    given: list[Any] = []
    monkeypatch.setattr(config_list, "outcomes", lambda *called: given.append(called) or found)
    monkeypatch.setenv("COLUMNS", "150")
    (results / "mine.py").write_text(LIST)
    assert config_list.main(["mine.py"], PROGRAM) == 0
    lines = capsys.readouterr().out.splitlines()
    tasks = [Task({"name": str(place)}, RunConfig(chip_seed=3 + place), whole_report=False) for place in range(2)]
    folders = [task.folder(Path("runs") / "mine") for task in tasks]
    assert given == [(tasks, folders, None)]
    (first,) = [line.split("│")[1:-1] for line in lines if str(folders[0]) in line]
    assert [cell.strip() for cell in first] == ["0", "1,650", "31.3", "76.5", str(folders[0])]
    found[0] = Outcome(None, "why")
    assert config_list.main(["mine.py", "--ray-address", "here"], PROGRAM) == 1
    shown = capsys.readouterr().out
    assert "failed: why" in shown
    assert str(folders[1]) in shown
    assert given[-1][2] == "here"
    assert config_list.main(["mine.py", "--json"], PROGRAM) == 1
    assert json.loads(capsys.readouterr().out) == {"0": {"failed": "why"}, "1": SUMMARY}
    for words in ([], ["--json"]):
        monkeypatch.setattr(config_list, "outcomes", lambda *called: found[:1])
        with pytest.raises(ValueError, match="shorter"):
            config_list.main(["mine.py", *words], PROGRAM)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is no file"), ("", "must have CONFIGS"), ("CONFIGS = []", "must have CONFIGS"),
        (LIST + "CONFIGS.append(3)", "must have CONFIGS"), (LIST + "CONFIGS = {'a': 3}", "must have CONFIGS"),
        (LIST + "CONFIGS = [RunConfig(budget=-5)]", "--budget"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_runs_is_refused(
    text: str | None, said: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (results / "mine.py").write_text(text)
    assert config_list.main(["mine.py"], PROGRAM) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_runs_may_have_names(results: Path) -> None:
    (results / "mine.py").write_text(LIST + "CONFIGS = dict(zip(('one', 'two'), CONFIGS))")
    assert [task.name for task in config_list.tasks_in(results / "mine.py")] == ["one", "two"]


def test_as_a_program_it_reads_its_own_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["study.py", "missing.py"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(study.__file__), run_name="__main__")
    assert ended.value.code == 2
    assert "missing.py is no file" in capsys.readouterr().err
