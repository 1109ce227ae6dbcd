"""Probes scored by workers of Ray, on this machine or a cluster: numbers go out and come back, and the run is the same run.

A step is put into Ray's object store once and fetched once a node. Then a worker is told the number of a probe
and sends back what came of it; meanwhile the driver makes what it will want of the probes itself.

The unit is one probe: neither what is asked nor how it is summed depends on how many workers there are. The ledger of the run
grants a probe's images before they are sent. A worker that dies, or says nothing for ``ray.timeout`` seconds, is replaced: what
it had been granted counts as sent and lost, and its probes are scored again.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import logging
import math
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, WorkerCrashedError
from torch import Tensor

from backends.base import InputError, TargetError
from backends.kinds.base import BACKENDS
from bbfuse.config.schema import RunConfig
from bbfuse.distributed.worker import OpenTarget, Reply, StepMessage, Worker, open_target, state_of, unpacked
from bbfuse.objective.step import Probe, Score, Step
from bbfuse.querying.budget import BudgetSpentError
from bbfuse.querying.ledger import Ledger
from bbfuse.querying.reservation import Reservation, WorkerQueries
from bbfuse.querying.scheduling import IMAGES_PER_REQUEST

__all__ = ["Cluster"]

_OBJECT_STORE = 256 << 20  # bytes, of the Ray that is started here: some steps of the largest fuse
_AT_HAND = 2  # probes that a worker has: one that it scores, and the next
_DEATHS = 3  # with one probe, or of a worker and its successors without an answer, before it is the run that has failed
_LOOK = 1.0  # seconds between looks for workers that have fallen silent
_CONNECT = 10.0  # seconds for a cluster to take a connection
_WAITING = 0.05  # processors of a worker that waits for a server most of the time


@dataclass(eq=False)
class _WorkerHandle:
    """A worker as the driver knows it."""

    actor: Any
    hello: ray.ObjectRef[int]
    pid: int | None = None
    """Once it is ready."""
    message: ray.ObjectRef[StepMessage] | None = None
    calls: dict[ray.ObjectRef[list[Any]], int] = field(default_factory=dict)
    """Numbers of the probes that it has."""
    last: int | None = None
    """The one that it got last."""
    heard: float = field(default_factory=time.monotonic)
    """When it last answered, or got something to do."""


@dataclass(eq=False)
class _StepInFlight:
    """The probes of one step, on their way."""

    step: Step
    probes: Sequence[Probe]
    grants: list[Reservation]
    message: ray.ObjectRef[StepMessage]
    scores: dict[int, Score] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    """Numbers of the probes that nobody has, in order."""
    unprepared: list[int] = field(default_factory=list)
    """Numbers of the probes that the driver has made nothing of yet, the first one last."""
    refused: dict[int, int] = field(default_factory=dict)
    """How often the target gave no answer to a probe."""
    lost: dict[int, int] = field(default_factory=dict)
    """How often a probe was lost with its worker."""
    failures: dict[int, Exception] = field(default_factory=dict)
    """Why the step cannot go on, by probes."""


class Cluster:
    """``config.workers`` workers; the `bbfuse.objective.step.Scorer` of a run."""

    def __init__(self, config: RunConfig, ledger: Ledger, owned: Tensor, open_target: OpenTarget = open_target) -> None:
        """Find or start Ray and hire the workers, which get ready while the run begins, by what ``open_target`` gives them.

        ``owned`` images are those that they have, too.

        Raises:
            InputError: there is no Ray at ``config.ray.address``.
        """
        rate = config.remote.requests_per_second
        if rate is not None:  # all of them together
            config = config.replaced(remote=dataclasses.replace(config.remote, requests_per_second=rate / config.workers))
        self._config = config
        self._ledger = ledger
        self._queries = WorkerQueries(ledger)
        self._owned = owned
        self._open_target = open_target
        self._joined = not ray.is_initialized()
        if self._joined:
            _join(config)
        cpus = config.ray.cpus or (_WAITING if BACKENDS[config.backend].over_network else config.threads)
        self._claim = {"num_cpus": cpus, "num_gpus": config.ray.gpus or 0}
        self._start = ray.remote(Worker).options(**self._claim, max_restarts=0).remote
        self._workers = [self._started() for _ in range(config.workers)]
        self._deaths = 0

    def __call__(self, step: Step, probes: Sequence[Probe]) -> list[Score | None]:
        """The scores of ``probes`` in order.

        Raises:
            BudgetSpentError, TargetError: as the ledger does, once nothing is under way any more; or the workers keep dying.
        """
        if len(probes) < 2 or self._ledger.kind is None:  # the first answer tells how to read all others
            return step.scored_here(probes)
        sizes = [len(part) for _ in step.terms for part in step.images.split(IMAGES_PER_REQUEST)]
        grants = [self._queries.numbered(sizes) for _ in probes]
        message = ray.put(self._message(step, probes))
        in_flight = _StepInFlight(step, probes, grants, message, unprepared=[*reversed(range(len(probes)))])
        for number, grant in enumerate(grants):
            known = self._queries.recalled(grant)
            if known is None:
                in_flight.waiting.append(number)
            else:
                in_flight.scores[number] = step.scored(_by_term(known, step))
        while len(in_flight.scores) < len(probes) and not (in_flight.failures and not self._under_way()):
            if not in_flight.failures:
                self._hand_out(in_flight)
            self._collect(in_flight)
        if in_flight.failures:
            raise in_flight.failures[min(in_flight.failures)]
        return [in_flight.scores[number] for number in range(len(probes))]

    def wait(self) -> None:
        """Until all workers are ready; a run need not, which begins with the first that is.

        Raises:
            TargetError: one is not within ``ray.timeout`` seconds.
        """
        for worker in self._workers:
            try:
                worker.pid = ray.get(worker.hello, timeout=self._config.ray.timeout)
            except (RayActorError, GetTimeoutError) as error:
                raise TargetError(f"a worker does not get ready: {_reason(error)}") from error

    def close(self) -> None:
        """Let the workers go, and Ray if it was joined here; may be called twice."""
        for worker in self._workers:
            _let_go(worker)
        self._workers = []
        if self._joined:
            self._joined = False
            ray.shutdown()

    def _started(self) -> _WorkerHandle:
        actor: Any = self._start(self._config, self._open_target)
        return _WorkerHandle(actor, actor.hello.remote())

    def _message(self, step: Step, probes: Sequence[Probe]) -> StepMessage:
        owned = torch.equal(step.images, self._owned[step.index])
        return StepMessage(
            step.number, step.seed, step.fuse.name, state_of(step.fuse), step.index, None if owned else step.images, step.labels,
            step.weights, step.terms, step.hard, probes, self._ledger.kind, self._queries.keeps_responses,
        )  # fmt: skip

    def _under_way(self) -> int:
        return sum(len(worker.calls) for worker in self._workers)

    def _hand_out(self, in_flight: _StepInFlight) -> None:
        """Give every worker that is ready a probe, and the next one to have at hand."""
        ready = [worker for worker in self._workers if worker.pid is not None]
        while in_flight.waiting and ready:
            worker = min(ready, key=lambda one: len(one.calls))
            number = _next(in_flight.waiting, worker.last if worker.message is in_flight.message else None)
            grant = in_flight.grants[number]
            at_risk = self._ledger.scheduler.at_risk or math.inf
            if worker.calls and (len(worker.calls) == _AT_HAND or (self._under_way() + 1) * grant.images > at_risk):
                break
            try:
                self._queries.reserve(grant)
            except BudgetSpentError as error:
                in_flight.failures[number] = error
                break
            if not worker.calls:
                worker.heard = time.monotonic()
            if worker.message is in_flight.message:
                call = worker.actor.score.remote(number, grant.images)
            else:
                call = worker.actor.begin.remote([in_flight.message], number, grant.images)
                worker.message = in_flight.message
            worker.calls[call] = worker.last = number
            in_flight.waiting.remove(number)

    def _collect(self, in_flight: _StepInFlight) -> None:
        """Take what has come, once something has; replace workers that died or fell silent."""
        whose = {ref: worker for worker in self._workers for ref in (*worker.calls, *([] if worker.pid else [worker.hello]))}
        patience = self._config.ray.timeout
        for ref in _come(list(whose), min(patience, _LOOK), in_flight):
            worker = whose[ref]
            if ref not in worker.calls and ref != worker.hello:
                continue  # lost with a worker that has just been replaced
            try:
                came: list[Any] | int = ray.get(ref)
            except (RayActorError, WorkerCrashedError, ObjectLostError) as error:
                self._replace(worker, _reason(error), in_flight)
                continue
            worker.heard, self._deaths = time.monotonic(), 0
            if isinstance(came, int):
                worker.pid = came
            else:
                self._take(worker, worker.calls.pop(ref), Reply(*came), in_flight)
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.calls and now - worker.heard > patience:
                self._replace(worker, f"it said nothing for {patience:g} s", in_flight)
        if not any(worker.pid for worker in self._workers) and all(now - worker.heard > patience for worker in self._workers):
            raise TargetError(
                f"no worker was ready within {patience:g} s: has Ray {self._claim['num_cpus']:g} processors and "
                f"{self._claim['num_gpus']:g} GPUs for each of `workers` {len(self._workers)}?"
            )

    def _take(self, worker: _WorkerHandle, number: int, reply: Reply, in_flight: _StepInFlight) -> None:
        """What came of probe ``number``."""
        step, probe, grant = in_flight.step, in_flight.probes[number], in_flight.grants[number]
        answers = None
        if reply.numbers is not None and (self._queries.keeps_responses or probe.per_image):
            shape = (len(step.images), self._ledger.info.classes)
            answers = unpacked(reply.numbers, [shape] * len(step.terms))
        self._queries.settle(grant, reply.images, reply.requests, answers)
        if reply.failure is not None and not reply.again:
            in_flight.failures[number] = TargetError(reply.failure)
        elif answers is not None:
            in_flight.scores[number] = step.scored(answers)
        elif reply.numbers is not None:
            shapes = [(len(step.images) if step.hard else 0,), *(p.shape for p in step.head_parameters())]
            difficulty, *gradients = unpacked(reply.numbers, shapes)
            in_flight.scores[number] = Score(reply.loss, difficulty, gradients)
        elif not reply.again:
            worker.message = None  # it had not got the step
            bisect.insort(in_flight.waiting, number)
        else:
            in_flight.refused[number] = in_flight.refused.get(number, 0) + 1
            if in_flight.refused[number] < self._config.remote.attempts:
                bisect.insort(in_flight.waiting, number)
            else:
                told = f": {reply.failure}" if reply.failure else ""
                in_flight.failures[number] = TargetError(f"workers got no answer in {in_flight.refused[number]} attempts{told}")

    def _replace(self, worker: _WorkerHandle, why: str, in_flight: _StepInFlight) -> None:
        """Hire another in place of ``worker``, whose probes wait again."""
        for number in worker.calls.values():
            self._queries.charge_lost(in_flight.grants[number])
            in_flight.lost[number] = in_flight.lost.get(number, 0) + 1
            if in_flight.lost[number] < _DEATHS:
                bisect.insort(in_flight.waiting, number)
            else:
                in_flight.failures[number] = TargetError(f"a probe was lost {_DEATHS} times with its worker, last since {why}")
        worker.calls = {}
        _let_go(worker)
        self._workers[self._workers.index(worker)] = self._started()
        self._deaths += 1
        if self._deaths > _DEATHS * len(self._workers):
            raise TargetError(f"{self._deaths} workers were lost one after the other, the last one since {why}")


def _next(waiting: Sequence[int], last: int | None) -> int:
    """Which probe goes to a worker that got ``last``: 2k and 2k + 1 are the two sides of a pair more often than not, and who has
    made one has most of the other."""
    if last is not None and _has(waiting, last ^ 1):
        return last ^ 1
    return next((number for number in waiting if _has(waiting, number ^ 1)), waiting[0])


def _has(waiting: Sequence[int], number: int) -> bool:
    place = bisect.bisect_left(waiting, number)
    return place < len(waiting) and waiting[place] == number


def _come(refs: list[Any], patience: float, in_flight: _StepInFlight) -> list[Any]:
    """Those that are there, once some are or ``patience`` seconds are over; until then the driver makes what it will want."""
    if not refs:
        return []
    while not (done := ray.wait(refs, num_returns=len(refs), timeout=0)[0]) and in_flight.unprepared:
        in_flight.probes[in_flight.unprepared.pop()].prepare(in_flight.step)
    return done or ray.wait(refs, timeout=patience)[0]


def _reason(error: Exception) -> str:
    """The last line that Ray has to say."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]


def _let_go(worker: _WorkerHandle) -> None:
    with contextlib.suppress(Exception):  # it may be gone already, or Ray with it
        ray.kill(worker.actor)


def _by_term(answers: Sequence[Tensor], step: Step) -> list[Tensor]:
    """The answers (n, classes) of each term, from those of its requests."""
    each = len(answers) // len(step.terms)
    return [torch.cat(list(answers[first : first + each])) for first in range(0, len(answers), each)]


def _join(config: RunConfig) -> None:
    """Start a Ray of our own on this machine, or join the one at ``--ray.address``."""
    address = config.ray.address
    started: dict[str, Any] = {
        "num_cpus": max(os.cpu_count() or 1, math.ceil(config.workers * (config.ray.cpus or config.threads))),
        "object_store_memory": _OBJECT_STORE, "include_dashboard": False,
    }  # fmt: skip
    try:
        if address not in ("local", "auto"):  # Ray itself takes minutes to find nobody there
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(started if address == "local" else {}))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"`ray.address` {address} cannot be reached: {' '.join(str(error).split())[:200]}") from error
    gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    if address == "local" and gpus < (config.ray.gpus or 0):  # a cluster may grow
        ray.shutdown()
        raise InputError(f"`ray.gpus` {config.ray.gpus:g} cannot be met: Ray finds {gpus:g} GPUs on this machine, drop it")
