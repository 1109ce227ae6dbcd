"""What a run takes over from one that has ended: the fuse wherever it fits, the head on one chip of one target alone."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.base import InputError
from backends.kinds.remote import RemoteConfig
from bbfuse.config.schema import RunConfig
from bbfuse.runs.folder import RunFolder
from bbfuse.runs.warm_start import warm_start

SHAPE = (1, 8, 8)
CONFIG = RunConfig(
    backend="remote", remote=RemoteConfig(url="http://a:1", model="digits"), chip_seed=3, bit_error_rate=0.03, target="digits",
    head="affine", generator="Mix",
)  # fmt: skip
FUSE = {"weight": torch.tensor([0.7]), "bias": torch.tensor([-0.2])}
HEADS = {"reference": torch.tensor([[1.5]]), "kept": {"matrix": torch.tensor([[0.4]])}, "first": None}


def ended(path: Path, config: RunConfig = CONFIG, **changed: Any) -> Path:
    """The folder of a run with these settings that left a fuse and heads."""
    with contextlib.closing(RunFolder.create(path, config)) as folder:
        folder.write_fuse({"generator": "Mix", "image_shape": list(SHAPE), "fuse": FUSE, "heads": HEADS, **changed})
    return path


def beginning(path: Path, config: RunConfig = CONFIG, **changed: Any) -> RunConfig:
    return dataclasses.replace(config, init=path, **changed)


def test_nothing_is_taken_over_where_nothing_was_given(tmp_path: Path) -> None:
    with contextlib.closing(RunFolder.create(tmp_path / "own", CONFIG)) as folder:
        assert warm_start(CONFIG, SHAPE, folder) is None
        assert folder.start() is None


@pytest.mark.parametrize("head", ["affine", "net"])
def test_on_the_same_chip_fuse_and_head_are_warm_start(head: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, head=head)
    start = warm_start(beginning(ended(tmp_path / "a", config), config), SHAPE, None)
    assert start == {"fuse": FUSE, "heads": HEADS}


@pytest.mark.parametrize(
    "changed",
    [
        {"head": "net"},
        {"head": "none"},
        {"chip_seed": 4},
        {"bit_error_rate": 0.04},
        {"target": "resnet20"},
        {"data": "cifar10"},
        {"memory": dataclasses.replace(CONFIG.memory, bits=6)},
        {"remote": RemoteConfig(url="http://b:1", model="digits")},
        {"remote": RemoteConfig(url="http://a:1", model="others")},
    ],
    ids=str,
)
def test_elsewhere_the_fuse_alone_is_warm_start(changed: dict[str, Any], tmp_path: Path) -> None:
    assert warm_start(beginning(ended(tmp_path / "a"), **changed), SHAPE, None) == {"fuse": FUSE, "heads": None}


@pytest.mark.parametrize(("head", "chip_seed"), [("none", 3), ("standardize", 3), ("standardize", None), (None, None)])
def test_a_head_that_is_not_learnt_is_never_warm_start(head: Any, chip_seed: int | None, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, head=head, chip_seed=chip_seed)
    assert warm_start(beginning(ended(tmp_path / "a", config), config), SHAPE, None) == {"fuse": FUSE, "heads": None}


def test_settings_that_do_not_bear_on_the_head_may_differ(tmp_path: Path) -> None:
    remote = RemoteConfig("http://a:1", "digits", timeout=7.5)
    config = beginning(ended(tmp_path / "a"), batch=17, optimizer="spsa", budget=123, remote=remote)
    assert warm_start(config, SHAPE, None) == {"fuse": FUSE, "heads": HEADS}


def test_the_runs_own_copy_is_read_from_then_on(tmp_path: Path) -> None:
    config = beginning(ended(tmp_path / "a"))
    with contextlib.closing(RunFolder.create(tmp_path / "own", config)) as folder:
        assert warm_start(config, SHAPE, folder) == {"fuse": FUSE, "heads": HEADS}
        shutil.rmtree(tmp_path / "a")
        assert warm_start(config, SHAPE, folder) == {"fuse": FUSE, "heads": HEADS}
        folder.write_start({"fuse": {}, "heads": None})
        assert warm_start(config, SHAPE, folder) == {"fuse": {}, "heads": None}


@pytest.mark.parametrize(
    ("changed", "generator", "shape", "words"),
    [
        ({}, "Filter", SHAPE, r"holds the fuse Mix for images \(1, 8, 8\), this run has Filter for \(1, 8, 8\): give"),
        ({}, "Mix", (3, 8, 8), r"holds the fuse Mix for images \(1, 8, 8\), this run has Mix for \(3, 8, 8\): give"),
        ({"generator": "MLP"}, "Mix", SHAPE, "holds the fuse MLP for images .*, or drop `init`$"),
    ],
)
def test_a_fuse_that_does_not_fit_is_refused_and_nothing_kept(
    changed: dict[str, Any], generator: str, shape: tuple[int, int, int], words: str, tmp_path: Path
) -> None:
    config = beginning(ended(tmp_path / "a", **changed), generator=generator)
    with contextlib.closing(RunFolder.create(tmp_path / "own", config)) as folder:
        with pytest.raises(InputError, match=f"^`init` {tmp_path / 'a'} {words}"):
            warm_start(config, shape, folder)
        assert folder.start() is None
    with pytest.raises(InputError, match=r"^`init` .* holds no fuse.pt: give the folder of a run that has ended$"):
        warm_start(beginning(tmp_path), SHAPE, None)
