"""Objects that are given in Python live as long as a run, a result or a session uses them, and no longer."""

from __future__ import annotations

import copy
import gc
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bbfuse
from backends.datasets.given import dataset
from bbfuse.callbacks import Callback, Status
from bbfuse.fuse.generators.small import mix, mlp
from tests.unit.interface.conftest import Arrays

CHIP = bbfuse.Chip(0.2, 3)


def test_objects_of_a_forgotten_fit_are_freed(own: nn.Module, arrays: Arrays, quick: dict[str, Any], tmp_path: Path) -> None:
    network, data = copy.deepcopy(own), dataset(arrays)
    make = lambda shape: mlp(shape)  # noqa: E731
    result = bbfuse.fit(network, data, chip=CHIP, generator=make, out=tmp_path / "run", **quick)
    alive = [weakref.ref(each) for each in (network, data, make)]
    del network, data, make
    gc.collect()
    assert result.predict(arrays[0][:5]).shape == (5,)
    del result
    gc.collect()
    assert [each() for each in alive] == [None, None, None]


def test_objects_of_a_session_live_until_it_is_forgotten(arrays: Arrays, quick: dict[str, Any], tmp_path: Path) -> None:
    data = dataset(arrays)
    make = lambda shape: mix(shape)  # noqa: E731
    session = bbfuse.Session(data, chip=None, folder=tmp_path / "run", generator=make, **quick)
    alive = [weakref.ref(each) for each in (data, make)]
    del data, make
    gc.collect()
    while (query := session.ask()) is not None:  # its objects are looked up anew after every response
        session.tell(query, query.images.reshape(len(query.images), -1)[:, :32:8])
    assert session.result().summary["config"]["generator"].startswith("object:lambda")
    del session
    gc.collect()
    assert [each() for each in alive] == [None, None]


def test_results_whose_objects_have_the_same_name_do_not_mix(
    own: nn.Module, arrays: Arrays, quick: dict[str, Any], tmp_path: Path
) -> None:
    class Stop(Callback):
        def on_step(self, status: Status) -> None:
            raise KeyboardInterrupt

    first = bbfuse.fit(own, arrays, chip=CHIP, generator=lambda shape: mix(shape), out=tmp_path / "first", **quick)
    make, config = (lambda shape: mlp(shape)), tmp_path / "second" / "config.json"
    with pytest.raises(KeyboardInterrupt):
        bbfuse.fit(own, arrays, chip=CHIP, generator=make, out=config.parent, callbacks=[Stop()], **quick)
    theirs = re.findall(r"object:lambda[-\d]*", config.read_text())
    config.write_text(config.read_text().replace(theirs[0], first.summary["config"]["generator"]))  # as of another process
    second = bbfuse.fit(own, arrays, generator=make, resume=config.parent)
    for result, kind in ((first, mix), (second, mlp)):
        assert result.fuse.state_dict().keys() == {f"generators.0.{name}" for name in kind((1, 8, 8)).state_dict()}


def test_a_folder_is_loaded_with_the_objects_that_it_names_and_not_without(
    own: nn.Module, arrays: Arrays, quick: dict[str, Any], tmp_path: Path
) -> None:
    fuse = bbfuse.fit(own, arrays, chip=CHIP, generator=lambda shape: mlp(shape), out=tmp_path / "run", **quick).fuse
    gc.collect()
    with pytest.raises(
        bbfuse.InputError, match=r"`generator` object:lambda\S* was given as an object in Python, .* give it again$"
    ):
        bbfuse.load(tmp_path / "run")
    trained = bbfuse.load(tmp_path / "run", generator=lambda shape: mlp(shape))
    images = torch.zeros(2, 1, 8, 8)
    assert torch.equal(trained.fuse(images), fuse(images))


def test_a_run_folder_is_named_after_the_objects(
    own: nn.Module, arrays: Arrays, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        result = bbfuse.fit(own, arrays, chip=CHIP, **quick)
        assert re.fullmatch(r"\d{8}-\d{6}-data-local-spsa-chip3(-2)?", result.folder.name)
