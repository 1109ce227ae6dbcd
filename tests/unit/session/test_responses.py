"""Responses that were paid for before replace queries, train surrogates, and are refused in one line where they do not fit."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bbfuse.execution
from backends.base import NOMINAL, Access, BackendInfo, Chip, InputError, TargetError
from backends.datasets.base import Dataset
from backends.memory.simulator import Simulator
from bbfuse.config import RunConfig
from bbfuse.execution import execute
from bbfuse.querying.ledger import Ledger
from bbfuse.querying.log import ResponseLog
from bbfuse.querying.responses import Responses
from tests.helpers.answering import Scripted
from tests.helpers.settings import made

CHIP = Chip(0.05, 0)
SETTINGS: dict[str, Any] = {
    "chip_seed": 0, "budget": 900, "images": 150, "affine.images": 60, "report.images": 30, "validation.images": 30,
    "validation.times": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bbfuse.execution, "write_report", lambda *_: None)


@pytest.fixture
def logits(network: nn.Module) -> Callable[[Tensor], Tensor]:
    simulator = Simulator(network)
    return lambda images: simulator.logits(images, CHIP).detach()


def written(path: Path, images: Tensor, responses: Tensor, first: int = 0) -> Path:
    """The log in a file of the kind that the suffix names."""
    if path.suffix == ".npz":
        np.savez(path, images=images.numpy(), responses=responses.numpy())
    elif path.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"image": images.tolist(), "response": responses.tolist()}), path)
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["index", *range(10)], *([first + i, *row] for i, row in enumerate(responses.tolist()))])
    return path


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".csv"])
@pytest.mark.parametrize("optimizer", ["rge", "follow"])
def test_the_log_of_its_own_calibration_saves_exactly_that_many_images(
    suffix: str, optimizer: str, digits: Dataset, logits: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    surrogate = {"surrogate.arch": "perceptron", "surrogate.steps": 5} if optimizer == "follow" else {}
    settings = {**SETTINGS, **surrogate, "optimizer": optimizer}
    images = digits.train.images[:60]
    path = written(tmp_path / f"log{suffix}", images, logits(images))
    without = execute(made({**settings, "out": tmp_path / "without"}))
    kept = execute(made({**settings, "out": tmp_path / "with", "responses": path}))
    assert kept["accuracy"] == without["accuracy"]
    saved = kept["queries"]["kept"]
    assert saved == 60 if optimizer == "rge" else saved > 60  # follow sends some raw images once more
    assert kept["queries"]["images"] == without["queries"]["images"] - saved
    assert without["queries"]["kept"] == 0
    ours, theirs = (torch.load(tmp_path / name / "fuse.pt", weights_only=True)["fuse"] for name in ("with", "without"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    path.unlink()  # the folder has a copy
    assert execute(RunConfig(resume=tmp_path / "with"))["queries"] == kept["queries"]


def log(chip: Chip = CHIP, kind: str = "logits") -> ResponseLog:
    images = torch.arange(6.0).reshape(3, 1, 1, 2) / 6.0
    rows = [Responses(images, chip, torch.arange(6.0).reshape(3, 2))]
    return ResponseLog(Path("log.npz"), rows, [(images[2:], chip)], kind)


def test_only_rows_that_no_query_needed_and_that_are_not_held_out_are_left_for_surrogates() -> None:
    mine, images = log(), torch.arange(6.0).reshape(3, 1, 1, 2) / 6.0
    (row,) = mine.unused((NOMINAL, CHIP))
    assert torch.equal(row.images, images[:2])
    assert torch.equal(row.logits, torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    assert mine.unused((NOMINAL, Chip(0.05, 1))) == []
    found = mine.find(mine.keys(images[:1], CHIP))
    assert found[0] is not None
    assert found[0].tolist() == [0.0, 1.0]
    (row,) = mine.unused((CHIP,))
    assert torch.equal(row.images, images[1:2])
    assert mine.find(mine.keys(images[:1], NOMINAL)) == [None]


def test_a_target_that_responds_in_another_kind_than_the_log_is_refused() -> None:
    ledger = Ledger(Scripted(), 100, cache=log(kind="probabilities"))
    with pytest.raises(TargetError, match=r"responds with logits, but the responses in log.npz are probabilities"):
        ledger.query(torch.full((2, 1, 1, 2), 0.9), CHIP)


@pytest.mark.parametrize(
    ("images", "responses", "settings", "words"),
    [
        (torch.zeros(4, 1, 8, 8), torch.zeros(3, 10), {}, "with one response each, got 4 of"),
        (torch.zeros(4, 1, 4, 4), torch.zeros(4, 10), {}, r"inputs of the shape \(1, 8, 8\)"),
        (torch.zeros(4, 1, 8, 8), torch.zeros(4, 7), {}, r"shape \(4, 7\), expected \(4, 10\)"),
        (torch.zeros(4, 1, 8, 8), torch.full((4, 10), torch.nan), {}, "not finite"),
        (torch.full((4, 1, 8, 8), 255.0), torch.zeros(4, 10), {}, r"must have inputs in \[-1, 1\]"),
        (torch.full((4, 1, 8, 8), torch.nan), torch.zeros(4, 10), {}, r"must have inputs in \[-1, 1\]"),
        (torch.zeros(4, 1, 8, 8), torch.zeros(4, 10), {"chip_seed": None, "affine.images": 2000}, "must have `chip_seed`"),
        (torch.zeros(4, 1, 8, 8), torch.zeros(4, 10), {"workers": 2}, "drop `workers=2`"),
    ],
)
def test_a_log_that_does_not_fit_is_refused_and_nothing_is_left(
    images: Tensor, responses: Tensor, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "log.npz", images, responses)
    with pytest.raises(InputError, match=words):
        execute(made({**SETTINGS, "budget": 3000, **settings, "out": tmp_path / "run", "responses": path}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.npz", None, "cannot be read"),
        ("log.npz", b"PK\x03\x04", "cannot be read"),
        ("log.csv", b"150,1,2,3,4,5,6,7,8,9,10\n", "indices of owned inputs, 0 to 149, got 150 to 150"),
        ("log.csv", b"1,a,2,3,4,5,6,7,8,9,10\n", "cannot be read"),
        ("log.csv", b"1,2,3\n2,3\n", "cannot be read"),
    ],
)
def test_a_file_that_is_no_log_is_refused(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        execute(made({**SETTINGS, "out": tmp_path / "run", "responses": tmp_path / name}))
    assert not (tmp_path / "run").exists()


def test_a_log_says_which_images_the_target_has_seen_as_it_receives_them() -> None:
    info = BackendInfo("scripted", Access.LOGITS, (1, 1, 2), 2, eight_bits=True)
    images = torch.tensor([[[[0.1234, 0.5]]]])
    mine = ResponseLog(Path("log.npz"), [Responses(info.seen(images), CHIP, torch.ones(1, 2))], [], "logits")
    backend = Scripted()
    backend.info = info
    ledger = Ledger(backend, 100, cache=mine)
    assert ledger.query(images + 1e-4, CHIP).tolist() == [[1.0, 1.0]]
    assert (ledger.kept, ledger.images) == (1, 0)
