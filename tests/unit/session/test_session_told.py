"""What a session accepts as responses, what it refuses, and what is left when a process ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backends.base import InputError, TargetError
from bbfuse.config import RunConfig
from bbfuse.runs.folder import RunFolder
from bbfuse.session import Session
from tests.helpers.settings import made

SETTINGS: dict[str, Any] = {
    "backend": "bench", "chip_seed": 0, "budget": 1500, "images": 200, "labels": "target", "affine.images": 100,
    "report.images": 40, "validation.images": 30,
}  # fmt: skip


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session.begin(made({**SETTINGS, "out": tmp_path / "bench"}))


def logits(rows: int = 128, classes: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, classes), generator=torch.Generator().manual_seed(seed))


def stored(session: Session) -> list[str]:
    return sorted(path.stem for path in (session.folder / "told").glob("*"))


@pytest.mark.parametrize("form", [lambda x: x, lambda x: x.numpy(), lambda x: x.tolist(), lambda x: x.double().numpy()])
def test_responses_may_be_a_tensor_an_array_or_lists(form: Any, session: Session) -> None:
    query = session.ask()
    assert query is not None
    session.tell(query, form(logits()))
    assert stored(session) == [query.id]
    assert query.id not in [pending.id for pending in session.pending]


@pytest.mark.parametrize(
    ("responses", "words"),
    [
        (logits(127), "has 128 images, got responses to 127: give one row for each image"),
        (logits(128, 9), r"shape \(128, 9\), expected \(128, 10\).*top 9 of 10"),
        (logits()[:, 0], "one label per image"),
        (logits() / 0.0, "not finite"),
        (logits() * torch.nan, "not finite"),
        ([[1.0, 2.0], [3.0]], "must be an array"),
        ("many", "must be an array"),
    ],
)
def test_invalid_responses_are_refused_and_nothing_is_stored(responses: Any, words: str, session: Session) -> None:
    query = session.ask()
    assert query is not None
    with pytest.raises(InputError, match=words) as refused:
        session.tell(query, responses)
    assert query.id in str(refused.value)
    assert stored(session) == []
    assert query.id in [pending.id for pending in session.pending]


def test_the_same_told_twice_is_ignored_and_other_responses_are_refused(session: Session) -> None:
    query = session.ask()
    assert query is not None
    session.tell(query, logits())
    for told in (session, Session.load(session.folder)):
        told.tell(query.id, logits())
        with pytest.raises(InputError, match=f"{query.id} was told other responses before"):
            told.tell(query.id, logits(seed=1))
    assert stored(session) == [query.id]


@pytest.mark.parametrize("name", ["0001-000000", "9999-abcdef", "", "../config", "x"])
def test_an_unknown_query_is_refused(name: str, session: Session) -> None:
    with pytest.raises(InputError, match=r"`query` must be one without a response in .*0001-"):
        session.tell(name, logits())
    assert stored(session) == []


def test_probabilities_do_not_mix_with_logits_in_any_order(session: Session) -> None:
    first, second = session.pending
    probabilities = logits().softmax(1)
    session.tell(second, logits(len(second)))
    with pytest.raises(InputError, match=f"{first.id}: responses must be logits like those told before, got probabilities"):
        session.tell(first, probabilities)
    with pytest.raises(InputError, match="must be logits"):
        Session.load(session.folder).tell(first, probabilities)


def test_several_are_checked_before_any_is_stored(session: Session) -> None:
    first, second = session.pending
    with pytest.raises(InputError, match="not finite"):
        session.tell_all({first.id: logits(), second.id: logits(len(second)) * torch.nan})
    with pytest.raises(InputError, match="must be logits"):
        session.tell_all({first.id: logits(), second.id: logits(len(second)).softmax(1)})
    assert stored(session) == []
    session.tell_all({first.id: logits(), second.id: logits(len(second))})
    assert stored(session) == [first.id, second.id]


def test_a_response_is_on_the_disk_before_tell_returns_or_not_at_all(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = session.pending

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", killed)
        with pytest.raises(KeyboardInterrupt):
            session.tell(first, logits())
    assert stored(session) == []
    assert [query.id for query in Session.load(session.folder).pending] == [first.id, second.id]
    session.tell(first, logits())
    assert [query.id for query in Session.load(session.folder).pending] == [second.id]


def test_no_summary_before_the_end(session: Session) -> None:
    assert session.summary is None
    with pytest.raises(InputError, match="the run has not ended: tell the responses to 0001-"):
        session.result()


def test_responses_to_other_images_at_the_same_place_stop_the_run(session: Session) -> None:
    first, _ = session.pending
    session.tell(first, logits())
    told = session.folder / "told"
    (told / f"{first.id}.npz").rename(told / "0001-ffffff.npz")
    with pytest.raises(TargetError, match=f"query {first.id} has other images than 0001-ffffff, whose response was told"):
        Session.load(session.folder)


@pytest.mark.parametrize("changes", [{"budget": 300}, {"images": 3}, {"workers": 2}, {"optimizer": "backprop"}, {"head": "hat"}])
def test_what_a_run_refuses_a_session_refuses_and_leaves_nothing(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        Session.begin(made({**SETTINGS, **changes, "out": tmp_path / "bench"}))
    assert list(tmp_path.iterdir()) == []


def test_only_a_session_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`folder` .*none holds no run"):
        Session.load(tmp_path / "none")
    RunFolder.create(tmp_path / "run", RunConfig(chip_seed=0)).close()
    with pytest.raises(InputError, match="holds a run of `backend=local`, not a session"):
        Session.load(tmp_path / "run")
