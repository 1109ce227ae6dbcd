"""What a run had sent and what was answered since its last checkpoint, on disk, so that a killed run pays for nothing twice.

A line is written before a request is sent and when its answer has come. Lines of several requests may interleave; each bears the
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
    """What a journal knows of one request."""

    images: int = 0
    """sent in attempts that are answered, or still under way when the process died"""
    attempts: int = 0
    lost: int = 0
    """images of attempts that were found to be lost by a process that had died since"""
    kept: int = 0
    """images of the answer that a store had"""
    answer: Tensor | None = None
    kind: str | None = None
    """what the target answers with, told when this answer came"""


class Journal:
    """Requests and answers since the last checkpoint, a JSON line each. Only one thread may write at a time."""

    def __init__(self, path: Path) -> None:
        """Open or begin the journal at ``path`` and read what an earlier process left in it."""
        self._path = path
        self._file = path.open("a+b")
        self._file.seek(0)
        *lines, torn = self._file.read().split(b"\n")
        if torn:  # a torn last line never happened
            self._file.truncate(self._file.seek(-len(torn), os.SEEK_END))
        self._known: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in map(json.loads, lines):
            self._known[entry["request"]].append(entry)

    def skip_before(self, request: int) -> None:
        """Forget all that came before request number ``request``: the checkpoint has it already."""
        for number in [known for known in self._known if known < request]:
            del self._known[number]

    def recall(self, request: int, digest: str) -> Recalled:
        """What is known of this request; an empty ``digest``, here or there, is that of images which a worker made, and not told.

        Raises:
            TargetError: the journal knows another request by that number.
        """
        found = Recalled()
        for entry in self._known.pop(request, []):
            if entry["digest"] and digest and entry["digest"] != digest:
                raise TargetError(f"the journal {self._path} belongs to another run: request {request} asked for something else")
            if "sent" in entry:
                found.images, found.attempts = found.images + entry["sent"], found.attempts + 1
            elif "lost" in entry:
                found.lost, found.images, found.attempts = found.lost + entry["lost"], 0, 0
            else:
                values = np.frombuffer(base64.b64decode(entry["answer"]), "<f4").reshape(entry["shape"])
                found.answer, found.kind, found.kept = torch.tensor(values), entry["kind"], entry["kept"]
        return found

    def sent(self, request: int, digest: str, images: int) -> None:
        """So many ``images`` of the request are about to be sent."""
        self._write({"request": request, "digest": digest, "sent": images})

    def lost(self, request: int, digest: str, images: int) -> None:
        """So many ``images`` of the request were under way when an earlier process died."""
        self._write({"request": request, "digest": digest, "lost": images})

    def answered(self, request: int, digest: str, answer: Tensor, kind: str | None, kept: int) -> None:
        """The request has its ``answer`` (n, classes), ``kept`` rows of it from a store."""
        content = base64.b64encode(answer.numpy().astype("<f4").tobytes()).decode()
        shape = list(answer.shape)
        self._write({"request": request, "digest": digest, "shape": shape, "answer": content, "kind": kind, "kept": kept})

    def _write(self, entry: dict[str, Any]) -> None:
        # with the operating system when this returns, so that a killed process loses nothing
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def clear(self) -> None:
        """Begin anew after a checkpoint."""
        self._file.truncate(0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
