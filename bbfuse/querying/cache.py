"""A response cache on disk, shared by runs: one row per image, with a key made of the endpoint, the chip and the image.

It is an SQLite file: a kill leaves whole rows, and several processes may use one folder. A response is the one to the batch in
which its image was first sent; in another batch its last bits might differ.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backends.base import Chip, InputError, TargetError
from bbfuse.querying.responses import Responses

__all__ = ["ResponseCache"]

_WRITE_TIMEOUT = 60.0  # seconds to wait for another process that writes


class ResponseCache:
    """The responses of one endpoint, in a folder."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        """Open or create the cache in ``folder``; ``endpoint`` identifies the server and its model.

        Raises:
            InputError: it cannot be read or written.
        """
        self.path = folder / "answers.db"
        self._endpoint = endpoint.encode()
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=_WRITE_TIMEOUT, check_same_thread=False)
            self._db.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, logits BLOB NOT NULL) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"`remote.store` {folder} cannot be used: {error}; choose another folder, or delete {self.path.name} there"
            ) from error

    def keys(self, images: Tensor, chip: Chip) -> list[bytes]:
        """The key of each of ``images`` (n, channels, height, width), as the target receives them, on ``chip``."""
        prefix = hashlib.blake2b(self._endpoint + b"\0" + repr((chip, tuple(images.shape[1:]))).encode(), digest_size=32)
        keys = []
        for image in images.detach().numpy().astype("<f4"):
            one = prefix.copy()
            one.update(image.tobytes())
            keys.append(one.digest())
        return keys

    def find(self, keys: Sequence[bytes]) -> list[Tensor | None]:
        """The logits (classes,) stored under each of ``keys``, ``None`` where there are none.

        Raises:
            TargetError: the cache is damaged.
        """
        with self._readable():
            found = [self._db.execute("SELECT logits FROM answers WHERE key = ?", (key,)).fetchone() for key in keys]
        return [None if row is None else torch.from_numpy(np.frombuffer(row[0], "<f4").copy()) for row in found]

    def keep(self, keys: Sequence[bytes], responses: Tensor) -> None:
        """Store the rows of ``responses`` (n, classes); a row that is already stored under a key stays.

        Raises:
            TargetError: the cache is damaged or cannot be written.
        """
        rows = [(key, row.tobytes()) for key, row in zip(keys, responses.numpy().astype("<f4"), strict=True)]
        with self._readable(), self._db:  # all rows or none
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)

    def check_kind(self, kind: str | None) -> None:
        """Refuse responses of another ``kind`` than those stored; the rows here are logits whatever the kind.

        Raises:
            TargetError: they are of another kind.
        """

    def unused(self, chips: Sequence[Chip | None]) -> list[Responses]:
        """Stored responses of ``chips`` with their images that no query has looked for; a cache on disk stores no images."""
        return []

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise TargetError(f"the response cache {self.path} cannot be used: {error}; no response is lost") from error

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._db.close()
