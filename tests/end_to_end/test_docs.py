"""The documentation builds without warnings, and every command and code block in it works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bbfuse
from backends.datasets.base import DATASETS, Dataset
from backends.kinds.base import BACKENDS
from backends.server.subprocess_server import OwnServer
from backends.targets.base import TARGETS
from bbfuse.cli.run import parse
from bbfuse.fuse.generators.base import GENERATORS
from bbfuse.heads.base import HEADS
from bbfuse.optimizers.base import OPTIMIZERS
from tests.helpers.documents.blocks import Reader, blocks, check_text, words_of
from tests.helpers.documents.pages import ROOT

DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS / "pages").as_posix(): page for page in sorted((DOCS / "pages").rglob("*.md"))}
COMMANDS = [(name, command) for name, page in PAGES.items() for block in blocks(page) for command in block.commands]
NOT_HERE = (
    "python -m pip install",  # and then the tests, which are these
    "python -m pip download",  # the fixture `downloaded` does
    "ray job submit",  # tests/end_to_end/distributed/test_ray_jobs.py submits one
    "bbfuse run --population --backend whitebox --optimizer backprop --device cuda",  # needs a GPU
)
PRETRAINED = "guides/pretrained.md"
NEED_RUNS = ("index.md", "guides/deployment.md", "guides/run-folder.md", PRETRAINED)
"""Pages whose Python reads what their commands have written."""
SHORT = ("guides/python.md", "guides/shift.md", "guides/targets.md", "guides/data.md", PRETRAINED)
"""Pages whose examples have at most 12 lines; imports, blank lines and whole files do not count."""
_ROW = r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \|$"
"""Chip, the accuracies of the page of a pretrained network in percent, and images sent."""


@pytest.fixture
def names(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the Python of a page takes as given."""
    small = {"network": nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), "images": torch.zeros(2, 1, 2, 2)}
    digits: dict[str, Any] = {"images": torch.zeros(2, 1, 8, 8), "target": lambda images: images.flatten(1)[:, :10]}
    page = request.getfixturevalue("page")
    if page == "guides/bench.md":
        return {"device": lambda images: images.reshape(len(images), -1) @ np.random.default_rng(0).normal(size=(64, 10))}
    if page in ("guides/python.md", "guides/shift.md", "guides/targets.md", "guides/data.md"):
        data: Dataset = request.getfixturevalue("digits")
        network, server = request.getfixturevalue("network"), request.getfixturevalue("server")
        return {"network": network, "images": data.train.images, "labels": data.train.labels, "url": server.url}
    if page in ("guides/own-api.md", "guides/server.md"):
        server: OwnServer = request.getfixturevalue("server")
        return {**digits, "url": server.url}
    return small if page in ("guides/memory.md", "guides/protection.md") else digits


@pytest.fixture(autouse=True)
def _registries_as_before() -> Iterator[None]:
    """Files of a page register components; other tests must not see them."""
    registries = [OPTIMIZERS, HEADS, GENERATORS, BACKENDS, TARGETS, DATASETS]
    before = [(len(registry), dict(registry._found))[1] for registry in registries]  # all are imported by then
    yield
    for registry, found in zip(registries, before, strict=True):
        registry._found.clear()
        registry._found.update(found)


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(DOCS / "mkdocs.yml"), "-d", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # a notice of the theme
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    methods, contributing = ((tmp_path / name).read_text() for name in ("guides/methods.html", "contributing.html"))
    for registry in (OPTIMIZERS, HEADS, GENERATORS, BACKENDS):
        assert all(f"<code>{name}</code>" in methods for name in registry)
    for registry, page in ((TARGETS, "targets"), (DATASETS, "data")):
        text = (tmp_path / f"guides/{page}.html").read_text()
        assert all(f"<code>{name}</code>" in text for name in registry)
    assert "TwoSided" in contributing
    assert "--spsa.c" in (tmp_path / "reference/flags.html").read_text()
    for page in tmp_path.rglob("*.html"):
        assert "<!-- table" not in page.read_text()
        assert "https://fonts." not in page.read_text()


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NEED_RUNS])
def test_every_block_of_data_and_python_of_a_page_works(
    page: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(PAGES[page]):
        check_text(block)
    with Reader(tmp_path, names, runs_commands=False) as reader:
        reader.follow(PAGES[page])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("page", sorted({name for name, command in COMMANDS if not command.startswith(NOT_HERE)}))
def test_every_command_of_a_page_runs_as_written(
    page: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Reader(tmp_path, names, runs_commands=True) as reader:
        reader.follow(PAGES[page], left_out=NOT_HERE)
    assert len(reader.done) == len([command for name, command in COMMANDS if name == page and not command.startswith(NOT_HERE)])


@pytest.mark.parametrize(("page", "command"), [(page, command) for page, command in COMMANDS if "bbfuse run" in command])
def test_every_run_of_a_page_is_a_run(page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(PAGES[page]):
        if block.title is not None:
            (tmp_path / block.title).write_text(block.text)
    assert parse(command.split()[2:]).budget > 0


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the file that the command of the page downloads."""
    (command,) = [command for block in blocks(PAGES[PRETRAINED]) for command in block.commands]
    words = [*words_of(command), "--retries", "1", "--timeout", "20"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if done.returncode != 0 and "connection broken" in done.stderr:
        pytest.skip("the registry of Python packages cannot be reached")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _measured(result: bbfuse.Result) -> list[float]:
    accuracy = result.summary["accuracy"]
    shown = [accuracy["clean"], *(accuracy[f"perturbed{part}"]["mean"] for part in ("", "_head", "_fused"))]
    return [*(100 * value for value in shown), result.summary["queries"]["images"]]


@pytest.mark.peer
def test_the_page_of_a_pretrained_network_works_and_its_numbers_are_those_of_the_runs(downloaded: Path) -> None:
    with Reader(downloaded, {}, runs_commands=False) as reader:
        reader.follow(PAGES[PRETRAINED])
    names = reader.names
    rows = re.findall(_ROW, PAGES[PRETRAINED].read_text(), re.MULTILINE)
    assert [chip for chip, *_ in rows] == ["0", "1", "2"]
    for chip, *numbers in rows:
        data = (names["images"], names["digits"].target)
        result = names["result"] if chip == "0" else bbfuse.fit(
            names["network"], data, chip=bbfuse.Chip(0.05, int(chip)), **names["settings"]
        )  # fmt: skip
        stated = [float(number.replace(",", "")) for number in numbers]
        assert _measured(result) == pytest.approx(stated, abs=1.0), chip  # processors of other kinds round otherwise
    assert sum(p.numel() for p in names["network"].parameters()) == 390_410


@pytest.mark.parametrize("page", SHORT)
def test_examples_are_short(page: str) -> None:
    for block in (block for block in blocks(PAGES[page]) if block.title is None):
        lines = [line for line in block.text.splitlines() if line and not line.startswith(("import ", "from "))]
        assert len(lines) <= 12, lines[0]


def test_every_flag_named_is_a_flag() -> None:
    shown = "".join(_help_of(module) for module in ("bbfuse.serve", "bbfuse.export", "backends.server", "backends.targets.fit"))
    shown += _help_of("bbfuse.run", "--help-all") + _help_of("bbfuse.run")
    others = {
        "--run", "--json", "--working-dir", "--strict", "--check", "--two-sided.lr", "--help", "--help-all", "--ray-address",
        "--no-deps",
    }  # fmt: skip
    for name, page in PAGES.items():
        for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", page.read_text())) - others:
            assert flag in shown, f"{name}: {flag}"


def test_every_module_named_is_there() -> None:
    for page in PAGES.values():
        for module in re.findall(r"python -m (experiments[\w.]*|bbfuse[\w.]*|backends[\w.]*|tests[\w.]*)", page.read_text()):
            place = ROOT / module.replace(".", "/")
            found = place.with_suffix(".py").exists() or (place / "__main__.py").exists()
            assert found or module == "experiments.NAME", module


def test_each_kind_of_component_has_an_example() -> None:
    titles = {block.title for block in blocks(PAGES["contributing.md"])}
    kinds = ("optimizer", "head", "generator", "backend", "target", "data")
    assert {f"my_{kind}.py" for kind in kinds} <= titles


def _help_of(module: str, flag: str = "--help") -> str:
    return subprocess.run([sys.executable, "-m", module, flag], cwd=ROOT, capture_output=True, text=True).stdout
