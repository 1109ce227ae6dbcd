"""Components of others: the template of a package with one of every kind, by ``module:attribute`` and installed by pip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.documents.pages import ROOT

TEMPLATE = ROOT / "tests" / "helpers" / "plugin_template"
KINDS = ("optimizer", "head", "generator", "backend", "target", "data")
BY_NAME = dict(zip(KINDS, ("smoothed", "centred", "Cross", "correlator", "tiny", "stripes"), strict=True))
BY_PLACE = {
    "optimizer": "bbfuse_template.optimizer:Smoothed", "head": "bbfuse_template.head:Centred",
    "generator": "bbfuse_template.generator:cross", "backend": "bbfuse_template.backend:Correlator",
    "target": "bbfuse_template.target:tiny", "data": "bbfuse_template.dataset:stripes",
}  # fmt: skip
CONTRACTS = """
import json, sys
from backends.datasets.loading import load
from backends.kinds.base import BACKENDS, Opening
from bbfuse.testing import check_backend, check_dataset, check_generator, check_head, check_optimizer, check_target
names = json.loads(sys.argv[1])
check_optimizer(names["optimizer"]); check_head(names["head"]); check_generator(names["generator"])
check_target(names["target"]); check_dataset(names["data"])
kind = BACKENDS[names["backend"]]
check_backend(kind.open(Opening(names["target"], load(names["data"]), None, "cpu", kind.Config(), print)))
"""
RUNS = """
import json, sys
import bbfuse, torch
from bbfuse.cli.run import main
names, trust = json.loads(sys.argv[1]), json.loads(sys.argv[2])
flags = [word for kind, name in names.items() for word in (f"--{kind}", name)]
flags += ["--smoothed.pairs", "1", "--correlator.noise", "50", "--budget", "3000"]
assert main([*flags, "--out", "shell", "--json"]) == 0
assert main(["--resume", "shell", "--json"] + trust * ["--trust"]) == 0
target, data, backend = (names.pop(kind) for kind in ("target", "data", "backend"))
result = bbfuse.fit(target, data, chip=bbfuse.Chip(0.05, 0), budget=3000, out="python", **names)
assert torch.equal(bbfuse.load("python", trust=trust).fuse(torch.zeros(2, 1, 8, 8)), result.fuse(torch.zeros(2, 1, 8, 8)))
"""

HELP = """
from bbfuse.cli.run import main
for flag in ("--help", "--help-all"):
    try:
        main([flag])
    except SystemExit:
        pass
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip installed the package."""
    pytest.importorskip("setuptools")
    source, installed = tmp_path_factory.mktemp("source") / "template", tmp_path_factory.mktemp("installed")
    shutil.copytree(TEMPLATE, source, ignore=shutil.ignore_patterns("__pycache__"))  # a build leaves files in the source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    command = [*pip, "--no-build-isolation", "--target", str(installed), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return installed


def python(folder: Path, *arguments: str, cwd: Path) -> str:
    """Run Python with the package in ``folder`` on its path; standard output."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("names", [BY_NAME, BY_PLACE], ids=["entry points", "module:attribute"])
def test_the_command_line_and_python_use_them(names: dict[str, str], folder: Path, tmp_path: Path) -> None:
    trust = names is BY_PLACE  # then a run folder names code, which is imported with trust only
    first, again = python(folder, "-c", RUNS, json.dumps(names), json.dumps(trust), cwd=tmp_path).split("\n}\n")[:2]
    assert first == again
    shell, fitted = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("shell", "python"))
    assert {kind: shell["config"][kind] for kind in KINDS} == names
    assert (shell["config"]["smoothed"], shell["config"]["correlator"]) == ({"lr": 0.05, "pairs": 1}, {"noise": 50.0})
    assert shell["queries"]["images"] <= 3000
    assert shell["accuracy"]["clean"] > shell["accuracy"]["perturbed"]["mean"]
    assert {kind: fitted["config"][kind] for kind in KINDS} == {**names, "backend": "local"}
    assert fitted["config"]["smoothed"] == {"lr": 0.05, "pairs": 2}
    assert fitted["accuracy"]["clean"] > 0.9


def test_they_keep_the_contracts(folder: Path, tmp_path: Path) -> None:
    python(folder, "-c", CONTRACTS, json.dumps(BY_NAME), cwd=tmp_path)


def test_help_lists_them_and_their_settings(folder: Path, tmp_path: Path) -> None:
    text = python(folder, "-c", HELP, cwd=tmp_path)
    for words in (
        "Gaussian smoothing with antithetic pairs", "Shifts each class's logit to its nominal mean", "One 3x3 convolution",
        "A device that correlates images", "tiny", "stripes", "--smoothed.pairs", "--correlator.noise",
    ):  # fmt: skip
        assert words in text


def test_help_lists_the_settings_of_a_component_by_its_place(tmp_path: Path) -> None:
    text = python(TEMPLATE, "-m", "bbfuse.run", "--optimizer", BY_PLACE["optimizer"], "--help-all", cwd=tmp_path)
    assert "--smoothed.pairs" in text
