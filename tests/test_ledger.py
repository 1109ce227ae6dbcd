"""The ledger counts everything, never passes its limit, checks every answer and pays for none twice."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from backends.interface import Access, BackendInfo, Chip, Sending, TargetError
from bbfuse.ledger import BudgetSpentError, Journal, Ledger

CHIP = Chip(0.1, 1)


class Scripted:
    """Sums each image's pixels; sends a request ``attempts`` times before it answers."""

    def __init__(self, attempts: int = 1, classes: int = 2) -> None:
        self.info = BackendInfo("scripted", Access.LOGITS, (1, 1, 2), classes)
        self.attempts = attempts
        self.received = 0
        self.fail: Exception | None = None
        self.answer: Tensor | None = None

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        for _ in range(self.attempts):
            sending(len(images))
            self.received += len(images)
        if self.fail is not None:
            raise self.fail
        return self.answer if self.answer is not None else images.flatten(1).sum(1, keepdim=True).repeat(1, 2)

    def close(self) -> None: ...


def images(count: int, value: float = 0.0) -> Tensor:
    return torch.full((count, 1, 1, 2), value)


@given(st.lists(st.integers(1, 300), max_size=12), st.integers(0, 1500), st.integers(1, 3))
@settings(max_examples=100)
def test_counts_are_those_of_the_backend_and_the_limit_holds(sizes: list[int], limit: int, attempts: int) -> None:
    backend = Scripted(attempts)
    ledger = Ledger(backend, limit)
    for size in sizes:
        try:
            assert ledger.ask(images(size), CHIP).shape == (size, 2)
        except BudgetSpentError:
            assert ledger.images + 128 > limit or ledger.images + size > limit
    assert ledger.images == backend.received <= limit


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (torch.zeros(3, 3), r"shape \(3, 3\) where \(3, 2\) was due"),
        (torch.zeros(2, 2), r"shape \(2, 2\)"),
        (torch.full((3, 2), torch.nan), "not finite"),
        (torch.full((3, 2), -torch.inf), "not finite"),
    ],
)
def test_what_is_no_answer_is_refused(answer: Tensor, words: str) -> None:
    backend = Scripted()
    backend.answer = answer
    with pytest.raises(TargetError, match=words):
        Ledger(backend, 100).ask(images(3), CHIP)


class KilledError(Exception): ...


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_after_a_kill_nothing_answered_is_asked_again(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any number of kills, each before, in or after any request: the answers are the same, every image that was answered was
    paid once, and one under way when the process died is counted as lost."""
    path = tmp_path_factory.mktemp("journal") / "answers.jsonl"
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    reference = [Scripted().query(images(size, float(size)), CHIP, lambda _: None) for size in sizes]
    received = 0
    for kill in [*data.draw(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=3)), None]:
        backend, journal = Scripted(), Journal(path)
        ledger = Ledger(backend, 10**6, journal)
        answers = []
        try:
            for number, size in enumerate(sizes):
                if kill is not None and kill[0] == number:
                    if not kill[1]:
                        raise KilledError
                    backend.fail = KilledError()
                answers.append(ledger.ask(images(size, float(size)), CHIP))
        except KilledError:
            pass
        journal.close()
        received += backend.received
    assert all(torch.equal(a, b) for a, b in zip(answers, reference, strict=True))
    assert ledger.images == sum(sizes)
    assert ledger.images + ledger.lost == received


def test_a_torn_last_line_never_happened(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    journal = Journal(path)
    Ledger(Scripted(), 100, journal).ask(images(2), CHIP)
    journal.close()
    path.write_bytes(path.read_bytes()[:-5])
    again, backend = Journal(path), Scripted()
    ledger = Ledger(backend, 100, again)
    assert ledger.ask(images(2), CHIP).shape == (2, 2)
    assert backend.received == 2
    assert ledger.lost == 2
    again.close()


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    journal = Journal(path)
    Ledger(Scripted(), 100, journal).ask(images(2), CHIP)
    journal.close()
    again = Journal(path)
    with pytest.raises(TargetError, match="belongs to another run"):
        Ledger(Scripted(), 100, again).ask(images(2, 1.0), CHIP)
    again.close()


def test_large_queries_are_cut_the_same_way_whoever_answers() -> None:
    backend = Scripted()
    ledger = Ledger(backend, 1000)
    ledger.ask(images(300), CHIP)
    assert (ledger.images, ledger.requests) == (300, 3)
