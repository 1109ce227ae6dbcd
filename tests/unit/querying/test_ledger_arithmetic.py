"""The ledger's arithmetic by hand: what fits below the limit, and what counts."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backends.base import Chip, Sending, TargetError
from bbfuse.querying.budget import BudgetSpentError
from bbfuse.querying.cache import ResponseCache
from bbfuse.querying.journal import Journal
from bbfuse.querying.ledger import Ledger
from bbfuse.querying.reservation import Reservation, WorkerQueries
from bbfuse.querying.responses import Responses
from bbfuse.querying.scheduling import IMAGES_PER_REQUEST
from tests.helpers.answering import Crowd, Scripted, images

CHIP = Chip(0.1, 1)


class Sized(Scripted):
    """Keeps the size of every request."""

    def __init__(self, attempts: int = 1) -> None:
        super().__init__(attempts)
        self.sizes: list[int] = []

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        answer = super().query(images, chip, sending)
        self.sizes.append(len(images))
        return answer


def test_a_new_ledger_has_counted_nothing() -> None:
    ledger = Ledger(Scripted(), 9)
    assert (ledger.images, ledger.requests, ledger.kept, ledger.lost) == (0, 0, 0, 0)
    assert ledger.uses_cache is True
    assert WorkerQueries(ledger).keeps_responses is False
    assert (ledger.kind, ledger.scheduler.at_risk, ledger.limit) == (None, None, 9)
    assert WorkerQueries(ledger).numbered([4]).first == 0
    ledger.checkpointed()  # nothing was written down


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (127, [127]), (128, [128]), (129, [128, 1]), (300, [128, 128, 44])])
def test_a_query_is_split_into_requests_of_128_images(count: int, sizes: list[int]) -> None:
    backend = Sized()
    ledger = Ledger(backend, 1000)
    answer = ledger.query(images(count), CHIP)
    assert torch.equal(answer, images(count).flatten(1).sum(1, keepdim=True).repeat(1, 2))
    assert backend.sizes == sizes
    assert (ledger.images, ledger.requests) == (count, len(sizes))
    assert IMAGES_PER_REQUEST == 128


@pytest.mark.parametrize("in_flight", [1, 3])
def test_the_limit_can_be_reached_and_a_request_that_would_pass_it_is_not_sent(in_flight: int) -> None:
    backend = Sized()
    ledger = Ledger(backend, 50, in_flight=in_flight)
    ledger.query(images(20), CHIP)
    with pytest.raises(BudgetSpentError, match="31 more images would pass the limit of 50, 20 are sent"):
        ledger.query(images(31), CHIP)
    assert (ledger.images, ledger.requests) == (20, 1)
    ledger.query(images(30), CHIP)
    assert (ledger.images, ledger.requests, backend.sizes) == (50, 2, [20, 30])
    with pytest.raises(BudgetSpentError, match="1 more images would pass the limit of 50, 50 are sent"):
        ledger.query(images(1), CHIP)


def test_every_attempt_counts_and_one_that_would_pass_the_limit_is_not_sent() -> None:
    ledger = Ledger(Scripted(attempts=3), 60)
    ledger.query(images(20), CHIP)
    assert (ledger.images, ledger.requests) == (60, 3)
    backend = Scripted(attempts=3)
    ledger = Ledger(backend, 59)
    with pytest.raises(BudgetSpentError, match="20 more images would pass the limit of 59, 40 are sent"):
        ledger.query(images(20), CHIP)
    assert (ledger.images, ledger.requests, backend.received) == (40, 2, 40)
    backend.attempts = 1
    ledger.query(images(19), CHIP)  # what was reserved for the failed one is free again
    assert ledger.images == 59


def test_a_request_that_fails_before_it_is_sent_releases_its_reservation() -> None:
    class Refusing(Scripted):
        def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
            raise TargetError("nobody there")

    ledger = Ledger(Refusing(), 30)
    for _ in range(3):
        with pytest.raises(TargetError, match="nobody there"):
            ledger.query(images(30), CHIP)
    assert (ledger.images, ledger.requests) == (0, 0)
    WorkerQueries(ledger).reserve(Reservation(0, [20, 10]))


def test_lost_images_count_against_the_limit(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers.jsonl")
    ledger = Ledger(Scripted(), 50, journal)
    grant = WorkerQueries(ledger).numbered([7, 8])
    assert (grant.first, grant.images) == (0, 15)
    WorkerQueries(ledger).reserve(grant)
    with pytest.raises(BudgetSpentError, match="36 more images would pass the limit of 50, 15 are sent"):
        ledger.query(images(36), CHIP)
    WorkerQueries(ledger).charge_lost(grant)
    assert (ledger.images, ledger.lost) == (0, 15)
    journal.close()
    journal = Journal(tmp_path / "answers.jsonl")
    assert [journal.recall(number, "").lost for number in (0, 1, 2)] == [7, 8, 0]
    journal.close()
    ledger.journal = None
    ledger.query(images(35), CHIP)
    with pytest.raises(BudgetSpentError, match="1 more images would pass the limit of 50, 50 are sent"):
        ledger.query(images(1), CHIP)


def test_reservations_are_numbered_with_the_requests_and_settled_by_what_was_sent() -> None:
    ledger = Ledger(Scripted(), 100)
    ledger.query(images(3), CHIP)
    first, second = WorkerQueries(ledger).numbered([20, 10, 5]), WorkerQueries(ledger).numbered([6])
    assert (first.first, second.first, WorkerQueries(ledger).numbered([1]).first) == (1, 4, 5)
    WorkerQueries(ledger).reserve(first)
    WorkerQueries(ledger).settle(first, 33, 4, None)
    assert (ledger.images, ledger.requests, ledger.lost) == (36, 5, 0)
    WorkerQueries(ledger).reserve(Reservation(9, [64]))  # 36 and 64: nothing else is reserved any more
    with pytest.raises(BudgetSpentError):
        WorkerQueries(ledger).reserve(Reservation(10, [1]))


def test_responses_of_workers_are_recalled_whole_or_not_at_all(tmp_path: Path) -> None:
    path, rows = tmp_path / "answers.jsonl", [torch.arange(12.0).view(6, 2), torch.arange(12.0, 20.0).view(4, 2)]
    journal = Journal(path)
    ledger = Ledger(Scripted(), 100, journal)
    assert WorkerQueries(ledger).keeps_responses
    whole, half = WorkerQueries(ledger).numbered([7, 3]), WorkerQueries(ledger).numbered([5, 4])
    for grant in (whole, half):
        WorkerQueries(ledger).reserve(grant)
    WorkerQueries(ledger).settle(whole, 10, 2, rows)
    journal.received(half.first, "", torch.zeros(5, 2), "logits", 0)  # killed before the answer to its second request
    journal.close()
    journal = Journal(path)
    again = Ledger(Scripted(), 100, journal)
    found = WorkerQueries(again).recalled(WorkerQueries(again).numbered([7, 3]))
    assert found is not None
    assert [len(part) for part in found] == [7, 3]
    assert torch.equal(torch.cat(found), torch.cat(rows))
    assert (again.images, again.requests, again.lost) == (10, 2, 0)
    assert WorkerQueries(again).recalled(WorkerQueries(again).numbered([5, 4])) is None
    assert (again.images, again.requests, again.lost) == (10, 2, 9)
    journal.close()


def test_images_in_the_cache_are_not_sent_and_count_as_kept(tmp_path: Path) -> None:
    store, backend = ResponseCache(tmp_path, "endpoint"), Sized()
    ledger = Ledger(backend, 1000, cache=store)
    expected = images(9).flatten(1).sum(1, keepdim=True).repeat(1, 2)
    ledger.query(images(9)[2:5], CHIP)
    assert (ledger.images, ledger.kept) == (3, 0)
    assert torch.equal(ledger.query(images(9), CHIP), expected)
    assert (ledger.images, ledger.requests, ledger.kept, backend.sizes) == (9, 2, 3, [3, 6])
    assert torch.equal(ledger.query(images(9), CHIP), expected)  # all of it is there: no request
    assert (ledger.images, ledger.requests, ledger.kept) == (9, 2, 12)
    ledger.query(images(9), Chip(0.1, 2))
    assert backend.sizes == [3, 6, 9]
    ledger.query_all([(images(4), CHIP)], fresh=True)
    assert (ledger.kept, backend.sizes[-1]) == (12, 4)
    ledger.uses_cache = False
    ledger.query(images(4), CHIP)
    assert (ledger.kept, backend.sizes[-1]) == (12, 4)
    store.close()


def test_a_resumed_process_counts_what_was_sent_and_what_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    found = []
    for _ in range(2):
        journal, store = Journal(path), ResponseCache(tmp_path, "endpoint")
        store.keep(store.keys(images(9)[2:5], CHIP), torch.zeros(3, 2))
        ledger = Ledger(Scripted(attempts=2), 1000, journal, store)
        budget = ledger.budget
        ledger.kept, budget.images, budget.requests, budget.lost = 100, 200, 300, 400
        answer = ledger.query(images(9), CHIP)
        found.append((ledger.images, ledger.requests, ledger.kept, ledger.lost, ledger.kind, answer.tolist()))
        journal.close()
        store.close()
    assert found[0] == found[1]
    assert found[0][:5] == (212, 302, 103, 400, "logits")


class Patient(Crowd):
    """Answers nothing until so many images are under way at once, however slow the machine is to send them."""

    def __init__(self, images: int) -> None:
        super().__init__(seed=3)
        self._images, self._there = images, threading.Event()

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        with self._lock:
            if sum(self.now) + len(images) >= self._images:
                self._there.set()
            self.now.append(len(images))
            self.most = (max(self.most[0], len(self.now)), max(self.most[1], sum(self.now)))
        assert self._there.wait(60)
        time.sleep(0.002)  # for one too many to come
        with self._lock:
            self.now.remove(len(images))
        sending(len(images))
        return images.flatten(1)


def test_no_more_images_are_in_flight_than_may_be_lost_and_that_many_may_be() -> None:
    for at_risk, most in ((60, 60), (59, 40), (None, 100)):
        backend = Patient(most)
        ledger = Ledger(backend, 10_000, in_flight=5)
        ledger.kind, ledger.scheduler.at_risk = "logits", at_risk
        ledger.query_all([(images(20), CHIP)] * 15)
        assert backend.most[1] == most


def test_a_state_is_restored_by_loading() -> None:
    ledger = Ledger(Scripted(), 1000)
    ledger.query(images(200), CHIP)
    grant = WorkerQueries(ledger).numbered([5])
    WorkerQueries(ledger).reserve(grant)
    WorkerQueries(ledger).charge_lost(grant)
    ledger.kept, ledger.uses_cache = 17, False
    other = Ledger(Scripted(), 1000)
    other.load_state_dict(ledger.state_dict())
    assert other.state_dict() == {
        "images": 200, "requests": 2, "kept": 17, "lost": 5, "number": 3, "kind": "logits", "reuses": False,
    }  # fmt: skip


def test_responses_and_reservations_cannot_be_changed() -> None:
    for made, name in ((Responses(images(1), CHIP, torch.zeros(1, 2)), "chip"), (Reservation(0, [3]), "first")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, name, 5)


def test_a_ledger_has_one_request_in_flight_by_default() -> None:
    crowd = Crowd()
    ledger = Ledger(crowd, 100)
    ledger.query_all([(images(2), CHIP), (images(3), CHIP), (images(4), CHIP)])
    assert crowd.most == (1, 4)
