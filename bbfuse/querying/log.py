"""Responses that were paid for before: rows of a log replace queries for the same images, and the others train a surrogate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from backends.base import Chip, TargetError
from bbfuse.querying.cache import ResponseCache
from bbfuse.querying.responses import Query, Responses

__all__ = ["ResponseLog"]


class ResponseLog(ResponseCache):
    """A response cache in memory that is read only."""

    def __init__(self, path: Path, rows: Sequence[Responses], held_out: Sequence[Query], kind: str | None) -> None:
        """``rows`` and the images ``held_out`` are as the target receives them; ``kind`` is what the target responded with."""
        self.path = path
        self._endpoint = b""
        self._kind = kind
        self._rows = list(rows)
        self._keys = [self.keys(row.images, row.chip) for row in rows]
        self._logits: dict[bytes, Tensor] = {}
        for keys, row in zip(self._keys, rows, strict=True):
            self._logits.update(zip(keys, row.logits, strict=True))
        self._left_out = {key for images, chip in held_out for key in self.keys(images, chip)}

    def find(self, keys: Sequence[bytes]) -> list[Tensor | None]:
        """See `ResponseCache`; what was found once is no longer `unused`."""
        self._left_out.update(keys)
        return [self._logits.get(key) for key in keys]

    def keep(self, keys: Sequence[bytes], responses: Tensor) -> None:
        """See `ResponseCache`; nothing is added."""

    def check_kind(self, kind: str | None) -> None:
        """See `ResponseCache`."""
        if kind != self._kind:
            raise TargetError(f"the target responds with {kind}, but the responses in {self.path} are {self._kind}: drop them")

    def unused(self, chips: Sequence[Chip | None]) -> list[Responses]:
        """The rows of ``chips`` that no query has looked for and whose images are not held out."""
        found = []
        for keys, row in zip(self._keys, self._rows, strict=True):
            index = torch.tensor([place for place, key in enumerate(keys) if key not in self._left_out], dtype=torch.int64)
            if row.chip in chips and len(index):
                found.append(Responses(row.images[index], row.chip, row.logits[index]))
        return found

    def close(self) -> None:
        """Nothing is held open."""
