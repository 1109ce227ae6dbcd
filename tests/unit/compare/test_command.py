"""The command line of results and studies: what is computed, written, shown and refused."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.table import Table

from backends.base import InputError, TargetError
from bbfuse.compare import executor
from bbfuse.compare import results as results_module
from bbfuse.compare.command import RayShow, Show, TierShow, tier_result
from bbfuse.compare.config_list import ConfigList
from bbfuse.compare.study import Study as LibraryStudy
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig
from bbfuse.execution import SCHEMA
from bbfuse.runs.versions import versions
from experiments import study
from experiments.study import Study

COMMIT = results_module._commit


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setattr(results_module, "_commit", lambda repository: "abc")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.json").write_text(json.dumps({"config": "kept", "rows": [{"a": 3}]}))
    return tmp_path


def table(rows: list[dict[str, Any]]) -> Table:
    made = Table("a")
    for row in rows:
        made.add_row(f"value {row['a']}")
    return made


def toy(arguments: Sequence[str], more_rows: Callable[[], list[dict[str, Any]]] = list, name: str = "toy") -> int:
    return study.command(name, lambda: ({"set": 5}, [{"a": 7}, {"a": 8}]), table, arguments, more_rows)


def test_without_flags_the_committed_rows_are_shown_and_nothing_is_computed(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy([], lambda: [{"a": 11}]) == 0
    told = capsys.readouterr().out
    assert ("value 3" in told, "value 11" in told, "value 7" in told) == (True, True, False)
    assert toy(["--json"], lambda: [{"a": 11}], "experiments.toy") == 0
    assert json.loads(capsys.readouterr().out) == {"config": "kept", "rows": [{"a": 3}, {"a": 11}]}
    assert study.rows_of("toy") == [{"a": 3}]


def test_the_table_is_printed_as_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert toy(["--markdown"], lambda: [{"a": 11}]) == 0
    assert capsys.readouterr().out == "| a |\n| --- |\n| value 3 |\n| value 11 |\n"
    assert toy(["--markdown", "--json"]) == 2
    assert capsys.readouterr().err == "error: --json and --markdown exclude each other: remove one\n"


def test_with_run_the_rows_are_computed_and_written(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy(["--run"], lambda: [{"a": 11}]) == 0
    assert "value 8" in capsys.readouterr().out
    written = json.loads((results / "toy.json").read_text())
    machine = {
        "processor": platform.machine(), "cores": os.cpu_count(), **versions(), "python": platform.python_version(),
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
def test_a_tier_without_a_result_or_a_gpu_is_refused(
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

    assert tier_result("toy", tier) == name
    assert main("--run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["config"] == {"tier": tier}
    assert main() == 0
    assert f"value {len(tier)}" in capsys.readouterr().out
    assert json.loads((results / f"{name}.json").read_text())["rows"] == [{"a": len(tier)}]


TASKS = [Task({"arm": arm}, RunConfig(chip_seed=chip, budget=1700)) for arm, chip in (("x", 3), ("y", 4))]


def test_a_study_makes_its_rows_of_labels_and_records(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[Any] = []

    def run_all(root: Path, tasks: Sequence[Task], address: str | None) -> Any:
        said.append((root, list(tasks), address))
        return [{"n": 5}, {"n": 6}], [Path("p"), Path("q")]

    def record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
        return {"a": f"{folder}{summary['n']}"}

    def rows(records: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
        said.append((records, folders))
        return records

    def draw(rows: list[dict[str, Any]], folders: list[Path]) -> None:
        said.append((rows, folders))

    mine = Study("toy", lambda: TASKS, record, table, rows, draw, lambda: said.append("before"), run_all=run_all)
    assert mine.main(["--ray-address", "here"]) == 2
    assert "--ray-address has no effect without --run" in capsys.readouterr().err
    assert said == []
    assert mine.main(["--run", "--ray-address", "here", "--json"]) == 0
    records = [{"arm": "x", "a": "p5"}, {"arm": "y", "a": "q6"}]
    assert said == ["before", (Path("runs") / "toy", TASKS, "here"), *[(records, [Path("p"), Path("q")])] * 2]
    shown = json.loads(capsys.readouterr().out)
    assert (shown["rows"], shown["config"]["runs"]) == (
        records,
        [{"budget": 1700, "chip_seed": 3}, {"budget": 1700, "chip_seed": 4}],
    )
    assert mine.main([]) == 0
    short = replace(mine, run_all=lambda *given: ([{"n": 5}], [Path("p")]))
    with pytest.raises(ValueError, match="shorter"):
        short.main(["--run"])


def test_flags_and_studies_are_immutable() -> None:
    kinds = (Show, RayShow, TierShow, ConfigList, LibraryStudy)
    assert all(vars(kind)["__dataclass_params__"].frozen for kind in kinds)


def test_a_study_prepares_and_adds_nothing_by_default() -> None:
    plain = Study("toy", list, lambda *_: {}, table)
    assert (plain.prepare(), plain.more_rows(), plain.run_all) == (None, [], executor.run_all)  # type: ignore[func-returns-value]


@pytest.mark.parametrize(("code", "words", "told"), [(0, "1a2b\n", "1a2b"), (0, "\n", None)])
def test_a_result_names_its_commit(
    code: int, words: str, told: str | None, monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    monkeypatch.undo()
    called: list[Any] = []

    def run(command: list[str], **known: Any) -> subprocess.CompletedProcess[str]:
        called.append((command, known))
        return subprocess.CompletedProcess(command, code, words, "")

    monkeypatch.setattr(subprocess, "run", run)
    assert COMMIT(results) == told
    assert called == [(["git", "rev-parse", "--short", "HEAD"], {"cwd": results, "capture_output": True, "text": True})]
