"""Every command of a result prints its committed file, and takes its flags from behind its own name."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from experiments.study import RESULTS
from tests.helpers.documents.pages import ROOT

NAMES = (
    "bit_errors", "bit_error_robustness", "bit_attacks", "cross_layer", "cross_layer_cifar10", "cross_layer_profiles",
    "cross_layer_search", "families", "hardened_fuse", "benchmarks/hardening", "benchmarks/injection", "benchmarks/overhead",
    "benchmarks/proxy", "benchmarks/remote", "benchmarks/scaling", "benchmarks/training",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_command_prints_the_committed_file(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["its own name", "--json"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "experiments" / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == json.loads((RESULTS / f"{Path(name).name}.json").read_text())
