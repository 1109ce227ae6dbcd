"""Every command in the README's code blocks does what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.base import Access
from backends.server.subprocess_server import OwnServer
from bbfuse.optimizers.base import OPTIMIZERS
from tests.helpers.pages import ROOT

PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md"]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
LINES = [line for language, block in BLOCKS if not language for line in block.splitlines()]
COMMANDS = [line.split("#")[0].strip() for line in LINES if line.startswith("python")]
LAST = [command.split("&&")[-1].strip() for command in COMMANDS if "pytest" not in command]
PLANS = [command for command in LAST if "--plan" in command]
RUNS = [command for command in LAST if command not in PLANS and "bbfuse.run" in command]


def test_the_two_commands_of_the_set_up_are_there() -> None:
    assert "python -m pip install -e . && python -m bbfuse.run" in COMMANDS
    assert "python -m pip install -e '.[test]' && python -m pytest" in COMMANDS
    assert len(RUNS) >= 5
    assert PLANS


def told_by(command: str, folder: Path) -> str:
    """What ``command`` prints when it is called in ``folder``."""
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_a_command_of_the_readme_runs_as_written(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    if "--init" in words:
        told_by(f"python -m bbfuse.run --chip-seed 0 --budget 4000 --out {words[words.index('--init') + 1]}", tmp_path)
    if "--target" in words:
        (fitting,) = (other for other in LAST if "backends.targets.fit" in other)
        assert told_by(fitting, tmp_path).startswith(f"written: {words[words.index('--target') + 1]}")
    before = set(tmp_path.glob("runs/*"))
    told = told_by(command, tmp_path)
    (folder,) = set(tmp_path.glob("runs/*")) - before
    assert (folder / "report.html").exists()
    assert "fuse and head" in told


@pytest.mark.slow
def test_what_a_run_trained_is_exported_and_served_as_written(tmp_path: Path) -> None:
    exporting, serving = ([command for command in LAST if name in command] for name in ("bbfuse.export", "bbfuse.serve"))
    told_by("python -m bbfuse.run --chip-seed 0 --budget 4000 --out runs/other", tmp_path)
    for command in exporting:
        folder = tmp_path / told_by(command, tmp_path).removeprefix("written: ").strip()
        assert {path.name for path in folder.iterdir()} == {"fuse.onnx", "head.onnx", "README.md"}
    for command in serving:
        words, environment = [sys.executable, *shlex.split(command)[1:]], {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.terminate()
    assert len(exporting) == len(serving) == 1


@pytest.mark.parametrize("command", PLANS)
def test_a_plan_of_the_readme_is_printed_and_nothing_is_left(command: str, tmp_path: Path) -> None:
    assert "kept back" in told_by(command, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_every_command_to_a_module(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (page.parent / link.split("#")[0]).exists(), link
    for module in re.findall(r"python -m (experiments[\w.]*|bbfuse[\w.]*|backends[\w.]*)", text):
        place = ROOT / module.replace(".", "/")
        found = place.with_suffix(".py").exists() or (place / "__main__.py").exists()
        assert found or module == "experiments.NAME", module


def test_the_lines_of_python_run_as_written(server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as somebody would who follows the page."""
    monkeypatch.chdir(tmp_path)
    api, *simulated = [block for language, block in BLOCKS if language == "python"]
    assert all(len(block.splitlines()) <= 15 for block in (api, *simulated))
    names: dict[str, Any] = {"url": server.url, "images": torch.zeros(2, 1, 8, 8)}
    exec(api, names)
    assert names["logits"].shape == (2, 10)
    names = {"network": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), "images": torch.zeros(2, 1, 2, 2)}
    for block in simulated:
        names.pop("logits", None)
        exec(block, names)
        assert names["logits"].shape == (2, 3)
    assert len(simulated) == 3


def test_every_flag_named_is_a_flag() -> None:
    from bbfuse.cli.run import parse

    shown = "".join(
        subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True).stdout
        for module in ("bbfuse.run", "bbfuse.serve", "bbfuse.export", "backends.server", "backends.targets.fit")
    )
    for flag in set(re.findall(r"--[a-z][a-z.-]+", (ROOT / "README.md").read_text())) - {"--run", "--working-dir"}:
        assert flag in shown, flag
    assert parse([]).chip_seed is None


def test_the_table_of_methods_is_that_of_the_code() -> None:
    text = (ROOT / "README.md").read_text()
    for name, method in OPTIMIZERS.items():
        granted = "logits" if method.access == Access.LOGITS else "gradients"
        assert f"| `{name}` | {granted} | {method.about} |" in text
