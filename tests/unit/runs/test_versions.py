"""Which library versions a run was computed with: recorded, and said where a run goes on with others."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from bbfuse.cli import run as command
from bbfuse.compare.results import as_json
from bbfuse.runs.versions import changed, versions
from tests.helpers.documents.pages import ROOT

RUN = ["--budget", "1500", "--chip-seed", "0", "--report.images", "20", "--validation.images", "10", "--affine.images", "50"]


def test_the_versions_are_those_of_what_is_installed() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "nevergrad", "cma")}.items() <= found.items()
    assert all(found.values())


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"torch": "2", "cma": "4.4"}, {"torch": "2", "cma": "4.5"}, "cma 4.4 -> 4.5"),
        ({"torch": "2"}, {"torch": "3", "cma": "4"}, "torch 2 -> 3, cma none -> 4"),
        ({"torch": "2", "pillow": "10"}, {"torch": "2"}, "pillow 10 -> none"),
        ({"torch": "2"}, {"torch": "2"}, ""),
    ],
)
def test_what_changed_is_named_with_both_versions(before: dict[str, str], now: dict[str, str], words: str) -> None:
    assert changed(before, now) == words


def test_a_run_records_its_versions_and_says_if_it_goes_on_with_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert command.main([*RUN, "--out", str(out)]) == 0
    assert "other versions" not in capsys.readouterr().err
    whole = json.loads((out / "summary.json").read_text())
    assert (whole["versions"], whole["earlier_versions"]) == (versions(), [])
    # as if the run had been begun elsewhere and had not ended
    (out / "summary.json").unlink()
    before = {**versions(), "cma": "3.9", "torch": "2.0"}
    (out / "versions.json").write_text(json.dumps([before]))
    assert command.main(["--resume", str(out)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "versions" in line]
    assert said == [
        f"library versions differ from the start of this run: torch 2.0 -> {version('torch')}, cma 3.9 -> {version('cma')}; "
        "its results may differ from an uninterrupted run"
    ]
    resumed = json.loads((out / "summary.json").read_text())
    assert (resumed["versions"], resumed["earlier_versions"]) == (versions(), [before])
    assert resumed["accuracy"] == whole["accuracy"]


def test_a_committed_result_records_the_versions_it_is_computed_with() -> None:
    machine = json.loads(as_json({}, [], ROOT))["machine"]
    assert versions().items() <= machine.items()
