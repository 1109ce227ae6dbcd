"""``bbfuse.Session``: a run that asks for responses and is told them, in any order and over any time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from backends.base import Chip, InputError, TargetError
from backends.datasets.given import dataset
from backends.datasets.loading import load
from backends.kinds.bench import UNNAMED
from backends.registry import renew
from bbfuse.callbacks.base import Status
from bbfuse.config import RunConfig
from bbfuse.execution import outcome
from bbfuse.fitting import Population, configuration
from bbfuse.opening import described
from bbfuse.progress import ProgressDisplay
from bbfuse.querying.responses import ResponseCheck
from bbfuse.result import Result
from bbfuse.runs.folder import settings as settings_of_run
from bbfuse.session.bench import Bench, PendingError, Query, ToldResponses
from bbfuse.session.data import keep, restore

__all__ = ["Session"]


class Session:
    """A run on a device without an API::

        session = bbfuse.Session(data, folder="runs/bench", chip=bbfuse.Chip(0.05, seed=0), budget=4000)
        while (query := session.ask()) is not None:
            session.tell(query, device(query.images))
        result = session.result()

    It is the run that `bbfuse.fit` would do, number for number. The folder holds everything: the process may end at any moment,
    and `Session.load` continues. An image counts against the budget once the response to its query is used; what is handed out
    never exceeds the budget, and a query that is handed out again is the same query.
    """

    def __init__(
        self, data: object, *, folder: str | Path, chip: Chip | Population | str | None = "default", target: str = UNNAMED,
        value_range: tuple[float, float] | None = None, channels_last: bool | None = None,
        split: tuple[float, float, float] | None = None, classes: int | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        """Begin a run in ``folder``, which must not exist or be empty. ``data``, ``chip`` and all others are as in `bbfuse.fit`.

        ``target`` is the architecture of the device if it has a name here, for the energy in the summary.

        Raises:
            InputError: something given is not possible; nothing is written then.
        """
        for name in ("backend", "out", "plan", "workers"):
            if name in settings:
                raise InputError(f"`{name}` is not a setting of a session: drop it")
        given = dataset(data, value_range=value_range, channels_last=channels_last, split=split, classes=classes)
        self._open(configuration("bench", target, given, chip, {**settings, "out": folder}), Path(folder))

    @classmethod
    def begin(cls, config: RunConfig) -> Session:
        """A new session in the folder ``config.out``, with ``config.backend`` bench.

        Raises:
            InputError: the settings do not fit each other, the data or the budget; nothing is written then.
        """
        session = cls.__new__(cls)
        assert config.out is not None
        session._open(config, config.out)
        return session

    @classmethod
    def load(cls, folder: str | Path, trust: bool = False) -> Session:
        """Continue the session in ``folder``. Queries without a response are handed out again.

        ``trust``: import own components that the folder names.

        Raises:
            InputError: ``folder`` holds no session.
        """
        folder = Path(folder)
        written = settings_of_run(folder, "`folder`", trust)
        if written.backend != "bench":
            raise InputError(f"`folder` {folder} holds a run of `backend={written.backend}`, not a session: continue it with "
                             f"`resume={folder}`")  # fmt: skip
        session = cls.__new__(cls)
        session._open(written.replaced(trust=trust, data=restore(folder, written.data)), folder, resumed=True)
        return session

    def _open(self, config: RunConfig, folder: Path, resumed: bool = False) -> None:
        self.folder = folder
        """The run folder."""
        self._told = ToldResponses(folder / "told")
        self._info = described(config).info
        self.form = load(config.data).form
        """The form of the user's data, in which queries are handed out."""
        self._bench = Bench(self._info, self._told, self.form.outward)
        self.format: str = config.bench.format
        """`bench.format`: how `bbfuse bench ask` writes queries."""
        self._trust = config.trust
        self._given = vars(config).values()
        self._config = self._continued() if resumed else config
        self._pending: dict[str, Query] = {}
        self._handed_out: set[str] = set()
        self._summary: dict[str, Any] | None = None
        self._advance()
        if not resumed:
            keep(folder, config.data)

    @property
    def classes(self) -> int:
        """Classes of the target: columns of each response."""
        return self._info.classes

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of the run; ``None`` before its end."""
        self._advance()
        return self._summary

    @property
    def pending(self) -> list[Query]:
        """All queries that have no response yet, the oldest first; empty once the run has ended."""
        self._advance()
        return list(self._pending.values())

    def ask(self) -> Query | None:
        """The next query: one that was not handed out yet, else the oldest without a response; ``None`` at the end of the run.

        Raises:
            TargetError: the responses cannot be used, or belong to other images.
        """
        self._advance()
        new = (query for query in self._pending.values() if query.id not in self._handed_out)
        query = next(new, next(iter(self._pending.values()), None))
        if query is not None:
            self._handed_out.add(query.id)
        return query

    def tell(self, query: Query | str, responses: ArrayLike | Tensor) -> None:
        """Store the ``responses`` (n, classes) to ``query``, or to the query with that id: logits, or probabilities.

        They are on the disk when this returns. Told again they are ignored.

        Raises:
            InputError: no such query, other responses than those told before, or an invalid array; nothing is stored then.
        """
        self.tell_all({query if isinstance(query, str) else query.id: responses})

    def tell_all(self, responses: Mapping[str, ArrayLike | Tensor]) -> None:
        """As `tell` for several queries by their ids; all responses are checked before any is stored.

        Raises:
            InputError: as `tell`.
        """
        self._advance()
        arrays = {query: _array(query, response) for query, response in responses.items()}
        earlier = self._told.any()
        kind = None if earlier is None else self._kind("", earlier, len(earlier))
        for query, array in arrays.items():
            kind = self._checked(query, array, kind)
        for query in [query for query in arrays if query in self._pending]:
            self._told.keep(self._pending[query], arrays[query])
            del self._pending[query]

    def result(self) -> Result:
        """The result of the run, as `bbfuse.fit` returns it.

        Raises:
            InputError: the run has not ended.
        """
        self._advance()
        if self._summary is None:
            raise InputError(f"the run has not ended: tell the responses to {_listed(list(self._pending))} first")
        return Result(self.folder, self._summary)

    def _advance(self) -> None:
        """Continue the run, unless it has ended or needs a response that was not told."""
        if self._pending or self._summary is not None:
            return
        renew(self._given)  # another session may have given an object of that name
        try:
            self._summary = outcome(self._config, display=_Notes(self._config.resume is None), bench=self._bench).summary
        except PendingError as missing:
            self._pending = {query.id: query for query in missing.queries}
        self._config = self._continued()

    def _continued(self) -> RunConfig:
        return RunConfig(resume=self.folder, trust=self._trust)

    def _checked(self, query: str, array: NDArray[np.float32], kind: str | None) -> str | None:
        """Refuse an ``array`` that is no response to ``query`` or of another kind than ``kind``; returns the kind of all."""
        if query not in self._pending:
            earlier = self._told.find(query)
            if earlier is None:
                waiting = _listed(list(self._pending))
                raise InputError(f"`query` must be one without a response in {self.folder}, {waiting}, got {query}")
            if not np.array_equal(earlier, array):
                raise InputError(f"query {query} was told other responses before: drop these, or begin a new session")
            return kind
        images = len(self._pending[query])
        if array.ndim == 2 and len(array) != images:
            raise InputError(f"query {query} has {images} images, got responses to {len(array)}: give one row for each image")
        found = self._kind(query, array, images)
        if kind not in (None, found):
            raise InputError(f"query {query}: responses must be {kind} like those told before, got {found}")
        return found

    def _kind(self, query: str, array: NDArray[np.float32], images: int) -> str | None:
        check = ResponseCheck(self._info)
        try:
            check.logits(torch.from_numpy(array), images)
        except TargetError as error:
            raise InputError(f"query {query}: {error}") from None
        return check.kind


def _array(query: str, responses: ArrayLike | Tensor) -> NDArray[np.float32]:
    if isinstance(responses, Tensor):
        responses = responses.detach().cpu().numpy()
    try:
        return np.asarray(responses, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"query {query}: responses must be an array (n, classes) of numbers: {error}") from None


class _Notes(ProgressDisplay):
    """The notes of a new run, and nothing else."""

    def __init__(self, new: bool) -> None:
        super().__init__()
        self._new = new

    def say(self, message: str) -> None:
        """See `ProgressDisplay`."""
        if self._new and not message.startswith("run folder"):
            super().say(message)

    def __enter__(self) -> ProgressDisplay:
        return self

    def update(self, status: Status) -> None:
        """See `ProgressDisplay`; nothing."""


def _listed(names: list[str]) -> str:
    return (", ".join(names[:3]) or "of which there are none") + (f" and {len(names) - 3} more" if len(names) > 3 else "")
