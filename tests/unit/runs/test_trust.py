"""A run folder may name code of its own; reading the folder imports it with trust only."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bbfuse
from backends.base import InputError
from bbfuse.config import RunConfig
from bbfuse.deploy import onnx, serving
from bbfuse.execution import execute
from bbfuse.runs.folder import RunFolder
from bbfuse.runs.warm_start import warm_start
from tests.helpers.runs import run_folder

BOMB = "from pathlib import Path\nPath(__file__).with_suffix('.executed').touch()\n"


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """A file that leaves a trace where it is imported."""
    path = tmp_path / "bomb.py"
    path.write_text(f"{BOMB}import bbfuse.fuse.generators.small as small\nMix = small.mlp\n")
    return path


def changed(folder: Path, change: dict[str, Any], fuse: dict[str, Any]) -> Path:
    """``folder``, whose settings and whose fuse.pt have these values."""
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**plain, **change}))
    saved = torch.load(folder / "fuse.pt", weights_only=True)
    torch.save({**saved, **fuse}, folder / "fuse.pt")
    return folder


READERS: dict[str, Callable[[Path], Any]] = {
    "load": bbfuse.load,
    "resume": lambda folder: execute(RunConfig(resume=folder)),
    "init": lambda folder: warm_start(RunConfig(init=folder, chip_seed=0), (1, 8, 8), None),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("setting", ["generator", "optimizer", "head", "backend", "grow"])
def test_code_that_a_folder_names_is_not_imported(setting: str, reader: str, bomb: Path, tmp_path: Path) -> None:
    folder = changed(run_folder(tmp_path / "run"), {setting: f"{bomb}:Mix"}, {})
    with pytest.raises(InputError, match=rf"names code of its own, `{setting}=.*bomb.py:Mix`.*: set `trust` if you trust it$"):
        READERS[reader](folder)
    assert not bomb.with_suffix(".executed").exists()


@pytest.mark.parametrize("setting", ["target", "data"])
def test_a_resumed_run_does_not_import_its_target_and_data_either(setting: str, bomb: Path, tmp_path: Path) -> None:
    folder = changed(run_folder(tmp_path / "run"), {setting: f"{bomb}:Mix"}, {})
    with pytest.raises(InputError, match=f"names code of its own, `{setting}="):
        execute(RunConfig(resume=folder))
    bbfuse.load(folder)  # needs neither
    assert not bomb.with_suffix(".executed").exists()


@pytest.mark.parametrize("name", ["{}:Mix", "MLP+{}:Mix", "object:MLP+{}:Mix"])
def test_nor_does_the_file_of_the_fuse(name: str, bomb: Path, tmp_path: Path) -> None:
    folder = changed(run_folder(tmp_path / "run"), {}, {"generator": name.format(bomb)})
    with pytest.raises(InputError, match=r"fuse.pt names code of its own, `generator="):
        bbfuse.load(folder)
    assert not bomb.with_suffix(".executed").exists()


def test_with_trust_it_is(bomb: Path, tmp_path: Path) -> None:
    name = f"{bomb}:Mix"
    folder = changed(run_folder(tmp_path / "run"), {"generator": name}, {"generator": name})
    trained = bbfuse.load(folder, trust=True)
    assert bomb.with_suffix(".executed").exists()
    assert trained.fuse.name == name
    plain = bbfuse.load(run_folder(tmp_path / "plain"))
    images = torch.zeros(2, 1, 8, 8)
    assert torch.equal(trained.fuse(images), plain.fuse(images))
    sys.modules.pop(f"bbfuse_file_{str(bomb).replace('/', '_').removesuffix('.py')}", None)


@pytest.mark.parametrize("trust", [False, True])
def test_export_takes_trust_as_a_flag(trust: bool, bomb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{bomb}:Mix"
    folder = changed(run_folder(tmp_path / "run"), {"generator": name}, {"generator": name})
    assert onnx.main(["--run", str(folder), "--out", str(tmp_path / "out"), *(["--trust"] if trust else [])]) == 2
    message = capsys.readouterr().err
    assert ("has no summary.json" in message) == trust  # what comes next
    assert ("set --trust if you trust it" in message) != trust
    assert bomb.with_suffix(".executed").exists() == trust


def test_the_proxy_refuses_without_trust(bomb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = changed(run_folder(tmp_path / "run"), {"generator": f"{bomb}:Mix"}, {})
    assert serving.main(["--run", str(folder), "--upstream", "http://127.0.0.1:9"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert not bomb.with_suffix(".executed").exists()


def test_a_folder_cannot_grant_trust_to_itself(bomb: Path, tmp_path: Path) -> None:
    folder = changed(run_folder(tmp_path / "run"), {"generator": f"{bomb}:Mix", "trust": True}, {})
    with pytest.raises(InputError):
        RunFolder.open(folder)
    shutil.rmtree(folder)
    assert not bomb.with_suffix(".executed").exists()
