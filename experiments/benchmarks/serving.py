"""Servers for a benchmark, each in a process of its own on loopback."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from backends.base import Access, Backend, BackendInfo, Chip, Sending
from backends.server.app import application
from backends.server.command import listening, serve

__all__ = ["Timed", "answering", "served"]

_CLASSES = 10


class Timed:
    """A target that takes a time of its own for a batch and answers with the first ten pixels of each image."""

    def __init__(self, shape: tuple[int, int, int], milliseconds: int) -> None:
        self.info = BackendInfo("timed", Access.LOGITS, shape, _CLASSES)
        self._seconds = milliseconds / 1000

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.base.Backend`."""
        sending(len(images))
        time.sleep(self._seconds)
        return images.flatten(1)[:, :_CLASSES].contiguous()

    def close(self) -> None:
        """Nothing is held open."""


def answering(backend: Backend) -> AbstractContextManager[str]:
    """The address of our server in front of ``backend``, which lives as long as the context."""
    return served(_answer, backend)


@contextmanager
def served(server: Callable[..., None], *about: Any) -> Iterator[str]:
    """The address that ``server(told, *about)`` sends by ``told``; it serves as long as the context lives."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=server, args=(theirs, *about), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _answer(told: Connection, backend: Backend) -> None:
    torch.set_num_threads(1)
    listener = listening("127.0.0.1", 0)
    told.send(f"http://127.0.0.1:{listener.getsockname()[1]}")
    serve(application([backend]), listener)
