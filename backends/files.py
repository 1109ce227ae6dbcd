"""Files that are replaced as a whole: a kill or an error at any moment leaves the old content or the new one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["replacing", "short_name", "write_arrays", "write_bytes", "write_folder", "write_text", "write_torch"]


@contextlib.contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of ``path`` when the block ends; after an error ``path`` is as it was.

    With ``sync`` the content is on the disk before it takes that place, so that a power cut is harmless too.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with temporary.open("xb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the content of ``path``."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Replace the content of ``path`` by ``text`` in UTF-8."""
    write_bytes(path, text.encode())


def write_torch(path: Path, state: Any, sync: bool = False) -> None:
    """Replace the content of ``path`` by ``state``, as ``torch.save`` writes it; for ``sync`` see `replacing`."""
    import torch

    with replacing(path, sync) as file:
        torch.save(state, file)


def write_arrays(path: Path, arrays: Mapping[str, Any], sync: bool = False) -> None:
    """Replace the content of ``path`` by numpy's ``arrays`` by name, as .npz; for ``sync`` see `replacing`."""
    import numpy as np

    with replacing(path, sync) as file:
        np.savez(file, **arrays)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder ``path`` with ``files`` by name; ``path`` must not exist or be an empty folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        temporary.chmod(0o755)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary)
        raise


def short_name(name: str) -> str:
    """The ``name`` of a target or data set as a part of a file name or URL.

    A path loses its folders and its suffix; of ``module:attribute`` and ``FILE.py:attribute`` the attribute stays behind an
    underscore.
    """
    path, colon, attribute = name.rpartition(":")
    if not colon:
        return Path(name).stem
    return re.sub(r"[^\w.+-]", "_", f"{Path(path).stem if path.endswith('.py') else path}_{attribute}")
