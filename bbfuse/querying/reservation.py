"""Requests that workers send for a run: reserved beforehand, then settled, or charged as lost with the worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.base import NOMINAL
from bbfuse.querying.ledger import Ledger
from bbfuse.querying.scheduling import Request

__all__ = ["Reservation", "WorkerQueries"]


@dataclass(frozen=True)
class Reservation:
    """The requests of one probe, ``sizes`` images each, numbered from ``first`` on; a worker may send each of them once."""

    first: int
    sizes: Sequence[int]

    @property
    def images(self) -> int:
        """Images of all requests."""
        return sum(self.sizes)


class WorkerQueries:
    """Counts what workers send in ``ledger``."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def keeps_responses(self) -> bool:
        """Whether responses go to a journal, so that a resumed run does not send these queries again."""
        return self._ledger.journal is not None

    def numbered(self, sizes: Sequence[int]) -> Reservation:
        """The next requests of this run, of ``sizes`` images; nothing is reserved and nothing may be sent yet."""
        return Reservation(self._ledger.take_numbers(len(sizes)), sizes)

    def recalled(self, reservation: Reservation) -> list[Tensor] | None:
        """The responses to all requests of ``reservation`` if the journal of a killed run has them."""
        ledger, budget = self._ledger, self._ledger.budget
        requests = [
            Request(reservation.first + place, torch.empty(size, 0), NOMINAL) for place, size in enumerate(reservation.sizes)
        ]
        images, attempts = budget.images, budget.requests
        for request in requests:
            ledger.recall(request)
        responses = [request.response for request in requests if request.response is not None]
        if len(responses) == len(requests):
            return responses
        # a probe is sent as a whole: a part of its responses is of no use
        budget.lost += budget.images - images
        budget.images, budget.requests = images, attempts
        return None

    def reserve(self, reservation: Reservation) -> None:
        """The requests are about to be sent, once each.

        Raises:
            BudgetSpentError: the limit would be passed; nothing may be sent.
        """
        with self._ledger.budget.lock:
            self._ledger.budget.reserve(reservation.images)
            if self._ledger.journal is not None:
                for place, size in enumerate(reservation.sizes):
                    self._ledger.journal.sent(reservation.first + place, "", size)

    def settle(self, reservation: Reservation, images: int, requests: int, responses: Sequence[Tensor] | None) -> None:
        """``images`` images in ``requests`` requests were sent; ``responses`` (n, classes) to each term, if there are any."""
        ledger, budget = self._ledger, self._ledger.budget
        with budget.lock:
            budget.release(reservation.images)
            budget.images, budget.requests = budget.images + images, budget.requests + requests
            if responses is not None and ledger.journal is not None:
                parts = torch.cat(list(responses)).split(list(reservation.sizes))
                for place, part in enumerate(parts):
                    ledger.journal.received(reservation.first + place, "", part, ledger.kind, 0)

    def charge_lost(self, reservation: Reservation) -> None:
        """The worker died: all requests in flight are charged, without a response."""
        ledger, budget = self._ledger, self._ledger.budget
        with budget.lock:
            budget.release(reservation.images)
            budget.lost += reservation.images
            if ledger.journal is not None:
                for place, size in enumerate(reservation.sizes):
                    ledger.journal.lost(reservation.first + place, "", size)
