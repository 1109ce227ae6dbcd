"""A worker of `bbfuse.distributed.cluster`: the code that runs in a Ray process, and the messages to it and back.

It holds the backend, the owned images and, for one step at a time, the fuse. It receives the number of a probe and returns the
score.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from torch import Tensor

from backends.base import Backend, TargetError
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.module import Fuse
from bbfuse.objective.eopm import Term
from bbfuse.objective.step import Probe, Step
from bbfuse.opening import open_backend, owned_data
from bbfuse.querying.budget import BudgetSpentError
from bbfuse.querying.ledger import Ledger

__all__ = ["OpenTarget", "Reply", "StepMessage", "Worker", "open_target", "packed", "unpacked"]


@dataclass(frozen=True)
class StepMessage:
    """A step as it is sent to workers: everything that its probes depend on."""

    number: int
    seed: int
    fuse: str
    """Its generators, see `Fuse.name`."""
    state: Tensor
    """Parameters and statistics of the fuse, see `state_of`."""
    index: Tensor
    images: Tensor | None
    """``None`` if they are owned images without augmentation, which the workers have."""
    labels: Tensor
    weights: Tensor
    terms: list[Term]
    hard: bool
    probes: Sequence[Probe]
    kind: str | None
    """What the target responds with, see `Ledger.kind`."""
    whole: bool
    """Whether all responses are returned to the driver, which records and scores them."""

    def __reduce__(self) -> tuple[Any, ...]:  # arrays are not copied; pickling tensors takes milliseconds
        return _received, tuple(value.numpy() if isinstance(value, Tensor) else value for value in vars(self).values())


def _received(*values: Any) -> StepMessage:
    there: list[Any] = [torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value for value in values]
    return StepMessage(*there)


def state_of(fuse: Fuse) -> Tensor:
    """All parameters and statistics (float32) that the output of ``fuse`` depends on, as one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in _tensors(fuse)])


def _tensors(fuse: Fuse) -> list[Tensor]:
    return [*fuse.parameters(), *(buffer for buffer in fuse.buffers() if buffer.is_floating_point())]


@dataclass(frozen=True)
class Reply:
    """The result of one probe, and the images and requests that it took."""

    images: int
    requests: int
    loss: float = 0.0
    numbers: bytes | None = None
    """Float32: the responses (t, n, classes); or each image's difficulty (n,), if needed, and the heads' gradients. ``None`` if a
    request has to be sent again, which needs another reservation."""
    failure: str | None = None
    """Why the target failed; or with ``again``, why there was no response yet."""
    again: bool = False
    """Whether a request has to be sent again."""

    def plain(self) -> list[Any]:
        """The message as it is sent: a list of plain values needs no pickling, which takes a tenth of the bytes and less time."""
        return list(vars(self).values())


OpenTarget = Callable[[RunConfig, ExitStack], tuple[Backend, Tensor]]
"""Opens what a worker holds: the backend and the owned images (owned, channels, height, width)."""


def open_target(config: RunConfig, stack: ExitStack) -> tuple[Backend, Tensor]:
    """The backend and the owned images of a run with ``config``; ``stack`` closes them."""
    return open_backend(config, lambda _: None, stack), owned_data(config).train.images


class Worker:
    """Scores the probes of a step, one at a time."""

    def __init__(self, config: RunConfig, open_target: OpenTarget) -> None:
        torch.set_num_threads(config.threads)
        self._config = config  # holds the objects that its names stand for
        self._stack = ExitStack()
        backend, self._owned = open_target(config, self._stack)
        self._ledger = Ledger(backend, limit=0)
        self._message: StepMessage | None = None
        self._fuse: Fuse | None = None

    def hello(self) -> int:
        """Called once to see that the worker is ready; its process id."""
        return os.getpid()

    def begin(self, held: list[ray.ObjectRef[StepMessage]], number: int, reserved: int) -> list[Any]:
        """Take the step that this probe and the next ones belong to; then as `score`."""
        self._message = None
        try:
            message = ray.get(held[0])
        except RayError:
            return Reply(0, 0).plain()
        self._message, self._ledger.kind = message, message.kind
        self._step = Step(
            number=message.number, seed=message.seed, fuse=self._fuse_of(message), index=message.index,
            images=self._owned[message.index] if message.images is None else message.images, labels=message.labels,
            weights=message.weights, terms=message.terms, query=self._ledger.query,
            query_with_gradient=self._ledger.query_with_gradient,
            as_received=self._ledger.as_received, hard=message.hard,
        )  # fmt: skip
        return self.score(number, reserved)

    def _fuse_of(self, message: StepMessage) -> Fuse:
        if self._fuse is None or self._fuse.name != message.fuse:
            self._fuse = Fuse(message.fuse, tuple(self._owned.shape[1:]), torch.Generator())
        tensors = _tensors(self._fuse)
        with torch.no_grad():
            for tensor, part in zip(tensors, message.state.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))
        return self._fuse

    def score(self, number: int, reserved: int) -> list[Any]:
        """Score probe ``number`` of the step, for which at most ``reserved`` images may be sent; a `Reply` in plain form."""
        if self._message is None:
            return Reply(0, 0).plain()
        ledger, probe = self._ledger, self._message.probes[number]
        images, requests = ledger.images, ledger.requests
        ledger.limit = images + reserved
        loss, numbers, failure, again = 0.0, None, None, False
        try:
            if self._message.whole or probe.per_image:
                numbers = packed(self._step.responses([probe])[0])
            else:
                (score,) = self._step.scored_here([probe])
                assert score is not None
                loss, numbers = score.loss, packed([score.difficulty, *score.gradients])
        except BudgetSpentError as error:  # to be sent again with another reservation
            failure, again = " ".join(getattr(error, "__notes__", ())) or None, True
        except TargetError as error:
            failure = str(error)
        return Reply(ledger.images - images, ledger.requests - requests, loss, numbers, failure, again).plain()


def packed(tensors: Sequence[Tensor]) -> bytes:
    """All float32 numbers of ``tensors``."""
    return torch.cat([tensor.flatten() for tensor in tensors]).numpy().tobytes()


def unpacked(numbers: bytes, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The tensors of these shapes that were `packed`."""
    flat = torch.from_numpy(np.frombuffer(numbers, np.float32).copy())
    parts = flat.split([int(np.prod(shape)) for shape in shapes])
    return [part.view(*shape) for part, shape in zip(parts, shapes, strict=True)]
