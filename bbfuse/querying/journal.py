"""The requests and responses of a run since its last checkpoint, on disk, so that a resumed run pays for no response twice.

A line is written before a request is sent and when its response arrives. Lines of several requests may interleave; each has the
number of its request, and those of one request are in order.
"""

from __future__ import annotations

import base64
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.base import TargetError

__all__ = ["Journal", "Recalled"]


@dataclass
class Recalled:
    """What the journal has of one request."""

    images: int = 0
    """images of attempts with a response, or in flight when the process was killed"""
    attempts: int = 0
    lost: int = 0
    """images of attempts that an earlier resumed process already counted as lost"""
    kept: int = 0
    """images whose responses came from the cache"""
    response: Tensor | None = None
    kind: str | None = None
    """what the target responds with, known when this response arrived"""


class Journal:
    """Requests and responses since the last checkpoint, a JSON line each. Only one thread may write at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal at ``path`` and read the lines of an earlier process."""
        self._path = path
        self._file = path.open("a+b")
        self._file.seek(0)
        *lines, incomplete = self._file.read().split(b"\n")
        if incomplete:  # an incomplete last line does not count
            self._file.truncate(self._file.seek(-len(incomplete), os.SEEK_END))
        self._known: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in map(json.loads, lines):
            self._known[entry["request"]].append(entry)

    def skip_before(self, request: int) -> None:
        """Forget all requests before number ``request``: the checkpoint includes them."""
        for number in [known for known in self._known if known < request]:
            del self._known[number]

    def recall(self, request: int, digest: str) -> Recalled:
        """What is known of this request. An empty ``digest``, here or in the journal, matches any: a worker made these images.

        Raises:
            TargetError: the journal has another request of that number.
        """
        found = Recalled()
        for entry in self._known.pop(request, []):
            if entry["digest"] and digest and entry["digest"] != digest:
                raise TargetError(f"the journal {self._path} belongs to another run: request {request} has other images")
            if "sent" in entry:
                found.images, found.attempts = found.images + entry["sent"], found.attempts + 1
            elif "lost" in entry:
                found.lost, found.images, found.attempts = found.lost + entry["lost"], 0, 0
            else:
                values = np.frombuffer(base64.b64decode(entry["answer"]), "<f4").reshape(entry["shape"])
                found.response, found.kind, found.kept = torch.tensor(values), entry["kind"], entry["kept"]
        return found

    def sent(self, request: int, digest: str, images: int) -> None:
        """Record that ``images`` images of the request are about to be sent."""
        self._write({"request": request, "digest": digest, "sent": images})

    def lost(self, request: int, digest: str, images: int) -> None:
        """Record that ``images`` images of the request were in flight when an earlier process was killed."""
        self._write({"request": request, "digest": digest, "lost": images})

    def received(self, request: int, digest: str, response: Tensor, kind: str | None, kept: int) -> None:
        """Record the ``response`` (n, classes) to the request; ``kept`` rows of it came from the cache."""
        content = base64.b64encode(response.numpy().astype("<f4").tobytes()).decode()
        shape = list(response.shape)
        self._write({"request": request, "digest": digest, "shape": shape, "answer": content, "kind": kind, "kept": kept})

    def _write(self, entry: dict[str, Any]) -> None:
        # the operating system has it when this returns, so that a killed process loses nothing
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def clear(self) -> None:
        """Begin anew after a checkpoint."""
        self._file.truncate(0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
