"""Targets that answer as told: ones that die, ones that answer many at once, ones that answer otherwise."""

from __future__ import annotations

import random
import threading
import time

import torch
from torch import Tensor

from backends.base import Access, BackendInfo, Chip, Sending
from tests.helpers.targets import LinearBackend


class KilledError(Exception): ...


class Killable:
    """Passes questions on, and dies with the answer to number ``at`` under way."""

    def __init__(self, inner: LinearBackend, at: int) -> None:
        self.info = inner.info
        self._inner, self._left = inner, at

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        answer = self._inner.query(images, chip, sending)
        self._left -= 1
        if self._left < 0:
            raise KilledError
        return answer

    def close(self) -> None: ...


class Probabilities(LinearBackend):
    """Answers with the softmax of its logits, in float16 as an API might round them."""

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        return super().query(images, chip, sending).softmax(1).half().float()


class Scripted:
    """Sums each image's pixels; sends a request ``attempts`` times before it answers."""

    def __init__(self, attempts: int = 1, classes: int = 2) -> None:
        self.info = BackendInfo("scripted", Access.LOGITS, (1, 1, 2), classes)
        self.attempts = attempts
        self.received = 0
        self.fail: Exception | None = None
        self.answer: Tensor | None = None

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        for _ in range(self.attempts):
            sending(len(images))
            self.received += len(images)
        if self.fail is not None:
            raise self.fail
        return self.answer if self.answer is not None else images.flatten(1).sum(1, keepdim=True).repeat(1, 2)

    def close(self) -> None: ...


class Crowd(Scripted):
    """Answers several requests at once, each when it pleases, and fails for images of the values ``wrong``."""

    def __init__(self, attempts: int = 1, seed: int = 0, wrong: tuple[float, ...] = ()) -> None:
        super().__init__(attempts)
        self._random, self._lock = random.Random(seed), threading.Lock()
        self.wrong = wrong
        self.now: list[int] = []
        self.most = (0, 0)

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        assert not images.requires_grad
        assert not torch.is_grad_enabled()
        with self._lock:
            self.now.append(len(images))
            self.most = (max(self.most[0], len(self.now)), max(self.most[1], sum(self.now)))
            pause = self._random.random() / 1000
        try:
            for _ in range(self.attempts):
                sending(len(images))
                with self._lock:
                    self.received += len(images)
            time.sleep(pause)
            if images[0, 0, 0, 0].item() in self.wrong:
                raise KilledError(images[0, 0, 0, 0].item())
            return images.flatten(1).sum(1, keepdim=True).repeat(1, 2) + chip.seed
        finally:
            with self._lock:
                self.now.remove(len(images))


def images(count: int, value: float = 0.3) -> Tensor:
    return torch.full((count, 1, 1, 2), value) + torch.arange(count)[:, None, None, None] / 1000.0
