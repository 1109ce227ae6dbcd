"""Committed results: whole, reproducible from their settings, and shown by their command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bbfuse.config import from_dict, validate
from experiments.main_job import ARMS, CHIPS, STUDY
from experiments.study import RESULTS

ROOT = Path(__file__).parent.parent


def test_the_committed_result_is_that_of_the_study_as_it_stands() -> None:
    result = json.loads((RESULTS / "main_job.json").read_text())
    assert set(result) == {"schema", "config", "commit", "machine", "rows"}
    assert [(row["arm"], row["chip"]) for row in result["rows"]] == [(arm, chip) for arm in ARMS for chip in CHIPS]
    settings = [from_dict(config) for config in result["config"]]
    for config, task in zip(settings, STUDY.tasks, strict=True):
        validate(config)
        assert config == task.config
    for row in result["rows"]:
        assert row["images"] <= row["budget"]
        assert abs(row["share"] - row["recovered_points"] / row["lost_points"]) < 1e-9


def test_its_command_prints_it() -> None:
    call = [sys.executable, "-m", "experiments.main_job"]
    table = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert table.returncode == 0, table.stderr
    assert all(arm.split(",")[0] in table.stdout for arm in ARMS)
    printed = subprocess.run([*call, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert printed.stdout == (RESULTS / "main_job.json").read_text()
