"""The only way to the target: counts every image and request, stops at the limit, checks every answer, keeps paid ones.

Questions are cut into requests, numbered in the order in which they are asked; several may be in flight at once. When they come
back makes no difference: answers are put together in order, and what a request asks does not depend on another's answer.

A request is written down before it is sent and its answer when it has come, so that a killed run asks nothing twice: what was
answered since the last checkpoint is read from the journal, and requests that were under way when the run was killed are
counted against the budget although their answers are lost.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backends.base import NOMINAL, Access, Backend, BackendInfo, Chip, TargetError
from bbfuse.querying.cache import Store
from bbfuse.querying.journal import Journal

__all__ = ["IMAGES_PER_REQUEST", "Answered", "Ask", "AskAll", "BudgetSpentError", "Grant", "Ledger", "Question", "logits_of"]

IMAGES_PER_REQUEST = 128
"""Larger queries are cut; the cut does not depend on who answers, so that counts and numbers are the same everywhere."""

_SMALLEST_PROBABILITY = 1e-8
"""What a class that was rounded to nothing still has."""

Question = tuple[Tensor, Chip]
"""Images (n, channels, height, width), and the chip that is asked about them."""

Ask = Callable[[Tensor, Chip], Tensor]
"""Images (n, channels, height, width) and a chip in, logits (n, classes) out."""

AskAll = Callable[[Sequence[Question]], list[Tensor]]
"""Several questions in, the logits (n, classes) of each out, in order."""


@dataclass(frozen=True)
class Answered:
    """Logits (n, classes) of ``chip`` to ``images`` (n, channels, height, width): bought once, used as often as wanted."""

    images: Tensor
    chip: Chip
    answers: Tensor


class BudgetSpentError(RuntimeError):
    """The next request would pass the limit; it was not sent."""


@dataclass(eq=False)
class _Request:
    """At most 128 images for one chip, on their way."""

    number: int
    images: Tensor
    chip: Chip
    digest: str = ""
    keys: list[bytes] = field(default_factory=list)
    kept: list[Tensor | None] = field(default_factory=list)
    """What the store has of the answer, row by row; empty if it was not asked."""
    reserved: int = 0
    """Images that may be sent without asking whether the limit allows it."""
    answer: Tensor | None = None

    @property
    def missing(self) -> list[int]:
        """The images that have to be sent."""
        return [row for row in range(len(self.images)) if not self.kept or self.kept[row] is None]


@dataclass(frozen=True)
class Grant:
    """Requests of one probe, ``sizes`` images each, that somebody else may send once, numbered from ``first`` on."""

    first: int
    sizes: Sequence[int]

    @property
    def images(self) -> int:
        """All of them."""
        return sum(self.sizes)


class Ledger:
    """Counts what is sent to ``backend``; ``images`` and ``requests`` never pass ``limit`` images, retries included."""

    def __init__(
        self, backend: Backend, limit: int, journal: Journal | None = None, store: Store | None = None, in_flight: int = 1
    ) -> None:
        """With ``in_flight`` above 1 the backend is asked from so many threads at once."""
        self._backend = backend
        self._journal = journal
        self.store = store
        self.reuses = True
        """Whether answers are taken from the store and put there, if there is one."""
        self.limit = limit
        self.at_risk: int | None = None
        """Images of several requests that may be under way at once, since a killed run loses them; any number if not given."""
        self.images = 0
        self.requests = 0
        self.kept = 0
        """Images that were not sent, since the store had their answers."""
        self.lost = 0
        """Images under way when a process was killed: sent, paid, never answered."""
        self.kind: str | None = None
        """What the target answers with, ``logits`` or ``probabilities``, told from its first answer; probabilities become their
        logarithms."""
        self._number = 0
        self._reserved = 0
        self._in_flight = in_flight
        self._pool = (
            ThreadPoolExecutor(in_flight, initializer=torch.get_num_threads) if in_flight > 1 else None
        )  # its threads end with it
        self._lock = threading.Lock()

    @property
    def info(self) -> BackendInfo:
        """What the target says of itself."""
        return self._backend.info

    def seen(self, images: Tensor) -> Tensor:
        """``images`` as the target sees them, which may take 256 levels only."""
        return self._backend.info.seen(images)

    def ask(self, images: Tensor, chip: Chip) -> Tensor:
        """Logits (n, classes) of ``images`` on ``chip``, without tape whatever the backend grants.

        Raises:
            BudgetSpentError: the limit would be passed; nothing was sent that would.
            TargetError: no answer, or one that is not finite logits of the right shape.
        """
        return self.ask_all([(images, chip)])[0]

    def ask_all(self, questions: Sequence[Question], fresh: bool = False) -> list[Tensor]:
        """The logits (n, classes) of every question, as `ask` has them, asked at once as far as the backend may be.

        ``fresh`` answers come from the target even where the store has some.

        Raises:
            BudgetSpentError, TargetError: as `ask`, that of the first request which failed, when all others that had been sent
                have ended; what they were answered is in the journal.
        """
        with torch.no_grad():
            return self._ask_all([(images.detach(), chip) for images, chip in questions], fresh)

    def ask_with_tape(self, images: Tensor, chip: Chip) -> Tensor:
        """As `ask`, with the tape back to ``images``; only for backends that grant gradients."""
        assert self._backend.info.access >= Access.GRADIENTS
        return self._ask_all([(images, chip)])[0]

    def _ask_all(self, questions: Iterable[Question], fresh: bool = False) -> list[Tensor]:
        asked = [[self._numbered(part, chip) for part in images.split(IMAGES_PER_REQUEST)] for images, chip in questions]
        requests = [request for parts in asked for request in parts]
        # all that is known first: what it took counts before it is decided whether the limit allows more
        for request in requests:
            self._recall(request)
        if self.store is not None and self.reuses and not fresh:
            for request in requests:
                self._look_up(request, self.store)
        self._send_all([request for request in requests if request.answer is None])
        return [torch.cat([request.answer for request in parts if request.answer is not None]) for parts in asked]

    def _numbered(self, images: Tensor, chip: Chip) -> _Request:
        request = _Request(self._number, images, chip)
        self._number += 1
        if self._journal is not None:
            request.digest = hashlib.sha256(repr(chip).encode() + images.numpy().tobytes()).hexdigest()[:32]
        return request

    def _recall(self, request: _Request) -> None:
        if self._journal is None:
            return
        known = self._journal.recall(request.number, request.digest)
        self.lost += known.lost
        if known.answer is not None:
            request.answer = known.answer
            self.images, self.requests = self.images + known.images, self.requests + known.attempts
            self.kept, self.kind = self.kept + known.kept, self.kind or known.kind
        elif known.images:
            self.lost += known.images
            self._journal.lost(request.number, request.digest, known.images)

    def _look_up(self, request: _Request, store: Store) -> None:
        if request.answer is None:
            request.keys = store.keys(self.seen(request.images), request.chip)
            request.kept = store.find(request.keys)
            if not request.missing:
                self._answered(request, torch.empty(0, self.info.classes))

    def _send_all(self, requests: Sequence[_Request]) -> None:
        if self._pool is None:
            for request in requests:
                self._reserve(request)
                self._send(request)
            return
        taped = torch.is_grad_enabled()
        running: dict[Future[None], _Request] = {}
        failed: list[tuple[int, BaseException]] = []

        def send(request: _Request) -> None:
            with torch.set_grad_enabled(taped):  # every thread has a mode of its own
                self._send(request)

        def settle(when: str, timeout: float | None = None) -> None:
            for future in wait(running, timeout, when).done:
                number, error = running.pop(future).number, future.exception()
                if error is not None:
                    failed.append((number, error))

        try:
            for request in requests:
                settle(FIRST_COMPLETED, timeout=0.0)
                while not failed and not self._has_room(request, running.values()):
                    settle(FIRST_COMPLETED)
                if failed:
                    break
                self._reserve(request)  # in order, so that arrival does not decide which request is the one too many
                running[self._pool.submit(send, request)] = request
        except BudgetSpentError as error:
            failed.append((request.number, error))
        finally:
            settle(ALL_COMPLETED)
        if failed:
            raise min(failed, key=lambda one: one[0])[1]

    def _has_room(self, request: _Request, running: Iterable[_Request]) -> bool:
        under_way = [len(one.missing) for one in running]
        if not under_way:
            return True
        if self.kind is None or len(under_way) >= self._in_flight:  # the first answer tells how to read all others
            return False
        return self.at_risk is None or sum(under_way) + len(request.missing) <= self.at_risk

    def _send(self, request: _Request) -> None:
        """Fill in the answer of ``request``; may be called from several threads."""
        missing = request.missing
        images = request.images if len(missing) == len(request.images) else request.images[missing]
        try:
            answer = self._backend.query(images, request.chip, lambda count: self._charge(request, count))
            self._answered(request, self._checked(answer, len(images)))
        finally:
            with self._lock:
                self._reserved, request.reserved = self._reserved - request.reserved, 0

    def _reserve(self, request: _Request) -> None:
        """Keep room below the limit for the first attempt of ``request``."""
        with self._lock:
            self._check_limit(len(request.missing))
            request.reserved = len(request.missing)
            self._reserved += request.reserved

    def _charge(self, request: _Request, count: int) -> None:
        with self._lock:
            own = min(count, request.reserved)
            self._check_limit(count - own)
            request.reserved, self._reserved = request.reserved - own, self._reserved - own
            self.images += count
            self.requests += 1
            if self._journal is not None:
                self._journal.sent(request.number, request.digest, count)

    def _check_limit(self, more: int) -> None:
        taken = self.images + self.lost + self._reserved
        if more and taken + more > self.limit:
            raise BudgetSpentError(f"{more} more images would pass the limit of {self.limit}, {taken} are sent")

    def _answered(self, request: _Request, answer: Tensor) -> None:
        """``answer`` (m, classes) is that to the images that were missing: put all together and keep it."""
        missing = request.missing
        with self._lock:
            if len(missing) < len(request.images):
                rows = iter(answer)
                answer = torch.stack([next(rows) if row is None else row for row in request.kept])
            kept = len(request.images) - len(missing)
            if self._journal is not None:
                self._journal.answered(request.number, request.digest, answer, self.kind, kept)
            self.kept += kept
            request.answer = answer
        if self.store is not None and request.keys and missing:
            self.store.keep([request.keys[row] for row in missing], answer[missing])

    def _checked(self, logits: Tensor, count: int) -> Tensor:
        info = self._backend.info
        if tuple(logits.shape) != (count, info.classes):
            raise TargetError(
                f"{info.name} answered with shape {tuple(logits.shape)} where {(count, info.classes)} was due"
                f"{_recognised(logits, count, info.classes)}"
            )
        if not torch.isfinite(logits).all():
            raise TargetError(f"{info.name} answered with logits that are not finite (NaN or infinity)")
        if self.kind is None:
            self.kind = "probabilities" if _are_probabilities(logits) else "logits"
        if self.kind == "logits":
            return logits
        if not _are_probabilities(logits):
            raise TargetError(f"{info.name} answered with probabilities at first and with something else now")
        return logits_of(logits)

    # what is sent by others, who ask for a grant, and tell what they were answered

    @property
    def keeps(self) -> bool:
        """Whether answers are written down, so that a run that is killed need not pay for them again."""
        return self._journal is not None

    def granted(self, sizes: Sequence[int]) -> Grant:
        """The next requests of this run; nothing may be sent yet."""
        grant = Grant(self._number, sizes)
        self._number += len(sizes)
        return grant

    def recalled(self, grant: Grant) -> list[Tensor] | None:
        """The answers to the requests of ``grant`` if a process that was killed had them all; the next to be sent otherwise."""
        requests = [_Request(grant.first + place, torch.empty(size, 0), NOMINAL) for place, size in enumerate(grant.sizes)]
        images, attempts = self.images, self.requests
        for request in requests:
            self._recall(request)
        answers = [request.answer for request in requests if request.answer is not None]
        if len(answers) == len(requests):
            return answers
        # a probe is asked as a whole: what there is of it is of no use
        self.lost += self.images - images
        self.images, self.requests = images, attempts
        return None

    def reserve(self, grant: Grant) -> None:
        """The requests of ``grant`` are about to be sent, once each.

        Raises:
            BudgetSpentError: the limit would be passed; nothing may be sent.
        """
        with self._lock:
            self._check_limit(grant.images)
            self._reserved += grant.images
            if self._journal is not None:
                for place, size in enumerate(grant.sizes):
                    self._journal.sent(grant.first + place, "", size)

    def settle(self, grant: Grant, images: int, requests: int, answers: Sequence[Tensor] | None) -> None:
        """So many ``images`` and ``requests`` of ``grant`` were sent; ``answers`` (n, classes) to each term if they are told."""
        with self._lock:
            self._reserved -= grant.images
            self.images, self.requests = self.images + images, self.requests + requests
            if answers is not None and self._journal is not None:
                parts = torch.cat(list(answers)).split(list(grant.sizes))
                for place, part in enumerate(parts):
                    self._journal.answered(grant.first + place, "", part, self.kind, 0)

    def lose(self, grant: Grant) -> None:
        """Whoever had ``grant`` is gone: all of it counts as sent, and as lost."""
        with self._lock:
            self._reserved -= grant.images
            self.lost += grant.images
            if self._journal is not None:
                for place, size in enumerate(grant.sizes):
                    self._journal.lost(grant.first + place, "", size)

    def checkpointed(self) -> None:
        """The state was saved; the journal may begin anew."""
        if self._journal is not None:
            self._journal.clear()

    def state_dict(self) -> dict[str, Any]:
        """Counts so far, what the target answers with, and whether answers are reused."""
        return {
            "images": self.images, "requests": self.requests, "kept": self.kept, "lost": self.lost, "number": self._number,
            "kind": self.kind, "reuses": self.reuses,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to the counts of a checkpoint; what the journal holds beyond them will be recalled, not sent."""
        self.images, self.requests, self.kept = state["images"], state["requests"], state["kept"]
        self.lost, self._number = state["lost"], state["number"]
        self.kind, self.reuses = state["kind"], state["reuses"]
        if self._journal is not None:
            self._journal.skip_before(self._number)


def logits_of(probabilities: Tensor) -> Tensor:
    """Logits (n, classes) with these ``probabilities``: their logarithms, none below that of 1e-8."""
    return probabilities.clamp_min(_SMALLEST_PROBABILITY).log()


def _are_probabilities(answers: Tensor) -> bool:
    """Whether every row of ``answers`` (n, classes) has entries of 0 or more that sum to 1, up to rounding to 16 bits."""
    return bool((answers >= 0.0).all() and ((answers.sum(1) - 1.0).abs() < 5e-3).all())


def _recognised(answers: Tensor, count: int, classes: int) -> str:
    """What an answer of the wrong shape to ``count`` images seems to be, with the way out."""
    shape = tuple(answers.shape)
    if shape in ((count,), (count, 1)):
        found = "a bare label for each image"
    elif len(shape) == 2 and shape[0] == count and shape[1] < classes:
        found = f"the top {shape[1]} of {classes} classes"
    else:
        return ""
    return f": {found}, it seems; ask the server for the logits or probabilities of all classes"
