"""The only way to the target: counts every image and request, stops at the limit, checks every answer, keeps paid ones.

A request is written down before it is sent and its answer when it has come, so that a killed run asks nothing twice: what was
answered since the last checkpoint is read from the journal, and a request that was under way when the run was killed is
counted against the budget although its answer is lost.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from backends.interface import Access, Backend, BackendInfo, Chip, TargetError

__all__ = ["IMAGES_PER_REQUEST", "Answered", "Ask", "BudgetSpentError", "Journal", "Ledger"]

IMAGES_PER_REQUEST = 128
"""Larger queries are cut; the cut does not depend on who answers, so that counts and numbers are the same everywhere."""

_SMALLEST_PROBABILITY = 1e-8
"""What a class that was rounded to nothing still has."""

Ask = Callable[[Tensor, Chip], Tensor]
"""Images (n, channels, height, width) and a chip in, logits (n, classes) out."""


@dataclass(frozen=True)
class Answered:
    """Logits (n, classes) of ``chip`` to ``images`` (n, channels, height, width): bought once, used as often as wanted."""

    images: Tensor
    chip: Chip
    answers: Tensor


class BudgetSpentError(RuntimeError):
    """The next request would pass the limit; it was not sent."""


@dataclass
class Recalled:
    """What a journal knows of one request."""

    images: int = 0
    attempts: int = 0
    lost: int = 0
    answer: Tensor | None = None


class Journal:
    """Requests and answers since the last checkpoint, a JSON line each."""

    def __init__(self, path: Path) -> None:
        """Open or begin the journal at ``path`` and read what an earlier process left in it."""
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # a torn last line never happened
        self._path = path
        self._replay = deque(json.loads(line) for line in lines)
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        self._file = path.open("ab")

    def skip_before(self, request: int) -> None:
        """Forget all that came before request number ``request``: the checkpoint has it already."""
        while self._replay and self._replay[0]["request"] < request:
            self._replay.popleft()

    def recall(self, request: int, digest: str) -> Recalled:
        """What is known of this request.

        Raises:
            TargetError: the journal knows another request by that number.
        """
        found = Recalled()
        while self._replay and self._replay[0]["request"] == request:
            entry = self._replay.popleft()
            if entry["digest"] != digest:
                raise TargetError(f"the journal {self._path} belongs to another run: request {request} asked for something else")
            if "sent" in entry:
                found.images, found.attempts = found.images + entry["sent"], found.attempts + 1
            elif "lost" in entry:
                found.lost, found.images, found.attempts = found.lost + entry["lost"], 0, 0
            else:
                values = np.frombuffer(base64.b64decode(entry["answer"]), "<f4").reshape(entry["shape"])
                found.answer = torch.tensor(values)
        return found

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line; it is with the operating system when this returns, so a killed process loses nothing."""
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def clear(self) -> None:
        """Begin anew after a checkpoint."""
        self._file.truncate(0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Ledger:
    """Counts what is sent to ``backend``; ``images`` and ``requests`` never pass ``limit`` images, retries included."""

    def __init__(self, backend: Backend, limit: int, journal: Journal | None = None) -> None:
        self._backend = backend
        self._journal = journal
        self.limit = limit
        self.images = 0
        self.requests = 0
        self.lost = 0
        """Images under way when a process was killed: sent, paid, never answered."""
        self._number = 0
        self.kind: Literal["logits", "probabilities"] | None = None
        """What the target answers with, told from its first answer; probabilities become their logarithms."""

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
            BudgetSpentError: the limit would be passed; nothing was sent.
            TargetError: no answer, or one that is not finite logits of the right shape.
        """
        with torch.no_grad():
            return self._ask(images.detach(), chip)

    def ask_with_tape(self, images: Tensor, chip: Chip) -> Tensor:
        """The same with the tape back to ``images``; only for backends that grant gradients."""
        assert self._backend.info.access >= Access.GRADIENTS
        return self._ask(images, chip)

    def _ask(self, images: Tensor, chip: Chip) -> Tensor:
        return torch.cat([self._request(part, chip) for part in images.split(IMAGES_PER_REQUEST)])

    def _request(self, images: Tensor, chip: Chip) -> Tensor:
        number, self._number = self._number, self._number + 1
        if self._journal is None:
            return self._checked(self._backend.query(images, chip, self._charge), len(images))
        digest = hashlib.sha256(repr(chip).encode() + images.numpy().tobytes()).hexdigest()[:32]
        journal = self._journal
        known = journal.recall(number, digest)
        self.lost += known.lost
        if known.answer is not None:
            self.images, self.requests = self.images + known.images, self.requests + known.attempts
            return known.answer
        if known.images:
            self.lost += known.images
            journal.write({"request": number, "digest": digest, "lost": known.images})

        def sending(count: int) -> None:
            self._charge(count)
            journal.write({"request": number, "digest": digest, "sent": count})

        answer = self._checked(self._backend.query(images, chip, sending), len(images))
        content = base64.b64encode(answer.numpy().astype("<f4").tobytes()).decode()
        journal.write({"request": number, "digest": digest, "shape": list(answer.shape), "answer": content})
        return answer

    def _charge(self, count: int) -> None:
        if self.images + self.lost + count > self.limit:
            raise BudgetSpentError(
                f"{count} more images would pass the limit of {self.limit}, {self.images + self.lost} are sent"
            )
        self.images += count
        self.requests += 1

    def _checked(self, logits: Tensor, count: int) -> Tensor:
        info = self._backend.info
        if tuple(logits.shape) != (count, info.classes):
            raise TargetError(f"{info.name} answered with shape {tuple(logits.shape)} where {(count, info.classes)} was due")
        if not torch.isfinite(logits).all():
            raise TargetError(f"{info.name} answered with logits that are not finite (NaN or infinity)")
        if self.kind is None:
            self.kind = "probabilities" if _are_probabilities(logits) else "logits"
        if self.kind == "logits":
            return logits
        if not _are_probabilities(logits):
            raise TargetError(f"{info.name} answered with probabilities at first and with something else now")
        return logits.clamp_min(_SMALLEST_PROBABILITY).log()

    def checkpointed(self) -> None:
        """The state was saved; the journal may begin anew."""
        if self._journal is not None:
            self._journal.clear()

    def state_dict(self) -> dict[str, Any]:
        """Counts so far, and what the target answers with."""
        return {"images": self.images, "requests": self.requests, "lost": self.lost, "number": self._number, "kind": self.kind}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to the counts of a checkpoint; what the journal holds beyond them will be recalled, not sent."""
        self.images, self.requests, self.lost, self._number = (state[k] for k in ("images", "requests", "lost", "number"))
        self.kind = state["kind"]
        if self._journal is not None:
            self._journal.skip_before(self._number)


def _are_probabilities(answers: Tensor) -> bool:
    """Whether every row of ``answers`` (n, classes) has entries of 0 or more that sum to 1, up to rounding to 16 bits."""
    return bool((answers >= 0.0).all() and ((answers.sum(1) - 1.0).abs() < 5e-3).all())
