"""`bbfuse.Session` as users call it: own arrays in their own form, from one process to the next."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bbfuse
from backends.base import Access, BackendInfo, InputError
from backends.datasets.base import Dataset, Split
from backends.datasets.form import Form
from backends.kinds.base import Opening
from backends.kinds.bench import Bench, BenchConfig
from backends.registry import _given, _numbers
from tests.helpers.documents.pages import ROOT

SETTINGS: dict[str, Any] = {
    "budget": 900, "affine": {"images": 60}, "report": {"images": 20}, "validation": {"images": 20, "times": 2}, "head": "affine",
}  # fmt: skip


def arrays(digits: Dataset) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pictures of 8 bits with their channel last, and labels."""
    values = ((digits.train.images[:300] + 1.0) * 127.5).round().movedim(1, -1)
    return values.numpy().astype(np.uint8), digits.train.labels[:300].numpy()


def scores(images: np.ndarray[Any, Any], seed: int = 0) -> np.ndarray[Any, Any]:
    """A device that takes such pictures."""
    images = np.asarray(images)
    assert images.dtype == np.uint8
    assert images.shape[1:] == (8, 8, 1)
    weights = np.random.default_rng(1).normal(size=(64, 10))
    return (images.reshape(len(images), -1) / 255.0) @ weights + np.random.default_rng(seed).normal(size=10)


def test_queries_have_the_form_of_the_data_and_the_result_is_that_of_fit(digits: Dataset, tmp_path: Path) -> None:
    data = arrays(digits)
    session = bbfuse.Session(data, folder=tmp_path / "bench", chip=None, **SETTINGS)
    while (query := session.ask()) is not None:
        session.tell(query, scores(query.images))
    result = session.result()
    direct = bbfuse.fit(scores, data, chip=None, out=tmp_path / "direct", **SETTINGS)
    for key in ("accuracy", "queries", "recovered_points", "answers", "report"):
        assert result.summary[key] == direct.summary[key]
    ours, theirs = (torch.load(tmp_path / run / "fuse.pt", weights_only=True) for run in ("bench", "direct"))
    assert all(torch.equal(ours["fuse"][key], theirs["fuse"][key]) for key in theirs["fuse"])
    assert result.folder == tmp_path / "bench"


def test_own_data_stay_in_the_folder_for_the_next_process(digits: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    session = bbfuse.Session(arrays(digits), folder=folder, chip=bbfuse.Chip(0.05, seed=7), **SETTINGS)
    first = session.ask()
    assert first is not None
    script = (
        "import bbfuse, json, sys\n"
        "query = bbfuse.Session.load(sys.argv[1]).ask()\n"
        "print(json.dumps([query.id, query.images.tolist(), query.chip.seed]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [first.id, first.images.tolist(), 7]


def test_two_sessions_with_own_data_do_not_mix(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = arrays(digits)
    first, next_ones = {}, {}
    for name, data in {"a": (images, labels), "b": (255 - images, labels)}.items():
        session = bbfuse.Session(data, folder=tmp_path / name, chip=None, **SETTINGS)
        shutil.copytree(tmp_path / name, tmp_path / f"{name} again")
        (first[name],) = session.pending
        session.tell(first[name], scores(first[name].images))
        next_ones[name] = [query.id for query in session.pending]
        for given in [key for key in _given if key.startswith("object:")]:  # as if it were another process
            monkeypatch.delitem(_given, given)
        _numbers.clear()
    assert first["a"].id != first["b"].id
    sessions = {name: bbfuse.Session.load(tmp_path / f"{name} again") for name in "ab"}
    for name, session in sessions.items():
        session.tell(first[name].id, scores(first[name].images))
        assert [query.id for query in session.pending] == next_ones[name]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budgt": 1}, "no setting `budgt`, did you mean `budget`"),
        ({"chip": 3}, "`chip` must be a bbfuse.Chip"),
        ({"budget": 10}, "does not allow one step"),
        ({"backend": "local"}, "`backend` is not a setting of a session"),
    ],
)
def test_what_is_not_possible_is_refused_and_nothing_is_written(
    changes: dict[str, Any], words: str, digits: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        bbfuse.Session(arrays(digits), folder=tmp_path / "bench", **{**SETTINGS, **changes})
    assert list(tmp_path.iterdir()) == []


def test_a_session_without_its_data_is_refused(digits: Dataset, tmp_path: Path) -> None:
    bbfuse.Session(arrays(digits), folder=tmp_path / "bench", chip=None, **SETTINGS)
    (tmp_path / "bench" / "data.pt").unlink()
    with pytest.raises(InputError, match=r"lacks data.pt"):
        bbfuse.Session.load(tmp_path / "bench")


@pytest.mark.parametrize(
    ("shape", "form", "png", "eight_bits"),
    [
        ((1, 8, 8), Form(), True, True), ((3, 8, 8), Form(), True, True), ((1, 8, 8), Form(), False, False),
        ((64,), Form(), False, False), ((2, 8, 8), Form(0.0, 255.0, integers=True), False, True),
        ((2, 8, 8), Form(0.0, 255.0), False, False), ((2, 8, 8), Form(0.0, 15.0, integers=True), False, False),
        ((2, 8, 8), Form(), True, None), ((64,), Form(), True, None), ((1, 8), Form(), True, None),
    ],
)  # fmt: skip
def test_a_device_takes_eight_bits_if_its_data_or_files_have_them(
    shape: tuple[int, ...], form: Form, png: bool, eight_bits: bool | None
) -> None:
    part = Split(torch.zeros(2, *shape), torch.arange(2))
    opening = Opening(
        "bench", Dataset("mine", 2, part, part, part, form), None, "cpu", BenchConfig("png" if png else "npz"), print
    )
    if eight_bits is None:
        with pytest.raises(InputError, match=r"takes images of one or three channels, mine has the shape .*: use npz$"):
            Bench.describe(opening)
    else:
        assert Bench.describe(opening).info == BackendInfo("bench", Access.LOGITS, shape, 2, eight_bits)
