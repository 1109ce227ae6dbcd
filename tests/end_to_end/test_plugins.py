"""Components of others: one file each outside the package, by ``module:attribute`` and as installed entry points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.documents.pages import ROOT

OPTIMIZER = '''
"""An optimizer in one file."""

from dataclasses import dataclass

import torch

from backends.settings import Count, Positive
from bbfuse.optimizers.base import OPTIMIZERS, GradientEstimator
from bbfuse.optimizers.probes import normal, simultaneous_perturbation


@dataclass(frozen=True)
class SmoothedConfig:
    """Gaussian smoothing under SGD."""

    lr: Positive = 0.05
    """learning rate"""
    pairs: Count = 2
    """pairs of probes per step"""


@OPTIMIZERS.register("smoothed")
class Smoothed(GradientEstimator):
    """Gaussian smoothing with antithetic pairs."""

    Config = SmoothedConfig

    def __init__(self, settings, problem, fuse):
        super().__init__(torch.optim.SGD(fuse.parameters(), lr=0.0), settings.lr)
        self.pairs = settings.pairs
        self.queries_per_image = 2 * settings.pairs

    def estimate(self, step):
        gradient = simultaneous_perturbation(step, normal, self.pairs, 0.02)
        if gradient is not None:
            step.fuse.add_gradient(gradient.clamp(-1.0, 1.0))
'''
HEAD = '''
"""A head in one file."""

import torch

from bbfuse.heads.base import HEADS, CalibratedHead


@HEADS.register("centred")
class Centred(CalibratedHead):
    """Shifts each class's logit to its nominal mean."""

    def __init__(self, shift):
        super().__init__()
        self.register_buffer("shift", shift)

    @classmethod
    def create(cls, settings, responses, reference):
        return cls((reference.mean(0) - responses.mean(0)))

    def forward(self, logits):
        return logits + self.shift
'''
GENERATOR = '''
"""A generator in one file."""

from torch import nn

from bbfuse.fuse.generators.base import GENERATORS


@GENERATORS.register("Cross")
def cross(shape):
    """One 3x3 convolution."""
    return nn.Conv2d(shape[0], shape[0], 3, padding=1)
'''
TARGET = '''
"""A target in one file."""

from torch import nn

from backends.targets.base import TARGETS, architecture


@TARGETS.register("tiny")
@architecture(image_shape=(1, 8, 8))
def tiny(classes):
    """Two linear layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))
'''
DATASET = '''
"""A data set in one file."""

import torch

from backends.datasets.base import DATASETS, Dataset, Split


@DATASETS.register("stripes")
def stripes():
    """Bright rows: the class is the row."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    images = 0.3 * torch.randn(400, 1, 8, 8, generator=rng)
    images[torch.arange(400), 0, 2 * labels] += 0.7
    images = images.clamp(-1.0, 1.0)
    parts = [Split(images[a:b], labels[a:b]) for a, b in ((0, 240), (240, 300), (300, 400))]
    return Dataset("stripes", 4, *parts)
'''
FILES = {"smoothed": OPTIMIZER, "centred": HEAD, "cross": GENERATOR, "tiny": TARGET, "stripes": DATASET}
CHECKS = """
from bbfuse.testing import check_dataset, check_generator, check_head, check_optimizer, check_target
check_optimizer({0!r}); check_head({1!r}); check_generator({2!r}); check_target({3!r}); check_dataset({4!r})
"""
BY_PLACE = ("my_smoothed:Smoothed", "my_centred:Centred", "my_cross:cross", "my_tiny:tiny", "my_stripes:stripes")
BY_NAME = ("smoothed", "centred", "Cross", "tiny", "stripes")
GROUPS = ("optimizers", "heads", "generators", "targets", "datasets")


@pytest.fixture(params=["module:attribute", "entry point"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[tuple[str, ...], Path]:
    """The names of the components, and the folder that has to be on Python's path."""
    for name, text in FILES.items():
        (tmp_path / f"my_{name}.py").write_text(text)
    if request.param == "module:attribute":
        return BY_PLACE, tmp_path
    # what pip leaves of an installed distribution with these entry points
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    lines = [
        f"[bbfuse.{group}]\n{name} = {place}\n" for group, name, place in zip(GROUPS, BY_NAME, BY_PLACE, strict=True)
    ]  # fmt: skip
    (info / "entry_points.txt").write_text("\n".join(lines))
    return BY_NAME, tmp_path


def python(arguments: list[str], folder: Path) -> str:
    """Run Python in ``folder`` with the components on its path; standard output."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_run_uses_them_and_goes_on_with_them(installed: tuple[tuple[str, ...], Path]) -> None:
    (optimizer, head, generator, target, dataset), folder = installed
    flags = ["--optimizer", optimizer, "--head", head, "--generator", generator, "--target", target, "--data", dataset]
    command = ["-m", "bbfuse.run", *flags, "--smoothed.pairs", "1", "--budget", "3000", "--out", "run", "--json"]
    summary = json.loads(python(command, folder))
    assert summary["config"]["optimizer"] == optimizer
    assert summary["config"]["smoothed"] == {"lr": 0.05, "pairs": 1}
    assert summary["queries"]["images"] <= 3000
    assert summary["accuracy"]["clean"] > 0.9
    by_place = ":" in optimizer  # then the run folder names code, which is imported with trust only
    trust = ["--trust"] if by_place else []
    again = json.loads(python(["-m", "bbfuse.run", "--resume", "run", "--json", *trust], folder))
    assert again == summary
    loaded = f"import bbfuse, torch; print(bbfuse.load('run', trust={by_place}).fuse(torch.zeros(2, 1, 8, 8)).shape)"
    assert python(["-c", loaded], folder).strip() == "torch.Size([2, 1, 8, 8])"


def test_they_keep_the_contracts(installed: tuple[tuple[str, ...], Path]) -> None:
    names, folder = installed
    python(["-c", CHECKS.format(*names)], folder)


def test_help_lists_installed_components(installed: tuple[tuple[str, ...], Path]) -> None:
    names, folder = installed
    if ":" in names[0]:
        flags = ["--optimizer", names[0]]
        assert "--smoothed.pairs" in python(["-m", "bbfuse.run", *flags, "--help-all"], folder)
        return
    text = python(["-m", "bbfuse.run", "--help"], folder)
    for words in (
        "Gaussian smoothing with antithetic pairs",
        "Shifts each class's logit to its nominal mean",
        "One 3x3 convolution",
        "tiny",
        "stripes",
    ):
        assert words in text
    assert "--smoothed.pairs" in python(["-m", "bbfuse.run", "--help-all"], folder)
