"""The same classifier as an object, in files, behind a server and in other processes: the same run, number for number."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bbfuse
from backends.base import NOMINAL, Chip
from backends.datasets.base import Dataset
from backends.files import short_name
from backends.memory.simulator import Simulator
from backends.server.subprocess_server import OwnServer
from backends.targets.networks import build
from bbfuse.compare.executor import run_all
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import RayConfig, ReportConfig, ValidationConfig
from bbfuse.execution import execute
from tests.helpers.documents.pages import ROOT
from tests.helpers.onnx_models import sequential

SETTINGS: dict[str, Any] = {
    "optimizer": "spsa", "budget": 4000, "report": {"images": 60}, "validation": {"images": 40, "times": 2},
}  # fmt: skip
MINE = """
import torch

from backends.targets.digits import digits

network = digits(10)
network.load_state_dict(torch.load({!r}, weights_only=True))

def scores(images):
    with torch.no_grad():
        return network(images)
"""
SAME = ("accuracy", "recovered_points", "lost_points", "queries", "answers", "report")


@pytest.fixture
def place(network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``mine.py``, which is also the working directory."""
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    (tmp_path / "mine.py").write_text(MINE.format(str(tmp_path / "weights.pth")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(target: object, folder: str, **changed: Any) -> dict[str, Any]:
    """What the summary of a run of ``target`` has in common with those of other forms of it."""
    summary = bbfuse.fit(target, "digits", chip=Chip(0.05, 0), out=folder, **{**SETTINGS, **changed}).summary
    return {name: summary[name] for name in SAME}


def behind_a_server(target: str, folder: str) -> dict[str, Any]:
    server = OwnServer(target, "digits")
    try:
        return fit(server.url, folder, remote={"model": short_name(target), "watch": 0})
    finally:
        server.close()


def test_a_network_given_directly_by_its_place_and_behind_a_server_has_the_same_run(network: nn.Module, place: Path) -> None:
    direct = fit(network, "a")
    assert direct["accuracy"]["perturbed"]["mean"] < direct["accuracy"]["clean"]
    assert fit("mine.py:network", "b") == direct
    assert behind_a_server("mine.py:network", "c") == direct


def test_an_onnx_file_has_its_bits_and_the_same_run_behind_a_server(
    network: nn.Sequential, digits: Dataset, place: Path
) -> None:  # fmt: skip
    sequential(place / "digits.onnx", network, (1, 8, 8))
    model = build("digits.onnx", (1, 8, 8), 10)
    one, other = Simulator(network), Simulator(model)
    assert (one.stored.patterns == other.stored.patterns).all()
    for chip in (NOMINAL, Chip(0.05, 0), Chip(0.05, 1)):
        read = [simulator._readings[0].on(chip) for simulator in (one, other)]
        assert (read[0] == read[1]).all()
        images = digits.test.images[:100]
        torch.testing.assert_close(other.logits(images, chip), one.logits(images, chip), rtol=0, atol=1e-4)
    direct, plain = fit("digits.onnx", "a"), fit(network, "b")
    assert behind_a_server("digits.onnx", "c") == direct
    for name in ("clean", "perturbed"):  # without a fuse both are the same classifier
        assert direct["accuracy"][name] == plain["accuracy"][name]


def test_it_can_be_planned_and_its_energy_is_not_stated(network: nn.Sequential, place: Path) -> None:
    sequential(place / "digits.onnx", network, (1, 8, 8), batch=1)
    plan = bbfuse.fit("digits.onnx", "digits", chip=Chip(0.05, 0), plan=True, **SETTINGS)
    result = bbfuse.fit("digits.onnx", "digits", chip=Chip(0.05, 0), out="a", **SETTINGS)
    assert plan["queries"]["images"] == result.summary["queries"]["images"]
    assert result.summary["energy"]["saving"] is result.summary["energy"]["saving_macs"] is None
    assert result.summary["energy"]["saving_bare"] > 0.3


def _config(target: str, **changed: Any) -> RunConfig:
    sections = {"report": ReportConfig(images=60), "validation": ValidationConfig(images=40, times=2)}
    return RunConfig(target=target, chip_seed=0, optimizer="spsa", budget=4000, **{**sections, **changed})


TARGETS = {"local": "mine.py:network", "function": "mine.py:scores", "onnx": "digits.onnx"}


def _of(form: str, **changed: Any) -> RunConfig:
    return _config(TARGETS[form], backend="function" if form == "function" else "local", **changed)


@pytest.mark.slow
def test_targets_by_their_place_work_in_the_processes_of_a_study_and_their_runs_are_read_again(
    network: nn.Sequential, place: Path
) -> None:
    sequential(place / "digits.onnx", network, (1, 8, 8))
    tasks = [Task({"target": form}, _of(form)) for form in TARGETS]
    found, folders = run_all(place / "runs", tasks)
    for number, form in enumerate(TARGETS):
        whole = replace(tasks[number].config, out=place / form)
        assert found[number]["accuracy"] == execute(whole)["accuracy"]
    again, _ = run_all(place / "runs", tasks)
    assert again == found
    assert len(set(folders)) == len(TARGETS)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("form", TARGETS)
def test_targets_by_their_place_work_in_ray_workers(form: str, network: nn.Sequential, place: Path) -> None:
    sequential(place / "digits.onnx", network, (1, 8, 8))
    alone = execute(_of(form, out=place / "alone"))
    shared = execute(_of(form, out=place / "shared", workers=2, ray=RayConfig(cpus=0.5)))
    assert [shared[name] for name in SAME] == [alone[name] for name in SAME]


@pytest.mark.slow
@pytest.mark.ray
def test_the_command_line_finds_a_module_in_the_working_directory_in_workers_too(place: Path) -> None:
    command = [sys.executable, "-c", "from bbfuse.cli.app import main; raise SystemExit(main())"]
    flags = (
        "run --target mine:network --optimizer spsa --budget 4000 --report.images 60 --workers 1 --ray.cpus 0.5 --json --out r"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *flags.split()], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
