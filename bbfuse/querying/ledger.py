"""The ledger, the only way to the target: counts images and requests, enforces the limit, checks and records responses.

Queries are split into requests, numbered in order. The order of arrival makes no difference: responses are joined in order,
and no request depends on another's response.

A request is written to the journal before it is sent, and its response when it arrives. A resumed run reads the responses since
the last checkpoint from the journal; requests in flight when a run was killed are charged although their responses are lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from backends.base import Access, Backend, BackendInfo, Chip
from bbfuse.querying.budget import Budget
from bbfuse.querying.cache import ResponseCache
from bbfuse.querying.journal import Journal
from bbfuse.querying.responses import Query, ResponseCheck, Responses
from bbfuse.querying.scheduling import IMAGES_PER_REQUEST, Request, Scheduler, SendsRequests

__all__ = ["Ledger"]


class Ledger:
    """Counts what is sent to ``backend``; ``images`` and ``requests`` never pass ``limit`` images, retries included."""

    def __init__(
        self, backend: Backend, limit: int, journal: Journal | None = None, cache: ResponseCache | None = None, in_flight: int = 1
    ) -> None:
        """With ``in_flight`` above 1 the backend is queried from that many threads at once."""
        self._backend = backend
        self.journal = journal
        self.cache = cache
        self.uses_cache = True
        """Whether the cache is used, if there is one."""
        self.budget = Budget(limit)
        self.scheduler: SendsRequests = backend if isinstance(backend, SendsRequests) else Scheduler(in_flight)
        self.responses = ResponseCheck(backend.info)
        self.kept = 0
        """Images that were not sent, since the cache had their responses."""
        self._number = 0

    @property
    def info(self) -> BackendInfo:
        """The declaration of the backend."""
        return self._backend.info

    @property
    def limit(self) -> int:
        """Images that may be sent at most."""
        return self.budget.limit

    @limit.setter
    def limit(self, images: int) -> None:
        self.budget.limit = images

    @property
    def images(self) -> int:
        """Images sent."""
        return self.budget.images

    @property
    def requests(self) -> int:
        """Requests sent, retries included."""
        return self.budget.requests

    @property
    def lost(self) -> int:
        """Images in flight when a process was killed."""
        return self.budget.lost

    @property
    def kind(self) -> str | None:
        """What the target responds with, see `ResponseCheck`."""
        return self.responses.kind

    @kind.setter
    def kind(self, kind: str | None) -> None:
        self.responses.kind = kind

    def as_received(self, images: Tensor) -> Tensor:
        """``images`` as the target receives them, which may be rounded to 256 levels."""
        return self._backend.info.seen(images)

    def query(self, images: Tensor, chip: Chip) -> Tensor:
        """Logits (n, classes) of ``images`` on ``chip``, without gradient whatever access the backend grants.

        Raises:
            BudgetSpentError: the limit would be passed; nothing beyond it was sent.
            TargetError: no response, or an invalid one.
        """
        return self.query_all([(images, chip)])[0]

    def query_all(self, queries: Sequence[Query], fresh: bool = False) -> list[Tensor]:
        """The logits (n, classes) of every query, as `query` has them, with several requests in flight.

        With ``fresh`` the cache is not read.

        Raises:
            BudgetSpentError, TargetError: as `query`, of the first request that failed, once all others in flight have ended;
                their responses are in the journal.
        """
        with torch.no_grad():
            return self._query_all([(images.detach(), chip) for images, chip in queries], fresh)

    def query_with_gradient(self, images: Tensor, chip: Chip) -> Tensor:
        """As `query`, differentiable with respect to ``images``; only for backends that grant gradients."""
        assert self._backend.info.access >= Access.GRADIENTS
        return self._query_all([(images, chip)])[0]

    def _query_all(self, queries: Iterable[Query], fresh: bool = False) -> list[Tensor]:
        parts_of_queries = [[self._numbered(part, chip) for part in images.split(IMAGES_PER_REQUEST)] for images, chip in queries]
        requests = [request for parts in parts_of_queries for request in parts]
        # recorded responses first: they are counted before the limit is checked for the others
        for request in requests:
            self.recall(request)
        if self.cache is not None and self.uses_cache and not fresh:
            for request in requests:
                self._look_up(request, self.cache)
        waiting = [request for request in requests if request.response is None]
        # the first response shows how to read all others
        self.scheduler.send_all(waiting, self._reserve, self._send, one_at_a_time=lambda: self.kind is None)
        return [torch.cat([request.response for request in parts if request.response is not None]) for parts in parts_of_queries]

    def unused(self, chips: Sequence[Chip | None]) -> list[Responses]:
        """Responses of ``chips`` in the log of the run, see `ResponseLog.unused`; none without a log."""
        return [] if self.cache is None else self.cache.unused(chips)

    def take_numbers(self, count: int) -> int:
        """The number of the first of the next ``count`` requests of this run."""
        first = self._number
        self._number += count
        return first

    def _numbered(self, images: Tensor, chip: Chip) -> Request:
        request = Request(self.take_numbers(1), images, chip)
        if self.journal is not None:
            request.digest = hashlib.sha256(repr(chip).encode() + images.numpy().tobytes()).hexdigest()[:32]
        return request

    def recall(self, request: Request) -> None:
        """Take what the journal has of ``request``."""
        if self.journal is None:
            return
        budget, known = self.budget, self.journal.recall(request.number, request.digest)
        budget.lost += known.lost
        if known.response is not None:
            request.response = known.response
            budget.images, budget.requests = budget.images + known.images, budget.requests + known.attempts
            self.kept, self.kind = self.kept + known.kept, self.kind or known.kind
        elif known.images:
            budget.lost += known.images
            self.journal.lost(request.number, request.digest, known.images)

    def _look_up(self, request: Request, cache: ResponseCache) -> None:
        if request.response is None:
            request.keys = cache.keys(self.as_received(request.images), request.chip)
            request.kept = cache.find(request.keys)
            if not request.missing:
                self._received(request, torch.empty(0, self.info.classes))

    def _reserve(self, request: Request) -> None:
        """Reserve the images of the first attempt of ``request``."""
        self.budget.reserve(len(request.missing))
        request.reserved = len(request.missing)

    def _send(self, request: Request) -> None:
        """Fill in the response of ``request``; may be called from several threads."""
        missing = request.missing
        images = request.images if len(missing) == len(request.images) else request.images[missing]
        try:
            response = self._backend.query(images, request.chip, lambda count: self._charge(request, count))
            logits = self.responses.logits(response, len(images))
            if self.cache is not None:
                self.cache.check_kind(self.kind)
            self._received(request, logits)
        finally:
            self.budget.release(request.reserved)
            request.reserved = 0

    def _charge(self, request: Request, count: int) -> None:
        with self.budget.lock:
            request.reserved -= self.budget.charge(count, request.reserved)
            if self.journal is not None:
                self.journal.sent(request.number, request.digest, count)

    def _received(self, request: Request, response: Tensor) -> None:
        """Put ``response`` (m, classes), to the missing images, together with the cached rows, and record it."""
        missing = request.missing
        with self.budget.lock:
            if len(missing) < len(request.images):
                rows = iter(response)
                response = torch.stack([next(rows) if row is None else row for row in request.kept])
            kept = len(request.images) - len(missing)
            if self.journal is not None:
                self.journal.received(request.number, request.digest, response, self.kind, kept)
            self.kept += kept
            request.response = response
        if self.cache is not None and request.keys and missing:
            self.cache.keep([request.keys[row] for row in missing], response[missing])

    def checkpointed(self) -> None:
        """A checkpoint was saved: clear the journal."""
        if self.journal is not None:
            self.journal.clear()

    def state_dict(self) -> dict[str, Any]:
        """Counts so far, what the target responds with, and whether the cache is used."""
        return {
            "images": self.images, "requests": self.requests, "kept": self.kept, "lost": self.lost, "number": self._number,
            "kind": self.kind, "reuses": self.uses_cache,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counts of a checkpoint; later responses are read from the journal, not sent again."""
        budget = self.budget
        budget.images, budget.requests, budget.lost = state["images"], state["requests"], state["lost"]
        self.kept, self._number = state["kept"], state["number"]
        self.kind, self.uses_cache = state["kind"], state["reuses"]
        if self.journal is not None:
            self.journal.skip_before(self._number)
