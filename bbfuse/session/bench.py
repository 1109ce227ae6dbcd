"""The target on a bench, as a run sees it: queries are handed out, responses are read from a folder once they are told.

A run is deterministic, so that it can stop at a query without a response and continue later: repeated from its last checkpoint it
comes to the same query, and then finds the response. Nothing is charged for a query before its response is used, and none is
handed out that would pass the budget.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.base import BackendInfo, Chip, Sending, TargetError
from backends.files import write_arrays
from bbfuse.querying.budget import BudgetSpentError
from bbfuse.querying.scheduling import Request, SendsRequests

__all__ = ["Bench", "PendingError", "Query", "ToldResponses"]

_ID = re.compile(r"\d+-[0-9a-f]{6}")


@dataclass(frozen=True, eq=False)
class Query:
    """Images that a chip is to respond to."""

    id: str
    """Its place in the run and a part of the digest of its images, such as ``0012-3fa9c2``."""
    images: NDArray[Any]
    """(n, ...), in the form of the user's data."""
    chip: Chip
    """The chip that has to respond; with a bit error rate of 0 at nominal voltage."""

    def __len__(self) -> int:
        return len(self.images)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Images and chip as they are written to a file."""
        chip = {"bit_error_rate": np.array(self.chip.bit_error_rate), "chip_seed": np.array(self.chip.seed)}
        return {"images": self.images, **chip}


class PendingError(Exception):
    """The run cannot continue before the ``queries`` have responses."""

    def __init__(self, queries: Sequence[Query]) -> None:
        super().__init__(f"{len(queries)} queries have no response yet")
        self.queries = list(queries)


class ToldResponses:
    """The queries of a run with their responses in a folder, one file for each query, there as a whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, query: str) -> NDArray[np.float32] | None:
        """The response (n, classes) to the query with that id; ``None`` if it was not told."""
        path = self._path(query)
        return _response_in(path) if _ID.fullmatch(query) and path.exists() else None

    def other(self, query: str) -> str | None:
        """The id of a query at the same place of the run with other images whose response was told; ``None`` without."""
        place = query.partition("-")[0]
        return next((path.stem for path in self._folder.glob(f"{place}-*.npz") if path.stem != query), None)

    def any(self) -> NDArray[np.float32] | None:
        """Some response; ``None`` if none was told."""
        path = next(self._folder.glob("*.npz"), None)
        return None if path is None else _response_in(path)

    def keep(self, query: Query, response: NDArray[np.float32]) -> None:
        """Store ``query`` and its ``response`` (n, classes); it is on the disk when this returns."""
        self._folder.mkdir(exist_ok=True)
        write_arrays(self._path(query.id), {**query.arrays(), "responses": response}, sync=True)

    def _path(self, query: str) -> Path:
        return self._folder / f"{query}.npz"


def _response_in(path: Path) -> NDArray[np.float32]:
    with np.load(path) as file:
        response: NDArray[np.float32] = file["responses"]
        return response


class Bench(SendsRequests):
    """A backend that responds with what was told, and the scheduler of its requests; none is in flight when a run is killed."""

    def __init__(self, info: BackendInfo, told: ToldResponses, outward: Callable[[Tensor], Tensor]) -> None:
        """``outward`` converts images in [-1, 1] to the form of the user's data."""
        self.info = info
        self._told = told
        self._outward = outward
        self._response: Tensor | None = None

    def send_all(
        self, requests: Sequence[Request], reserve: Callable[[Request], None], send: Callable[[Request], None],
        one_at_a_time: Callable[[], bool],
    ) -> None:  # fmt: skip
        """See `Scheduler`; all requests that have no response are handed out together.

        Raises:
            PendingError: some have none; they are within the budget.
            BudgetSpentError: a request would pass the limit, and all before it have their responses.
            TargetError: a response belongs to other images.
        """
        spent: BudgetSpentError | None = None
        ready: list[tuple[Request, Tensor]] = []
        pending: list[Query] = []
        for request in requests:
            try:
                reserve(request)
            except BudgetSpentError as error:
                spent = error
                break
            query = self._query(request)
            told = self._told.find(query.id)
            if told is None:
                self._check(query.id)
                pending.append(query)
            else:
                ready.append((request, torch.from_numpy(told)))
        if pending:
            raise PendingError(pending)
        for request, response in ready:
            self._response = response
            send(request)
        if spent is not None:
            raise spent

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.base.Backend`; the response to the request that `send_all` sends now."""
        assert self._response is not None
        sending(len(images))
        return self._response

    def close(self) -> None:
        """Nothing is held open."""

    def _query(self, request: Request) -> Query:
        missing = request.missing
        images = request.images if len(missing) == len(request.images) else request.images[missing]
        images = self.info.seen(images.cpu())
        digest = hashlib.sha256(repr(request.chip).encode() + images.numpy().astype("<f4").tobytes()).hexdigest()
        return Query(f"{request.number + 1:04d}-{digest[:6]}", self._outward(images).numpy(), request.chip)

    def _check(self, query: str) -> None:
        """Refuse to ask again for what was told for other images.

        They differ if the images are computed with other library versions, say.
        """
        if (other := self._told.other(query)) is not None:
            raise TargetError(
                f"query {query} has other images than {other}, whose response was told: continue with the library versions "
                "that the run began with, or begin anew"
            )
