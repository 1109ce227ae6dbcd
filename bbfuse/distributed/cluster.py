"""Probes scored by Ray workers, on this machine or a cluster; the results do not depend on the number of workers.

A step is put into Ray's object store once and fetched once per node. Then a worker receives the number of a probe and returns its
score; meanwhile the driver computes what it needs of the probes itself.

The unit of work is one probe: neither the queries nor the order of sums depends on the number of workers. The ledger of the run
reserves the images of a probe before they are sent. A worker that dies, or sends no message for ``ray.timeout`` seconds, is
replaced: its requests in flight are charged, and its probes are scored again.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, WorkerCrashedError
from torch import Tensor

from backends.base import TargetError
from backends.kinds.base import BACKENDS
from bbfuse.config.schema import RunConfig
from bbfuse.distributed.order import next_probe
from bbfuse.distributed.session import join, reason_of
from bbfuse.distributed.worker import OpenTarget, Reply, StepMessage, Worker, open_target, state_of, unpacked
from bbfuse.objective.step import Probe, Score, Step
from bbfuse.querying.budget import BudgetSpentError
from bbfuse.querying.ledger import Ledger
from bbfuse.querying.reservation import Reservation, WorkerQueries
from bbfuse.querying.scheduling import IMAGES_PER_REQUEST

__all__ = ["Cluster"]

_PROBES_PER_WORKER = 2  # the one that it scores, and the next
_DEATHS = 3  # workers lost with the same probe, or per worker without any reply in between, before the run fails
_POLL = 1.0  # seconds between checks for workers that do not reply
_WAITING = 0.05  # CPUs of a worker that waits for a server most of the time


@dataclass(eq=False)
class _WorkerHandle:
    """The driver's record of a worker."""

    actor: Any
    hello: ray.ObjectRef[int]
    pid: int | None = None
    """Its process, once it is ready."""
    message: ray.ObjectRef[StepMessage] | None = None
    calls: dict[ray.ObjectRef[list[Any]], int] = field(default_factory=dict)
    """Numbers of the probes that it was given."""
    last: int | None = None
    """The probe that it was given last."""
    heard: float = field(default_factory=time.monotonic)
    """When it last replied, or was given a probe while idle."""


@dataclass(eq=False)
class _StepInFlight:
    """The probes of one step and their state."""

    step: Step
    probes: Sequence[Probe]
    reservations: list[Reservation]
    message: ray.ObjectRef[StepMessage]
    scores: dict[int, Score] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    """Numbers of the probes that no worker has, in order."""
    unprepared: list[int] = field(default_factory=list)
    """Numbers of the probes that the driver has not prepared yet, in reverse order."""
    refused: dict[int, int] = field(default_factory=dict)
    """How often the target sent no response to a probe."""
    lost: dict[int, int] = field(default_factory=dict)
    """How often a probe was lost with its worker."""
    failures: dict[int, Exception] = field(default_factory=dict)
    """Why the step cannot continue, by number of the probe."""


class Cluster:
    """``config.workers`` workers; the `bbfuse.objective.step.Scorer` of a run."""

    def __init__(self, config: RunConfig, ledger: Ledger, owned: Tensor, open_target: OpenTarget = open_target) -> None:
        """Connect to Ray or start it, and start the workers; each opens its backend and the owned images by ``open_target``.

        ``owned`` are the owned images of the driver.

        Raises:
            InputError: there is no Ray at ``config.ray.address``.
        """
        rate = config.remote.requests_per_second
        if rate is not None:  # for all workers together
            config = config.replaced(remote=dataclasses.replace(config.remote, requests_per_second=rate / config.workers))
        self._config = config
        self._ledger = ledger
        self._queries = WorkerQueries(ledger)
        self._owned = owned
        self._open_target = open_target
        self._joined = not ray.is_initialized()
        if self._joined:
            join(config)
        cpus = config.ray.cpus or (_WAITING if BACKENDS[config.backend].over_network else config.threads)
        self._claim = {"num_cpus": cpus, "num_gpus": config.ray.gpus or 0}
        self._start = ray.remote(Worker).options(**self._claim, max_restarts=0).remote
        self._workers = [self._started() for _ in range(config.workers)]
        self._deaths = 0

    def __call__(self, step: Step, probes: Sequence[Probe]) -> list[Score | None]:
        """The scores of ``probes`` in order.

        Raises:
            BudgetSpentError, TargetError: as the ledger does, once no request is in flight any more; or the workers keep dying.
        """
        if len(probes) < 2 or self._ledger.kind is None:  # the first response shows how to read all others
            return step.scored_here(probes)
        sizes = [len(part) for _ in step.terms for part in step.images.split(IMAGES_PER_REQUEST)]
        reservations = [self._queries.numbered(sizes) for _ in probes]
        message = ray.put(self._message(step, probes))
        in_flight = _StepInFlight(step, probes, reservations, message, unprepared=[*reversed(range(len(probes)))])
        for number, reservation in enumerate(reservations):
            known = self._queries.recalled(reservation)
            if known is None:
                in_flight.waiting.append(number)
            else:
                in_flight.scores[number] = step.scored(_by_term(known, step))
        while len(in_flight.scores) < len(probes) and not (in_flight.failures and not self._probes_in_flight()):
            if not in_flight.failures:
                self._assign(in_flight)
            self._collect(in_flight)
        if in_flight.failures:
            raise in_flight.failures[min(in_flight.failures)]
        return [in_flight.scores[number] for number in range(len(probes))]

    def wait(self) -> None:
        """Wait until all workers are ready; a run does not need it, it begins with the first worker.

        Raises:
            TargetError: a worker is not ready within ``ray.timeout`` seconds.
        """
        for worker in self._workers:
            try:
                worker.pid = ray.get(worker.hello, timeout=self._config.ray.timeout)
            except (RayActorError, GetTimeoutError) as error:
                raise TargetError(f"a worker did not start: {reason_of(error)}") from error

    def close(self) -> None:
        """Stop the workers, and disconnect from Ray if this object connected; may be called twice."""
        for worker in self._workers:
            _stop(worker)
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

    def _probes_in_flight(self) -> int:
        return sum(len(worker.calls) for worker in self._workers)

    def _assign(self, in_flight: _StepInFlight) -> None:
        """Give every worker that is ready a probe, and the next one in advance."""
        ready = [worker for worker in self._workers if worker.pid is not None]
        while in_flight.waiting and ready:
            worker = min(ready, key=lambda one: len(one.calls))
            number = next_probe(in_flight.waiting, worker.last if worker.message is in_flight.message else None)
            reservation = in_flight.reservations[number]
            at_risk = self._ledger.scheduler.at_risk or math.inf
            if worker.calls and (
                len(worker.calls) == _PROBES_PER_WORKER or (self._probes_in_flight() + 1) * reservation.images > at_risk
            ):
                break
            try:
                self._queries.reserve(reservation)
            except BudgetSpentError as error:
                in_flight.failures[number] = error
                break
            if not worker.calls:
                worker.heard = time.monotonic()
            if worker.message is in_flight.message:
                call = worker.actor.score.remote(number, reservation.images)
            else:
                call = worker.actor.begin.remote([in_flight.message], number, reservation.images)
                worker.message = in_flight.message
            worker.calls[call] = worker.last = number
            in_flight.waiting.remove(number)

    def _collect(self, in_flight: _StepInFlight) -> None:
        """Wait for replies and take them; replace workers that died or do not reply."""
        owner = {ref: worker for worker in self._workers for ref in (*worker.calls, *([] if worker.pid else [worker.hello]))}
        timeout = self._config.ray.timeout
        for ref in _arrived(list(owner), min(timeout, _POLL), in_flight):
            worker = owner[ref]
            if ref not in worker.calls and ref != worker.hello:
                continue  # lost with a worker that has just been replaced
            try:
                result: list[Any] | int = ray.get(ref)
            except (RayActorError, WorkerCrashedError, ObjectLostError) as error:
                self._replace(worker, reason_of(error), in_flight)
                continue
            worker.heard, self._deaths = time.monotonic(), 0
            if isinstance(result, int):
                worker.pid = result
            else:
                self._take(worker, worker.calls.pop(ref), Reply(*result), in_flight)
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.calls and now - worker.heard > timeout:
                self._replace(worker, f"it sent no message for {timeout:g} s", in_flight)
        if not any(worker.pid for worker in self._workers) and all(now - worker.heard > timeout for worker in self._workers):
            raise TargetError(
                f"no worker was ready within {timeout:g} s: Ray needs {self._claim['num_cpus']:g} CPUs and "
                f"{self._claim['num_gpus']:g} GPUs for each of `workers` {len(self._workers)}"
            )

    def _take(self, worker: _WorkerHandle, number: int, reply: Reply, in_flight: _StepInFlight) -> None:
        """Process the reply to probe ``number``."""
        step, probe, reservation = in_flight.step, in_flight.probes[number], in_flight.reservations[number]
        responses = None
        if reply.numbers is not None and (self._queries.keeps_responses or probe.per_image):
            shape = (len(step.images), self._ledger.info.classes)
            responses = unpacked(reply.numbers, [shape] * len(step.terms))
        self._queries.settle(reservation, reply.images, reply.requests, responses)
        if reply.failure is not None and not reply.again:
            in_flight.failures[number] = TargetError(reply.failure)
        elif responses is not None:
            in_flight.scores[number] = step.scored(responses)
        elif reply.numbers is not None:
            shapes = [(len(step.images) if step.hard else 0,), *(p.shape for p in step.head_parameters())]
            difficulty, *gradients = unpacked(reply.numbers, shapes)
            in_flight.scores[number] = Score(reply.loss, difficulty, gradients)
        elif not reply.again:
            worker.message = None  # it did not receive the step
            bisect.insort(in_flight.waiting, number)
        else:
            in_flight.refused[number] = in_flight.refused.get(number, 0) + 1
            if in_flight.refused[number] < self._config.remote.attempts:
                bisect.insort(in_flight.waiting, number)
            else:
                reason = f": {reply.failure}" if reply.failure else ""
                in_flight.failures[number] = TargetError(
                    f"workers got no response in {in_flight.refused[number]} attempts{reason}"
                )

    def _replace(self, worker: _WorkerHandle, why: str, in_flight: _StepInFlight) -> None:
        """Start another worker in place of ``worker``; its probes wait again."""
        for number in worker.calls.values():
            self._queries.charge_lost(in_flight.reservations[number])
            in_flight.lost[number] = in_flight.lost.get(number, 0) + 1
            if in_flight.lost[number] < _DEATHS:
                bisect.insort(in_flight.waiting, number)
            else:
                in_flight.failures[number] = TargetError(
                    f"a probe was lost {_DEATHS} times with its worker, the last time because {why}"
                )
        worker.calls = {}
        _stop(worker)
        self._workers[self._workers.index(worker)] = self._started()
        self._deaths += 1
        if self._deaths > _DEATHS * len(self._workers):
            raise TargetError(f"{self._deaths} workers were lost in a row, the last one because {why}")


def _arrived(refs: list[Any], timeout: float, in_flight: _StepInFlight) -> list[Any]:
    """The results that have arrived, after ``timeout`` seconds at most; until then the driver prepares probes."""
    if not refs:
        return []
    while not (done := ray.wait(refs, num_returns=len(refs), timeout=0)[0]) and in_flight.unprepared:
        in_flight.probes[in_flight.unprepared.pop()].prepare(in_flight.step)
    return done or ray.wait(refs, timeout=timeout)[0]


def _stop(worker: _WorkerHandle) -> None:
    with contextlib.suppress(Exception):  # the worker or Ray may have stopped already
        ray.kill(worker.actor)


def _by_term(responses: Sequence[Tensor], step: Step) -> list[Tensor]:
    """The responses (n, classes) for each term, from those of its requests."""
    each = len(responses) // len(step.terms)
    return [torch.cat(list(responses[first : first + each])) for first in range(0, len(responses), each)]
