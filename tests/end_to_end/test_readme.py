"""Every command in the README's code blocks does what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bbfuse
from backends.datasets.base import Dataset
from backends.server.subprocess_server import OwnServer
from bbfuse.cli.run import parse
from tests.helpers.documents.blocks import blocks, output_of, served
from tests.helpers.documents.pages import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "experiments" / "README.md"]
COMMANDS = [command for block in blocks(README) for command in block.commands]
LAST = [command.split("&&")[-1].strip() for command in COMMANDS if "pytest" not in command]
PLANS = [command for command in LAST if "--plan" in command]
RUNS = [command for command in LAST if command not in PLANS and "bbfuse.run" in command]


def test_the_two_commands_of_the_set_up_are_there() -> None:
    assert "python -m pip install -e . && python -m bbfuse.run" in COMMANDS
    assert "python -m pip install -e '.[test]' && python -m pytest" in COMMANDS
    assert len(RUNS) >= 5
    assert PLANS
    assert len(README.read_text().splitlines()) < 150


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_a_command_of_the_readme_runs_as_written(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    if "--init" in words:
        output_of(f"python -m bbfuse.run --budget 4000 --out {words[words.index('--init') + 1]}", tmp_path)
    before = set(tmp_path.glob("runs/*"))
    output = output_of(command, tmp_path)
    (folder,) = set(tmp_path.glob("runs/*")) - before
    assert (folder / "report.html").exists()
    assert "fuse and head" in output


@pytest.mark.slow
def test_what_a_run_trained_is_loaded_exported_and_served_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporting, serving = ([command for command in LAST if name in command] for name in ("bbfuse.export", "bbfuse.serve"))
    output_of("python -m bbfuse.run --budget 4000 --out runs/other", tmp_path)
    monkeypatch.chdir(tmp_path)
    (loading,) = re.findall(r"`(bbfuse\.load\(.*?\))`", README.read_text())
    trained = eval(loading, {"bbfuse": bbfuse})
    assert trained(torch.zeros(2, 1, 8, 8), lambda images: images.flatten(1)[:, :10]).shape == (2, 10)
    for command in exporting:
        folder = tmp_path / output_of(command, tmp_path).removeprefix("written: ").strip()
        assert {path.name for path in folder.iterdir()} == {"fuse.onnx", "head.onnx", "README.md"}
    for command in serving:
        with served(command, tmp_path) as address:
            assert address.startswith("http://127.0.0.1:")
    assert len(exporting) == len(serving) == 1


@pytest.mark.parametrize("command", PLANS)
def test_a_plan_of_the_readme_is_printed_and_nothing_is_left(command: str, tmp_path: Path) -> None:
    assert "reserve" in output_of(command, tmp_path)
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


def test_the_python_runs_as_written(
    digits: Dataset, network: nn.Module, server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"network": network, "url": server.url, "images": digits.train.images, "labels": digits.train.labels}
    names["device"] = lambda images: network(torch.from_numpy(images)).detach()
    first, *examples = [block for block in blocks(README) if block.language == "python"]
    assert len(first.text.splitlines()) == len(examples) == 5
    for block in [first, *examples]:
        exec(compile(block.text, block.text.splitlines()[-1], "exec"), names)
    for name in ("result", "own", "better", "shifted", "fleet"):
        reached, before = (names[name].summary["accuracy"][key]["mean"] for key in ("perturbed_fused", "perturbed"))
        assert reached > before, name
    assert names["classes"].shape == (100,)
    assert names["session"].result().summary["queries"]["images"] <= 4000


def test_every_flag_named_is_a_flag() -> None:
    shown = "".join(
        subprocess.run([sys.executable, "-m", *words.split()], cwd=ROOT, capture_output=True, text=True).stdout
        for words in ("bbfuse.run --help", "bbfuse.run --help-all", "bbfuse.serve --help", "bbfuse.export --help")
    )
    for flag in set(re.findall(r"--[a-z][a-z.-]+", README.read_text())) - {"--run", "--help"}:
        assert flag in shown, flag
    assert parse([]).chip_seed == 0
    assert parse(["--json"]).chip_seed == 0
    assert parse(["--population"]).chip_seed is None
