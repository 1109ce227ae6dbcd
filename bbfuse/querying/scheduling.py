"""Requests: at most 128 images each, several in flight at once, and the same results in any order of arrival."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backends.base import Chip
from bbfuse.querying.budget import BudgetSpentError

__all__ = ["IMAGES_PER_REQUEST", "Request", "Scheduler", "SendsRequests"]

IMAGES_PER_REQUEST = 128
"""Larger queries are split; the split does not depend on the backend, so that counts and numbers are the same everywhere."""


@dataclass(eq=False)
class Request:
    """At most 128 images for one chip."""

    number: int
    images: Tensor
    chip: Chip
    digest: str = ""
    keys: list[bytes] = field(default_factory=list)
    """Names of the images in the cache; empty if it was not searched."""
    kept: list[Tensor | None] = field(default_factory=list)
    """The rows of the response that are in the cache."""
    reserved: int = 0
    """Images of the budget that are reserved for it."""
    response: Tensor | None = None

    @property
    def missing(self) -> list[int]:
        """The images that have to be sent."""
        return [row for row in range(len(self.images)) if not self.kept or self.kept[row] is None]


class SendsRequests:
    """What sends the requests of a run: a `Scheduler`, or a backend that needs to know all requests of a query."""

    at_risk: int | None = None
    """Largest number of images in several requests in flight, which a killed run loses; unlimited if not given."""

    def send_all(
        self, requests: Sequence[Request], reserve: Callable[[Request], None], send: Callable[[Request], None],
        one_at_a_time: Callable[[], bool],
    ) -> None:  # fmt: skip
        """See `Scheduler.send_all`."""
        raise NotImplementedError


class Scheduler(SendsRequests):
    """Sends requests in order, ``in_flight`` of them at once at most, from as many threads."""

    def __init__(self, in_flight: int) -> None:
        self._in_flight = in_flight
        self._pool = ThreadPoolExecutor(in_flight, initializer=torch.get_num_threads) if in_flight > 1 else None

    def send_all(
        self, requests: Sequence[Request], reserve: Callable[[Request], None], send: Callable[[Request], None],
        one_at_a_time: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Call ``reserve`` and then ``send`` for each request; ``reserve`` in order, ``send`` from several threads.

        While ``one_at_a_time`` returns true one request is in flight at most.

        Raises:
            BudgetSpentError, TargetError: that of the first request which failed, once all others in flight have ended.
        """
        if self._pool is None:
            for request in requests:
                reserve(request)
                send(request)
            return
        with_gradient = torch.is_grad_enabled()
        running: dict[Future[None], Request] = {}
        failed: list[tuple[int, BaseException]] = []

        def send_in_thread(request: Request) -> None:
            with torch.set_grad_enabled(with_gradient):  # the mode is set per thread
                send(request)

        def settle(when: str, timeout: float | None = None) -> None:
            for future in wait(running, timeout, when).done:
                number, error = running.pop(future).number, future.exception()
                if error is not None:
                    failed.append((number, error))

        try:
            for request in requests:
                settle(FIRST_COMPLETED, timeout=0.0)
                while not failed and not self._has_room(request, running.values(), one_at_a_time()):
                    settle(FIRST_COMPLETED)
                if failed:
                    break
                reserve(request)  # in order, so that arrival does not decide which request is the one too many
                running[self._pool.submit(send_in_thread, request)] = request
        except BudgetSpentError as error:
            failed.append((request.number, error))
        finally:
            settle(ALL_COMPLETED)
        if failed:
            raise min(failed, key=lambda one: one[0])[1]

    def _has_room(self, request: Request, running: Iterable[Request], one_at_a_time: bool) -> bool:
        in_flight = [len(one.missing) for one in running]
        if not in_flight:
            return True
        if one_at_a_time or len(in_flight) >= self._in_flight:
            return False
        return self.at_risk is None or sum(in_flight) + len(request.missing) <= self.at_risk
