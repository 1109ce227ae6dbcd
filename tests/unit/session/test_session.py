"""A session ends with the result of the direct run, in whatever order and over however many processes it is told."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bbfuse.execution
from backends.base import Chip
from backends.memory.simulator import Simulator
from bbfuse.config import RunConfig
from bbfuse.execution import execute
from bbfuse.session import Query, Session
from tests.helpers.settings import made

SMALL = {
    "chip_seed": 0, "budget": 1000, "images": 150, "affine.images": 100, "report.images": 40, "validation.images": 30,
    "validation.times": 2,
}  # fmt: skip
NO_HEAD = {"head": "none", "affine.images": 2000}
SURROGATE = {"surrogate.arch": "perceptron", "surrogate.steps": 20, "surrogate.rounds": 1, "surrogate.updates": 1}
RUNS: dict[str, dict[str, Any]] = {
    "one chip": {},
    "spsa, no head": {"optimizer": "spsa", **NO_HEAD},
    "population, all terms": {
        "chip_seed": None, "affine.images": 2000, "eopm.terms": "all", "batch": 16, "standardize.images": 20, "report.chips": 2,
        "budget": 1200,
    },
    "labels of the target, growing": {"labels": "target", "grow": "Filter"},
    "cma after a warm-up": {"optimizer": "cma", "warm_up": 150, "cma.subspace": 10, **NO_HEAD},
    "follow": {"optimizer": "follow", **SURROGATE},
    "guided": {"optimizer": "guided", **SURROGATE},
    "no chip": {"chip_seed": None, "no_chip": True},
}  # fmt: skip


@pytest.fixture
def device(network: nn.Module) -> Callable[[Query], Tensor]:
    """The device on the bench: digits on any chip."""
    simulator = Simulator(network)

    def responses(query: Query) -> Tensor:
        with torch.no_grad():
            return simulator.logits(torch.from_numpy(query.images), query.chip)

    return responses


def config(name: str, folder: Path, **changes: Any) -> RunConfig:
    config: RunConfig = made({**SMALL, **RUNS[name], "out": folder, **changes})
    return config


def without(summary: dict[str, Any], *names: str) -> dict[str, Any]:
    """``summary`` without its time and the name of its backend."""
    settings = {name: value for name, value in summary["config"].items() if name != "backend"}
    return {**{name: value for name, value in summary.items() if name not in ("seconds", *names)}, "config": settings}


@pytest.mark.parametrize("name", RUNS)
def test_a_session_told_in_shuffled_order_and_reloaded_each_time_ends_as_the_direct_run(
    name: str, device: Callable[[Query], Tensor], network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bbfuse.execution, "write_report", lambda *_: None)  # drawn in the other tests
    if name == "no chip":  # the network is not stored in a memory then
        device = lambda query: network(torch.from_numpy(query.images)).detach()  # noqa: E731
    direct, shuffled = execute(config(name, tmp_path / "direct")), random.Random(0)
    session = Session.begin(config(name, tmp_path / "bench", backend="bench"))
    most = 0
    while pending := session.pending:
        most = max(most, len(pending))
        shuffled.shuffle(pending)
        session.tell(pending[0].id, device(pending[0]))
        session = Session.load(tmp_path / "bench")
    assert session.summary is not None
    assert without(session.summary) == without(direct)
    assert most > 1 or name == "follow"  # which sends one query a step
    ours, theirs = (torch.load(tmp_path / run / "fuse.pt", weights_only=True) for run in ("bench", "direct"))
    assert ours["fuse"].keys() == theirs["fuse"].keys()
    assert all(torch.equal(ours["fuse"][key], theirs["fuse"][key]) for key in theirs["fuse"])
    if theirs["heads"]["kept"]:
        assert all(torch.equal(ours["heads"]["kept"][key], theirs["heads"]["kept"][key]) for key in theirs["heads"]["kept"])


def test_all_that_is_handed_out_stays_within_the_budget_and_is_what_is_charged(
    device: Callable[[Query], Tensor], tmp_path: Path
) -> None:
    session, handed_out = Session.begin(config("one chip", tmp_path / "bench", backend="bench")), {}
    while (query := session.ask()) is not None:
        handed_out[query.id] = len(query)
        assert sum(handed_out.values()) <= 1000
        session.tell(query, device(query))
    assert session.summary is not None
    assert session.summary["queries"]["images"] == sum(handed_out.values())
    assert session.summary["queries"]["requests"] == len(handed_out)


def test_every_query_is_handed_out_once_and_then_the_oldest_again(device: Callable[[Query], Tensor], tmp_path: Path) -> None:
    session = Session.begin(config("labels of the target, growing", tmp_path / "bench", backend="bench", images=180))
    first, second, again = (session.ask() for _ in range(3))
    assert first is not None
    assert second is not None
    assert [query.id for query in session.pending] == [first.id, second.id]
    assert again is first
    assert second.id != first.id
    assert {first.chip, second.chip} == {Chip(0.0)}
    session.tell(first, device(first))
    assert session.ask() is second


def test_the_files_of_a_finished_session_are_those_of_a_run(device: Callable[[Query], Tensor], tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    session = Session.begin(config("one chip", folder, backend="bench"))
    while (query := session.ask()) is not None:
        session.tell(query, device(query))
    assert {"summary.json", "report.html", "fuse.pt"} <= {path.name for path in folder.iterdir()}
    assert session.ask() is None
    assert session.pending == []
    assert Session.load(folder).summary == session.summary
