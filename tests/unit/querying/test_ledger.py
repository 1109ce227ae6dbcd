"""The ledger counts everything, never passes its limit, checks every answer and pays for none twice."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings
from torch import Tensor

from backends.base import Chip, Sending, TargetError
from bbfuse.querying.budget import BudgetSpentError
from bbfuse.querying.journal import Journal
from bbfuse.querying.ledger import Ledger
from bbfuse.querying.reservation import WorkerQueries
from tests.helpers.answering import Crowd, KilledError, Scripted

CHIP = Chip(0.1, 1)


def images(count: int, value: float = 0.0) -> Tensor:
    return torch.full((count, 1, 1, 2), value)


@given(st.lists(st.integers(1, 300), max_size=12), st.integers(0, 1500), st.integers(1, 3))
@settings(max_examples=100)
def test_counts_are_those_of_the_backend_and_the_limit_holds(sizes: list[int], limit: int, attempts: int) -> None:
    backend = Scripted(attempts)
    ledger = Ledger(backend, limit)
    for size in sizes:
        try:
            assert ledger.query(images(size), CHIP).shape == (size, 2)
        except BudgetSpentError:
            assert ledger.images + 128 > limit or ledger.images + size > limit
    assert ledger.images == backend.received <= limit


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (torch.zeros(3, 3), r"shape \(3, 3\), expected \(3, 2\)"),
        (torch.zeros(2, 2), r"shape \(2, 2\)"),
        (torch.full((3, 2), torch.nan), "not finite"),
        (torch.full((3, 2), -torch.inf), "not finite"),
        (torch.zeros(3), r"shape \(3,\), .*one label per image; configure the server to return logits"),
        (torch.zeros(3, 1), r"shape \(3, 1\), .*one label per image"),
    ],
)
def test_invalid_responses_are_refused(answer: Tensor, words: str) -> None:
    backend = Scripted()
    backend.answer = answer
    with pytest.raises(TargetError, match=words):
        Ledger(backend, 100).query(images(3), CHIP)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_after_a_kill_no_query_with_a_response_is_sent_again(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
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
                answers.append(ledger.query(images(size, float(size)), CHIP))
        except KilledError:
            pass
        journal.close()
        received += backend.received
    assert all(torch.equal(a, b) for a, b in zip(answers, reference, strict=True))
    assert ledger.images == sum(sizes)
    assert ledger.images + ledger.lost == received


def test_an_incomplete_last_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    journal = Journal(path)
    Ledger(Scripted(), 100, journal).query(images(2), CHIP)
    journal.close()
    path.write_bytes(path.read_bytes()[:-5])
    again, backend = Journal(path), Scripted()
    ledger = Ledger(backend, 100, again)
    assert ledger.query(images(2), CHIP).shape == (2, 2)
    assert backend.received == 2
    assert ledger.lost == 2
    again.close()


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    journal = Journal(path)
    Ledger(Scripted(), 100, journal).query(images(2), CHIP)
    journal.close()
    again = Journal(path)
    with pytest.raises(TargetError, match="belongs to another run"):
        Ledger(Scripted(), 100, again).query(images(2, 1.0), CHIP)
    again.close()


def test_the_top_few_classes_are_recognised() -> None:
    backend = Scripted(classes=10)
    backend.answer = torch.zeros(3, 5)
    with pytest.raises(TargetError, match=r"expected \(3, 10\): it seems to be the top 5 of 10 classes") as error:
        Ledger(backend, 100).query(images(3), CHIP)
    assert "\n" not in str(error.value)


sizes_of_questions = st.lists(st.integers(1, 300), min_size=1, max_size=6)


def questions_of(sizes: list[int]) -> list[tuple[Tensor, Chip]]:
    return [(images(size) + place + torch.arange(size)[:, None, None, None] / 1000, Chip(0.1, place)) for place, size in
            enumerate(sizes)]  # fmt: skip


@given(sizes_of_questions, st.integers(0, 1500), st.integers(1, 3), st.integers(2, 5), st.integers(0, 99))
@settings(max_examples=60)
def test_responses_and_counts_do_not_depend_on_the_order_of_arrival(
    sizes: list[int], limit: int, attempts: int, in_flight: int, seed: int
) -> None:
    """Counts are compared where no retry competes for the last of the budget."""
    found = []
    for parallel in (1, in_flight):
        backend = Crowd(attempts, seed)
        ledger = Ledger(backend, limit, in_flight=parallel)
        try:
            answers: list[Tensor] | None = ledger.query_all(questions_of(sizes))
        except BudgetSpentError:
            answers = None
        assert ledger.images == backend.received <= limit
        assert backend.most[0] <= parallel
        found.append((answers, ledger.images, ledger.requests, ledger._number))
    (one, *counts), (many, *same) = found
    if attempts == 1 or one is not None:
        assert counts == same
        assert (one is None) == (many is None)
        assert one is None or many is None or all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_several_requests_are_in_flight_at_once() -> None:
    barrier = threading.Barrier(3)

    class Meeting(Scripted):
        def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
            barrier.wait(timeout=20)  # raises where fewer than three ever meet
            return super().query(images, chip, sending)

    ledger = Ledger(Meeting(), 10_000, in_flight=3)
    ledger.kind = "logits"
    assert ledger.query(images(6 * 128), CHIP).shape == (768, 2)


def test_no_more_images_are_in_flight_than_may_be_lost() -> None:
    backend = Crowd()
    ledger = Ledger(backend, 10_000, in_flight=5)
    ledger.scheduler.at_risk = 100
    ledger.query_all([(images(30), CHIP)] * 12 + [(images(120), CHIP)] * 2)  # one that is larger goes alone
    assert backend.most[1] == 120
    assert 2 <= backend.most[0] <= 3


@given(sizes_of_questions, st.sets(st.integers(0, 5), min_size=1), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=40)
def test_of_several_failures_the_first_is_raised_and_no_response_is_lost(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], wrong: set[int], in_flight: int, seed: int
) -> None:
    assume(min(wrong) < len(sizes))
    path = tmp_path_factory.mktemp("journal") / "answers.jsonl"
    backend, journal = Crowd(1, seed, tuple(float(value) for value in wrong)), Journal(path)
    asked = questions_of(sizes)
    with pytest.raises(KilledError) as error:
        Ledger(backend, 10**6, journal, in_flight=in_flight).query_all(asked)
    assert error.value.args[0] == min(wrong)
    assert not backend.now
    journal.close()
    answered = sum(json.loads(line)["shape"][0] for line in path.read_text().splitlines() if "answer" in line)
    again, calm = Journal(path), Crowd(1, seed)
    ledger = Ledger(calm, 10**6, again, in_flight=in_flight)
    expected = Ledger(Crowd(), 10**6).query_all(asked)
    assert all(torch.equal(a, b) for a, b in zip(ledger.query_all(asked), expected, strict=True))
    again.close()
    assert calm.received == sum(sizes) - answered
    assert ledger.lost == backend.received - answered


@given(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.data())
@settings(max_examples=60)
def test_a_journal_of_interleaved_requests_may_end_anywhere(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    """Lines of several requests in any order that keeps those of each, cut at any byte, twice."""
    path = tmp_path_factory.mktemp("journal") / "answers.jsonl"
    asked = questions_of(sizes)
    journal = Journal(path)
    expected = Ledger(Crowd(attempts=2), 10**6, journal).query_all(asked)
    journal.close()
    of_each: dict[int, list[bytes]] = {}
    for line in path.read_bytes().splitlines(keepends=True):
        of_each.setdefault(json.loads(line)["request"], []).append(line)
    order = data.draw(st.permutations([number for number, lines in of_each.items() for _ in lines]))
    path.write_bytes(b"".join(of_each[number].pop(0) for number in order))
    for _ in range(2):
        written = path.read_bytes()[: data.draw(st.integers(0, path.stat().st_size))]
        path.write_bytes(written)
        entries = [json.loads(line) for line in written.split(b"\n")[:-1]]
        answered = sum(entry["shape"][0] for entry in entries if "answer" in entry)
        in_flight = data.draw(st.integers(1, 4))
        again, backend = Journal(path), Crowd()
        ledger = Ledger(backend, 10**6, again, in_flight=in_flight)
        answers = ledger.query_all(asked)
        again.close()
        assert all(torch.equal(a, b) for a, b in zip(answers, expected, strict=True))
        assert backend.received == sum(sizes) - answered
        assert ledger.images + ledger.lost == sum(entry.get("sent", 0) for entry in entries) + backend.received


def test_large_queries_are_split_the_same_way_for_every_backend() -> None:
    backend = Scripted()
    ledger = Ledger(backend, 1000)
    ledger.query(images(300), CHIP)
    assert (ledger.images, ledger.requests) == (300, 3)


def test_queries_of_workers_are_reserved_before_and_counted_after(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers.jsonl")
    ledger = Ledger(Scripted(), 100, journal)
    first, second, third, fourth = (WorkerQueries(ledger).numbered([20, 10]) for _ in range(4))
    for grant in (first, second, third):
        WorkerQueries(ledger).reserve(grant)
    with pytest.raises(BudgetSpentError, match="30 more images would pass the limit of 100, 90 are sent"):
        WorkerQueries(ledger).reserve(fourth)
    answers = [torch.arange(30.0).view(15, 2), torch.arange(30.0, 60.0).view(15, 2)]
    WorkerQueries(ledger).settle(first, 30, 2, answers)
    WorkerQueries(ledger).settle(second, 0, 0, None)  # refused before it was sent
    WorkerQueries(ledger).charge_lost(third)
    assert (ledger.images, ledger.requests, ledger.lost) == (30, 2, 30)
    WorkerQueries(ledger).reserve(second)
    journal.close()

    journal = Journal(tmp_path / "answers.jsonl")
    resumed = Ledger(Scripted(), 100, journal)
    first, second, third = (WorkerQueries(resumed).numbered([20, 10]) for _ in range(3))
    known = WorkerQueries(resumed).recalled(first)
    assert known is not None
    assert torch.equal(torch.cat(known), torch.cat(answers))
    assert WorkerQueries(resumed).recalled(second) is WorkerQueries(resumed).recalled(third) is None
    # what was under way when the process died is lost, too; it had been put down twice
    assert (resumed.images, resumed.requests, resumed.lost) == (30, 2, 90)
    journal.close()
