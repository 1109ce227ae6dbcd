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
from bbfuse.distributed.worker import Opened, Reply, Scene, Worker, opened, state_of, unpacked
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
class _Hand:
    """A worker as the driver knows it."""

    actor: Any
    hello: ray.ObjectRef[int]
    pid: int | None = None
    """Once it is ready."""
    scene: ray.ObjectRef[Scene] | None = None
    calls: dict[ray.ObjectRef[list[Any]], int] = field(default_factory=dict)
    """Numbers of the probes that it has."""
    last: int | None = None
    """The one that it got last."""
    heard: float = field(default_factory=time.monotonic)
    """When it last answered, or got something to do."""


@dataclass(eq=False)
class _Round:
    """The probes of one step, on their way."""

    step: Step
    probes: Sequence[Probe]
    grants: list[Reservation]
    scene: ray.ObjectRef[Scene]
    scores: dict[int, Score] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    """Numbers of the probes that nobody has, in order."""
    ahead: list[int] = field(default_factory=list)
    """Numbers of the probes that the driver has made nothing of yet, the first one last."""
    refused: dict[int, int] = field(default_factory=dict)
    """How often the target gave no answer to a probe."""
    lost: dict[int, int] = field(default_factory=dict)
    """How often a probe was lost with its worker."""
    failures: dict[int, Exception] = field(default_factory=dict)
    """Why the step cannot go on, by probes."""


class Cluster:
    """``config.workers`` workers; the `bbfuse.objective.step.Scorer` of a run."""

    def __init__(self, config: RunConfig, ledger: Ledger, owned: Tensor, opened: Opened = opened) -> None:
        """Find or start Ray and hire the workers, which get ready while the run begins, by what ``opened`` gives them.

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
        self._opened = opened
        self._joined = not ray.is_initialized()
        if self._joined:
            _join(config)
        cpus = config.ray.cpus or (_WAITING if BACKENDS[config.backend].over_network else config.threads)
        self._claim = {"num_cpus": cpus, "num_gpus": config.ray.gpus or 0}
        self._hire = ray.remote(Worker).options(**self._claim, max_restarts=0).remote
        self._hands = [self._hired() for _ in range(config.workers)]
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
        scene = ray.put(self._scene(step, probes))
        on_way = _Round(step, probes, grants, scene, ahead=[*reversed(range(len(probes)))])
        for number, grant in enumerate(grants):
            known = self._queries.recalled(grant)
            if known is None:
                on_way.waiting.append(number)
            else:
                on_way.scores[number] = step.scored(_by_term(known, step))
        while len(on_way.scores) < len(probes) and not (on_way.failures and not self._under_way()):
            if not on_way.failures:
                self._hand_out(on_way)
            self._collect(on_way)
        if on_way.failures:
            raise on_way.failures[min(on_way.failures)]
        return [on_way.scores[number] for number in range(len(probes))]

    def wait(self) -> None:
        """Until all workers are ready; a run need not, which begins with the first that is.

        Raises:
            TargetError: one is not within ``ray.timeout`` seconds.
        """
        for hand in self._hands:
            try:
                hand.pid = ray.get(hand.hello, timeout=self._config.ray.timeout)
            except (RayActorError, GetTimeoutError) as error:
                raise TargetError(f"a worker does not get ready: {_reason(error)}") from error

    def close(self) -> None:
        """Let the workers go, and Ray if it was joined here; may be called twice."""
        for hand in self._hands:
            _let_go(hand)
        self._hands = []
        if self._joined:
            self._joined = False
            ray.shutdown()

    def _hired(self) -> _Hand:
        actor: Any = self._hire(self._config, self._opened)
        return _Hand(actor, actor.hello.remote())

    def _scene(self, step: Step, probes: Sequence[Probe]) -> Scene:
        owned = torch.equal(step.images, self._owned[step.index])
        return Scene(
            step.number, step.seed, step.fuse.name, state_of(step.fuse), step.index, None if owned else step.images, step.labels,
            step.weights, step.terms, step.hard, probes, self._ledger.kind, self._queries.keeps_responses,
        )  # fmt: skip

    def _under_way(self) -> int:
        return sum(len(hand.calls) for hand in self._hands)

    def _hand_out(self, on_way: _Round) -> None:
        """Give every worker that is ready a probe, and the next one to have at hand."""
        ready = [hand for hand in self._hands if hand.pid is not None]
        while on_way.waiting and ready:
            hand = min(ready, key=lambda one: len(one.calls))
            number = _next(on_way.waiting, hand.last if hand.scene is on_way.scene else None)
            grant = on_way.grants[number]
            at_risk = self._ledger.scheduler.at_risk or math.inf
            if hand.calls and (len(hand.calls) == _AT_HAND or (self._under_way() + 1) * grant.images > at_risk):
                break
            try:
                self._queries.reserve(grant)
            except BudgetSpentError as error:
                on_way.failures[number] = error
                break
            if not hand.calls:
                hand.heard = time.monotonic()
            if hand.scene is on_way.scene:
                call = hand.actor.score.remote(number, grant.images)
            else:
                call = hand.actor.begin.remote([on_way.scene], number, grant.images)
                hand.scene = on_way.scene
            hand.calls[call] = hand.last = number
            on_way.waiting.remove(number)

    def _collect(self, on_way: _Round) -> None:
        """Take what has come, once something has; replace workers that died or fell silent."""
        whose = {ref: hand for hand in self._hands for ref in (*hand.calls, *([] if hand.pid else [hand.hello]))}
        patience = self._config.ray.timeout
        for ref in _come(list(whose), min(patience, _LOOK), on_way):
            hand = whose[ref]
            if ref not in hand.calls and ref != hand.hello:
                continue  # lost with a worker that has just been replaced
            try:
                came: list[Any] | int = ray.get(ref)
            except (RayActorError, WorkerCrashedError, ObjectLostError) as error:
                self._replace(hand, _reason(error), on_way)
                continue
            hand.heard, self._deaths = time.monotonic(), 0
            if isinstance(came, int):
                hand.pid = came
            else:
                self._take(hand, hand.calls.pop(ref), Reply(*came), on_way)
        now = time.monotonic()
        for hand in list(self._hands):
            if hand.calls and now - hand.heard > patience:
                self._replace(hand, f"it said nothing for {patience:g} s", on_way)
        if not any(hand.pid for hand in self._hands) and all(now - hand.heard > patience for hand in self._hands):
            raise TargetError(
                f"no worker was ready within {patience:g} s: has Ray {self._claim['num_cpus']:g} processors and "
                f"{self._claim['num_gpus']:g} GPUs for each of `workers` {len(self._hands)}?"
            )

    def _take(self, hand: _Hand, number: int, reply: Reply, on_way: _Round) -> None:
        """What came of probe ``number``."""
        step, probe, grant = on_way.step, on_way.probes[number], on_way.grants[number]
        answers = None
        if reply.numbers is not None and (self._queries.keeps_responses or probe.by_image):
            shape = (len(step.images), self._ledger.info.classes)
            answers = unpacked(reply.numbers, [shape] * len(step.terms))
        self._queries.settle(grant, reply.images, reply.requests, answers)
        if reply.failure is not None and not reply.again:
            on_way.failures[number] = TargetError(reply.failure)
        elif answers is not None:
            on_way.scores[number] = step.scored(answers)
        elif reply.numbers is not None:
            shapes = [(len(step.images) if step.hard else 0,), *(p.shape for p in step.head_parameters())]
            difficulty, *gradients = unpacked(reply.numbers, shapes)
            on_way.scores[number] = Score(reply.loss, difficulty, gradients)
        elif not reply.again:
            hand.scene = None  # it had not got the step
            bisect.insort(on_way.waiting, number)
        else:
            on_way.refused[number] = on_way.refused.get(number, 0) + 1
            if on_way.refused[number] < self._config.remote.attempts:
                bisect.insort(on_way.waiting, number)
            else:
                told = f": {reply.failure}" if reply.failure else ""
                on_way.failures[number] = TargetError(f"workers got no answer in {on_way.refused[number]} attempts{told}")

    def _replace(self, hand: _Hand, why: str, on_way: _Round) -> None:
        """Hire another in place of ``hand``, whose probes wait again."""
        for number in hand.calls.values():
            self._queries.charge_lost(on_way.grants[number])
            on_way.lost[number] = on_way.lost.get(number, 0) + 1
            if on_way.lost[number] < _DEATHS:
                bisect.insort(on_way.waiting, number)
            else:
                on_way.failures[number] = TargetError(f"a probe was lost {_DEATHS} times with its worker, last since {why}")
        hand.calls = {}
        _let_go(hand)
        self._hands[self._hands.index(hand)] = self._hired()
        self._deaths += 1
        if self._deaths > _DEATHS * len(self._hands):
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


def _come(refs: list[Any], patience: float, on_way: _Round) -> list[Any]:
    """Those that are there, once some are or ``patience`` seconds are over; until then the driver makes what it will want."""
    if not refs:
        return []
    while not (done := ray.wait(refs, num_returns=len(refs), timeout=0)[0]) and on_way.ahead:
        on_way.probes[on_way.ahead.pop()].ahead(on_way.step)
    return done or ray.wait(refs, timeout=patience)[0]


def _reason(error: Exception) -> str:
    """The last line that Ray has to say."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]


def _let_go(hand: _Hand) -> None:
    with contextlib.suppress(Exception):  # it may be gone already, or Ray with it
        ray.kill(hand.actor)


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
