"""Answers kept on disk for other runs: one row an image, found by what was sent, to whom and about which chip.

SQLite: a kill leaves whole rows, and several processes may use one folder. An answer is that of the batch
in which its image was first sent; another batch might have had other last bits.
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

__all__ = ["ResponseCache"]

_PATIENCE = 60.0  # seconds to wait for another process that writes


class ResponseCache:
    """Answers of one endpoint in a folder."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        """Open or begin the store in ``folder``; ``endpoint`` names who answers.

        Raises:
            InputError: it cannot be read or written.
        """
        self.path = folder / "answers.db"
        self._endpoint = endpoint.encode()
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=_PATIENCE, check_same_thread=False)
            self._db.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, logits BLOB NOT NULL) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"--remote.store {folder} cannot be used: {error}; choose another folder, or delete {self.path.name} there"
            ) from error

    def keys(self, images: Tensor, chip: Chip) -> list[bytes]:
        """The key of the answer to each of ``images`` (n, channels, height, width), as the target sees them, on ``chip``."""
        about = hashlib.blake2b(self._endpoint + b"\0" + repr((chip, tuple(images.shape[1:]))).encode(), digest_size=32)
        keys = []
        for image in images.detach().numpy().astype("<f4"):
            one = about.copy()
            one.update(image.tobytes())
            keys.append(one.digest())
        return keys

    def find(self, keys: Sequence[bytes]) -> list[Tensor | None]:
        """The logits (classes,) kept under each of ``keys``, ``None`` where there are none.

        Raises:
            TargetError: the store is damaged.
        """
        with self._readable():
            found = [self._db.execute("SELECT logits FROM answers WHERE key = ?", (key,)).fetchone() for key in keys]
        return [None if row is None else torch.from_numpy(np.frombuffer(row[0], "<f4").copy()) for row in found]

    def keep(self, keys: Sequence[bytes], answers: Tensor) -> None:
        """Keep the rows of ``answers`` (n, classes); what is kept under a key already stays.

        Raises:
            TargetError: the store is damaged or cannot be written.
        """
        rows = [(key, row.tobytes()) for key, row in zip(keys, answers.numpy().astype("<f4"), strict=True)]
        with self._readable(), self._db:  # all rows or none
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise TargetError(f"the store {self.path} cannot be used: {error}; nothing that was answered is lost") from error

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._db.close()
