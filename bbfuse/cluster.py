"""Probes scored by workers of Ray, on this machine or a cluster: numbers go out and come back, and the run is the same run.

Every worker holds the target (or a session with its server), the owned images and, a step at a time, the fuse: a step is put into
Ray's object store once and fetched once a node. Then a worker is told the number of a probe and sends back what came of it.

The unit is one probe: neither what is asked nor how it is summed depends on how many workers there are. The ledger of the run
grants a probe's images before they are sent. A worker that dies, or says nothing for ``--ray.timeout`` seconds, is replaced: what
it had been granted counts as sent and lost, and its probes are scored again.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, WorkerCrashedError
from torch import Tensor

from backends.interface import Backend, InputError, TargetError
from bbfuse.build import open_backend, owned_data
from bbfuse.config import RunConfig
from bbfuse.fuse import Fuse
from bbfuse.ledger import IMAGES_PER_REQUEST, BudgetSpentError, Grant, Ledger
from bbfuse.objective import Step, Term
from bbfuse.scoring import Probe, Score

__all__ = ["Cluster", "Opened", "Reply", "Scene", "Worker", "opened", "packed", "unpacked"]

_OBJECT_STORE = 256 << 20  # bytes, of the Ray that is started here: some steps of the largest fuse
_AT_HAND = 2  # probes that a worker has: one that it scores, and the next
_DEATHS = 3  # with one probe, or of a worker and its successors without an answer, before it is the run that has failed
_LOOK = 1.0  # seconds between looks for workers that have fallen silent
_CONNECT = 10.0  # seconds for a cluster to take a connection
_WAITING = 0.05  # processors of a worker that waits for a server most of the time


@dataclass(frozen=True)
class Scene:
    """A step as it travels: all that its probes are functions of."""

    number: int
    seed: int
    fuse: Fuse
    index: Tensor
    images: Tensor | None
    """``None`` if they are the owned ones as they are, which a worker has."""
    labels: Tensor
    weights: Tensor
    terms: list[Term]
    hard: bool
    probes: Sequence[Probe]
    kind: str | None
    """What the target answers with, see `Ledger.kind`."""
    whole: bool
    """Whether all answers come back and are scored by the driver, which keeps them."""


@dataclass(frozen=True)
class Reply:
    """What came of one probe, and of the images and requests that it took."""

    images: int
    requests: int
    loss: float = 0.0
    numbers: bytes | None = None
    """Float32: the answers (t, n, classes); or each image's difficulty (n,), if wanted, and the heads' gradients. ``None`` if a
    request has to be sent again, which takes another grant."""
    failure: str | None = None
    """Why the target has failed."""

    def __reduce__(self) -> tuple[Any, ...]:  # a tenth of the bytes of a pickled dictionary
        return Reply, (self.images, self.requests, self.loss, self.numbers, self.failure)


Opened = Callable[[RunConfig, ExitStack], tuple[Backend, Tensor]]
"""What a worker holds: who answers, and the owned images (owned, channels, height, width)."""


def opened(config: RunConfig, stack: ExitStack) -> tuple[Backend, Tensor]:
    """What a run with ``config`` has; ``stack`` closes it."""
    return open_backend(config, lambda _: None, stack), owned_data(config).train.images


class Worker:
    """What runs in a process of Ray: a step's probes, one at a time."""

    def __init__(self, config: RunConfig, opened: Opened) -> None:
        torch.set_num_threads(config.threads)
        self._stack = ExitStack()
        backend, self._owned = opened(config, self._stack)
        self._ledger = Ledger(backend, limit=0)
        self._scene: Scene | None = None

    def hello(self) -> int:
        """It is ready; its process."""
        return os.getpid()

    def begin(self, held: list[ray.ObjectRef[Scene]]) -> None:
        """The step that the next numbers are about."""
        self._scene = None
        scene = ray.get(held[0])
        self._scene, self._ledger.kind = scene, scene.kind
        self._step = Step(
            scene.number, scene.seed, scene.fuse, scene.index,
            self._owned[scene.index] if scene.images is None else scene.images, scene.labels, scene.weights, scene.terms,
            self._ledger.ask, self._ledger.ask_with_tape, self._ledger.seen, hard=scene.hard,
        )  # fmt: skip

    def score(self, number: int, granted: int) -> Reply:
        """Probe ``number`` of the step, for which at most ``granted`` images may be sent."""
        if self._scene is None:
            return Reply(0, 0)
        ledger, probe = self._ledger, self._scene.probes[number]
        images, requests = ledger.images, ledger.requests
        ledger.limit = images + granted
        loss, numbers, failure = 0.0, None, None
        try:
            if self._scene.whole or probe.by_image:
                numbers = packed(self._step.answers([probe])[0])
            else:
                (score,) = self._step.scored_here([probe])
                assert score is not None
                loss, numbers = score.loss, packed([score.difficulty, *score.gradients])
        except BudgetSpentError:
            pass  # to be sent again with another grant
        except TargetError as error:
            failure = str(error)
        return Reply(ledger.images - images, ledger.requests - requests, loss, numbers, failure)


def packed(tensors: Sequence[Tensor]) -> bytes:
    """All float32 numbers of ``tensors``."""
    return torch.cat([tensor.flatten() for tensor in tensors]).numpy().tobytes()


def unpacked(numbers: bytes, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The tensors of these shapes that were `packed`."""
    flat = torch.from_numpy(np.frombuffer(numbers, np.float32).copy())
    parts = flat.split([int(np.prod(shape)) for shape in shapes])
    return [part.view(*shape) for part, shape in zip(parts, shapes, strict=True)]


@dataclass(eq=False)
class _Hand:
    """A worker as the driver knows it."""

    actor: Any
    hello: ray.ObjectRef[int]
    pid: int | None = None
    """Once it is ready."""
    scene: ray.ObjectRef[Scene] | None = None
    calls: dict[ray.ObjectRef[Reply], int] = field(default_factory=dict)
    """Numbers of the probes that it has."""
    heard: float = field(default_factory=time.monotonic)
    """When it last answered, or got something to do."""


@dataclass(eq=False)
class _Round:
    """The probes of one step, on their way."""

    step: Step
    probes: Sequence[Probe]
    grants: list[Grant]
    scene: ray.ObjectRef[Scene]
    scores: dict[int, Score] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    """Numbers of the probes that nobody has, in order."""
    refused: dict[int, int] = field(default_factory=dict)
    """How often the target gave no answer to a probe."""
    lost: dict[int, int] = field(default_factory=dict)
    """How often a probe was lost with its worker."""
    failures: dict[int, Exception] = field(default_factory=dict)
    """Why the step cannot go on, by probes."""


class Cluster:
    """``config.workers`` workers; the `bbfuse.scoring.Scorer` of a run."""

    def __init__(self, config: RunConfig, ledger: Ledger, owned: Tensor, opened: Opened = opened) -> None:
        """Find or start Ray and hire the workers, which get ready while the run begins, by what ``opened`` gives them.

        ``owned`` images are those that they have, too.

        Raises:
            InputError: there is no Ray at ``config.ray.address``.
        """
        rate = config.remote.requests_per_second
        if rate is not None:  # all of them together
            config = replace(config, remote=replace(config.remote, requests_per_second=rate / config.workers))
        self._config = config
        self._ledger = ledger
        self._owned = owned
        self._opened = opened
        self._joined = not ray.is_initialized()
        if self._joined:
            _join(config)
        cpus = config.ray.cpus or (_WAITING if config.backend == "remote" else config.threads)
        self._hire = ray.remote(Worker).options(num_cpus=cpus, max_restarts=0).remote
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
        grants = [self._ledger.granted(sizes) for _ in probes]
        scene = ray.put(self._scene(step, probes))
        on_way = _Round(step, probes, grants, scene)
        for number, grant in enumerate(grants):
            known = self._ledger.recalled(grant)
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
            TargetError: one is not within ``--ray.timeout`` seconds.
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
            step.number, step.seed, copy.deepcopy(step.fuse), step.index, None if owned else step.images,
            step.labels, step.weights, step.terms, step.hard, probes, self._ledger.kind, self._ledger.keeps,
        )  # fmt: skip

    def _under_way(self) -> int:
        return sum(len(hand.calls) for hand in self._hands)

    def _hand_out(self, on_way: _Round) -> None:
        """Give every worker that is ready a probe, and the next one to have at hand."""
        ready = [hand for hand in self._hands if hand.pid is not None]
        while on_way.waiting and ready:
            hand, number = min(ready, key=lambda one: len(one.calls)), on_way.waiting[0]
            grant = on_way.grants[number]
            at_risk = self._ledger.at_risk or math.inf
            if hand.calls and (len(hand.calls) == _AT_HAND or (self._under_way() + 1) * grant.images > at_risk):
                break
            try:
                self._ledger.reserve(grant)
            except BudgetSpentError as error:
                on_way.failures[number] = error
                break
            if hand.scene is not on_way.scene:
                hand.scene = on_way.scene
                hand.actor.begin.remote([on_way.scene])
            if not hand.calls:
                hand.heard = time.monotonic()
            hand.calls[hand.actor.score.remote(number, grant.images)] = on_way.waiting.pop(0)

    def _collect(self, on_way: _Round) -> None:
        """Take what has come, once something has; replace workers that died or fell silent."""
        whose = {ref: hand for hand in self._hands for ref in (*hand.calls, *([] if hand.pid else [hand.hello]))}
        patience = self._config.ray.timeout
        done, _ = ray.wait(list(whose), timeout=min(patience, _LOOK)) if whose else ([], [])
        for ref in done:
            hand = whose[ref]
            try:
                came: Reply | int = ray.get(ref)
            except (RayActorError, WorkerCrashedError, ObjectLostError) as error:
                self._replace(hand, _reason(error), on_way)
                continue
            hand.heard, self._deaths = time.monotonic(), 0
            if isinstance(came, Reply):
                self._take(hand, hand.calls.pop(ref), came, on_way)
            else:
                hand.pid = came
        now = time.monotonic()
        for hand in list(self._hands):
            if hand.calls and now - hand.heard > patience:
                self._replace(hand, f"it said nothing for {patience:g} s", on_way)
        if not any(hand.pid for hand in self._hands) and all(now - hand.heard > patience for hand in self._hands):
            raise TargetError(
                f"no worker was ready within {patience:g} s: has Ray the processors for --workers {len(self._hands)}?"
            )

    def _take(self, hand: _Hand, number: int, reply: Reply, on_way: _Round) -> None:
        """What came of probe ``number``."""
        step, probe, grant = on_way.step, on_way.probes[number], on_way.grants[number]
        answers = None
        if reply.numbers is not None and (self._ledger.keeps or probe.by_image):
            shape = (len(step.images), self._ledger.info.classes)
            answers = unpacked(reply.numbers, [shape] * len(step.terms))
        self._ledger.settle(grant, reply.images, reply.requests, answers)
        if reply.failure is not None:
            on_way.failures[number] = TargetError(reply.failure)
        elif answers is not None:
            on_way.scores[number] = step.scored(answers)
        elif reply.numbers is not None:
            shapes = [(len(step.images) if step.hard else 0,), *(p.shape for p in step.head_parameters())]
            difficulty, *gradients = unpacked(reply.numbers, shapes)
            on_way.scores[number] = Score(reply.loss, difficulty, gradients)
        elif not reply.images:
            hand.scene = None  # it had not got the step
            bisect.insort(on_way.waiting, number)
        else:
            on_way.refused[number] = on_way.refused.get(number, 0) + 1
            if on_way.refused[number] < self._config.remote.attempts:
                bisect.insort(on_way.waiting, number)
            else:
                on_way.failures[number] = TargetError(f"workers got no answer in {on_way.refused[number]} attempts")

    def _replace(self, hand: _Hand, why: str, on_way: _Round) -> None:
        """Hire another in place of ``hand``, whose probes wait again."""
        for number in hand.calls.values():
            self._ledger.lose(on_way.grants[number])
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
        raise InputError(f"--ray.address {address} cannot be reached: {' '.join(str(error).split())[:200]}") from error
