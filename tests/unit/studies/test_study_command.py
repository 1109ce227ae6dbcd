"""The command line of results and studies: what is computed, written, shown and refused; settings kept by their differences."""

from __future__ import annotations

import json
import os
import platform
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.table import Table

from backends.base import InputError, TargetError
from bbfuse.cli.run import SCHEMA
from bbfuse.config.schema import EopmConfig, RunConfig, ValidationConfig, to_dict
from experiments import study
from experiments.carrying import Outcome, Task
from experiments.study import Study

COMMIT = study._commit


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "_commit", lambda: "abc")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.json").write_text(json.dumps({"config": "kept", "rows": [{"a": 3}]}))
    return tmp_path


def table(rows: list[dict[str, Any]]) -> Table:
    made = Table("a")
    for row in rows:
        made.add_row(f"value {row['a']}")
    return made


def toy(arguments: Sequence[str], also: Callable[[], list[dict[str, Any]]] = list, name: str = "toy") -> int:
    return study.command(name, lambda: ({"set": 5}, [{"a": 7}, {"a": 8}]), table, arguments, also)


def test_without_flags_the_committed_rows_are_shown_and_nothing_is_computed(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy([], lambda: [{"a": 11}]) == 0
    told = capsys.readouterr().out
    assert ("value 3" in told, "value 11" in told, "value 7" in told) == (True, True, False)
    assert toy(["--json"], lambda: [{"a": 11}], "experiments.toy") == 0
    assert json.loads(capsys.readouterr().out) == {"config": "kept", "rows": [{"a": 3}, {"a": 11}]}
    assert study.rows_of("toy") == [{"a": 3}]


def test_with_run_the_rows_are_computed_and_written(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy(["--run"], lambda: [{"a": 11}]) == 0
    assert "value 8" in capsys.readouterr().out
    written = json.loads((results / "toy.json").read_text())
    machine = {
        "processor": platform.machine(), "cores": os.cpu_count(), **study.versions(), "python": platform.python_version(),
        "torch": version("torch"),
    }  # fmt: skip
    assert written == {
        "schema": SCHEMA, "config": {"set": 5}, "commit": "abc", "machine": machine, "rows": [{"a": 7}, {"a": 8}],
    }  # fmt: skip
    assert (results / "toy.json").read_text() == json.dumps(written, indent=1) + "\n"


def test_bad_input_and_failed_targets_have_exit_codes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    for error, code in ((InputError("bad flag"), 2), (TargetError("no target"), 1)):

        def compute(error: Exception = error) -> Any:
            raise error

        assert study.command("toy", compute, table, ["--run"]) == code
        assert str(error) in capsys.readouterr().err
    assert toy(["--nonsense"]) == 2


@pytest.mark.parametrize(
    ("words", "file", "said"),
    [
        (["--tier", "moon"], "toy_moon", "--tier must be one of cpu, gpu, got moon"),
        (["--tier", "gpu"], None, "--tier gpu has no committed result: add --run"),
        (["--tier", "gpu", "--run"], "toy_gpu", "--tier gpu needs a GPU"),
        (["--tier", "gpu", "--run"], None, "--tier gpu needs a GPU"),
    ],
)
def test_a_tier_says_what_it_lacks(
    words: list[str],
    file: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    results: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if file is not None:
        (results / f"{file}.json").write_text("{}")
    assert study.tiered("toy", lambda tier: pytest.fail("nothing may be computed"), table, words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("tier", "name"), [("cpu", "toy"), ("gpu", "toy_gpu"), ("small", "toy_small")])
def test_a_tier_has_a_result_of_its_own(
    tier: str, name: str, monkeypatch: pytest.MonkeyPatch, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: tier == "gpu")

    def main(*words: str) -> int:
        tiers = ("cpu", "gpu", "small")
        return study.tiered("toy", lambda of: ({"tier": of}, [{"a": len(of)}]), table, ["--tier", tier, *words], tiers)

    assert study.tier_result("toy", tier) == name
    assert main("--run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["config"] == {"tier": tier}
    assert main() == 0
    assert f"value {len(tier)}" in capsys.readouterr().out
    assert json.loads((results / f"{name}.json").read_text())["rows"] == [{"a": len(tier)}]


TASKS = [Task({"arm": arm}, RunConfig(chip_seed=chip, budget=1700)) for arm, chip in (("x", 3), ("y", 4))]


def test_a_study_makes_its_rows_of_labels_and_records(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[Any] = []

    def carry_out(root: Path, tasks: Sequence[Task], address: str | None) -> Any:
        said.append((root, list(tasks), address))
        return [{"n": 5}, {"n": 6}], [Path("p"), Path("q")]

    def record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
        return {"a": f"{folder}{summary['n']}"}

    def rows(records: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
        said.append((records, folders))
        return records

    mine = Study("toy", lambda: TASKS, record, rows, table, lambda: said.append("before"), carry_out=carry_out)
    assert mine.main(["--ray-address", "here"]) == 2
    assert "--ray-address has no effect without --run" in capsys.readouterr().err
    assert said == []
    assert mine.main(["--run", "--ray-address", "here", "--json"]) == 0
    records = [{"arm": "x", "a": "p5"}, {"arm": "y", "a": "q6"}]
    assert said == ["before", (Path("runs") / "toy", TASKS, "here"), (records, [Path("p"), Path("q")])]
    shown = json.loads(capsys.readouterr().out)
    assert (shown["rows"], shown["config"]["runs"]) == (
        records,
        [{"budget": 1700, "chip_seed": 3}, {"budget": 1700, "chip_seed": 4}],
    )
    assert mine.main([]) == 0
    short = replace(mine, carry_out=lambda *given: ([{"n": 5}], [Path("p")]))
    with pytest.raises(ValueError, match="shorter"):
        short.main(["--run"])


def test_what_was_asked_and_studies_stay_what_they_are() -> None:
    kinds = (study.Asked, study.Spread, study.Tiered, study.Own, Study)
    assert all(vars(kind)["__dataclass_params__"].frozen for kind in kinds)


def test_what_a_study_needs_first_is_nothing_by_default() -> None:
    plain = Study("toy", list, lambda *_: {}, lambda *_: [], table)
    assert (plain.before(), plain.also(), plain.carry_out) == (None, [], study.carried_out)  # type: ignore[func-returns-value]


def test_runs_are_carried_out_under_the_root_and_a_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Outcome({"n": 1}), Outcome({"n": 2})]
    given: list[Any] = []
    monkeypatch.setattr(study, "outcomes", lambda *asked: given.append(asked) or found)
    folders = [task.folder(Path("root")) for task in TASKS]
    assert study.carried_out(Path("root"), TASKS, "here") == ([{"n": 1}, {"n": 2}], folders)
    assert given == [(TASKS, folders, "here")]
    found[1] = Outcome(None, "why")
    with pytest.raises(TargetError, match=r"^1 of 2 runs failed, the others are kept; y: why$"):
        study.carried_out(Path("root"), TASKS)
    with pytest.raises(ValueError, match="shorter"):
        study.all_of(TASKS, found[:1])


def test_settings_are_kept_by_their_differences() -> None:
    configs = [RunConfig(chip_seed=3), RunConfig(budget=1700, eopm=EopmConfig(chips=3), validation=ValidationConfig(times=0))]
    kept = study.settings_of([Task({}, config) for config in configs])
    assert kept["defaults"] == to_dict(RunConfig())
    assert kept["runs"] == [{"chip_seed": 3}, {"budget": 1700, "eopm": {"chips": 3}, "validation": {"times": 0}}]
    assert study.configs_of(json.loads(json.dumps(kept))) == configs


@pytest.mark.parametrize(("code", "words", "told"), [(0, "1a2b\n", "1a2b"), (0, "\n", None)])
def test_a_result_names_its_commit(
    code: int, words: str, told: str | None, monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(study, "RESULTS", results)
    asked: list[Any] = []

    def run(command: list[str], **known: Any) -> subprocess.CompletedProcess[str]:
        asked.append((command, known))
        return subprocess.CompletedProcess(command, code, words, "")

    monkeypatch.setattr(subprocess, "run", run)
    assert COMMIT() == told
    assert asked == [(["git", "rev-parse", "--short", "HEAD"], {"cwd": results, "capture_output": True, "text": True})]


SUMMARY = {"queries": {"images": 1650}, "accuracy": {"perturbed": {"mean": 0.3126}, "perturbed_fused": {"mean": 0.7654}}}
LIST = "from bbfuse.config.schema import RunConfig\nCONFIGS = [RunConfig(chip_seed=chip) for chip in (3, 4)]\n"


def test_a_list_of_ones_own_is_carried_out_and_a_failure_is_told(
    monkeypatch: pytest.MonkeyPatch, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Outcome(SUMMARY), Outcome(SUMMARY)]
    given: list[Any] = []
    monkeypatch.setattr(study, "outcomes", lambda *asked: given.append(asked) or found)
    monkeypatch.setenv("COLUMNS", "150")
    (results / "mine.py").write_text(LIST)
    assert study.main(["mine.py"]) == 0
    lines = capsys.readouterr().out.splitlines()
    tasks = [Task({"name": str(place)}, RunConfig(chip_seed=3 + place)) for place in range(2)]
    folders = [task.folder(Path("runs") / "mine") for task in tasks]
    assert given == [(tasks, folders, None)]
    (first,) = [line.split("│")[1:-1] for line in lines if str(folders[0]) in line]
    assert [cell.strip() for cell in first] == ["0", "1,650", "31.3", "76.5", str(folders[0])]
    found[0] = Outcome(None, "why")
    assert study.main(["mine.py", "--ray-address", "here"]) == 1
    shown = capsys.readouterr().out
    assert "failed: why" in shown
    assert str(folders[1]) in shown
    assert given[-1][2] == "here"
    assert study.main(["mine.py", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"0": {"failed": "why"}, "1": SUMMARY}
    for words in ([], ["--json"]):
        monkeypatch.setattr(study, "outcomes", lambda *asked: found[:1])
        with pytest.raises(ValueError, match="shorter"):
            study.main(["mine.py", *words])


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
    assert study.main(["mine.py"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_runs_may_have_names(results: Path) -> None:
    (results / "mine.py").write_text(LIST + "CONFIGS = dict(zip(('one', 'two'), CONFIGS))")
    assert [task.name for task in study._listed(results / "mine.py")] == ["one", "two"]


def test_as_a_program_it_reads_its_own_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["study.py", "missing.py"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(study.__file__), run_name="__main__")
    assert ended.value.code == 2
    assert "missing.py is no file" in capsys.readouterr().err
