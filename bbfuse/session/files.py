"""Queries as files, and responses from files: for ``bbfuse bench``."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backends.base import InputError, levels
from backends.datasets.form import Form
from backends.files import write_arrays, write_folder
from bbfuse.session.bench import Query

__all__ = ["QueryFiles", "read_responses"]


class QueryFiles:
    """The queries without a response, in a folder: one .npz file each, or one folder of PNG images each."""

    def __init__(self, folder: Path, form: Form, png: bool) -> None:
        """``form`` is that of the user's data."""
        self._folder = folder
        self._form = form
        self._png = png

    def path(self, query: Query) -> Path:
        """Where `write` puts the query."""
        return self._folder / (query.id if self._png else f"{query.id}.npz")

    def write(self, queries: Sequence[Query]) -> None:
        """Make the folder hold ``queries`` and no others.

        A .npz file has the arrays ``images`` (n, ...), ``bit_error_rate`` and ``chip_seed``. A folder has the images as 0000.png,
        0001.png, ... and the chip in chip.json.
        """
        self._folder.mkdir(exist_ok=True)
        wanted = {self.path(query): query for query in queries}
        for path in set(self._folder.iterdir()) - wanted.keys():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path, query in wanted.items():
            if path.exists():
                continue
            if self._png:
                write_folder(path, self._pictures(query))
            else:
                write_arrays(path, query.arrays())

    def _pictures(self, query: Query) -> dict[str, bytes]:
        from PIL import Image

        files = {"chip.json": json.dumps({"bit_error_rate": query.chip.bit_error_rate, "chip_seed": query.chip.seed}).encode()}
        pixels = levels(self._form.inward(torch.from_numpy(query.images))).to(torch.uint8).movedim(1, -1).numpy()
        for number, picture in enumerate(pixels):
            content = io.BytesIO()
            Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(content, format="png")
            files[f"{number:04d}.png"] = content.getvalue()
        return files


def read_responses(path: Path, classes: int) -> dict[str, NDArray[np.float32]]:
    """The responses (n, classes) in ``path``, by the ids of their queries.

    A .npz file has one array for each query. Any other file is text with the columns query, index of the image and ``classes``
    numbers, separated by commas, one row for each image in any order; a first row of titles is optional.

    Raises:
        InputError: it cannot be read, a row is invalid, or rows are missing before the last one of a query.
    """
    try:
        if path.suffix == ".npz":
            with path.open("rb") as opened, np.load(opened) as file:
                return {query: file[query] for query in file.files}
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError, zipfile.BadZipFile, csv.Error) as error:
        raise InputError(f"responses {path} cannot be read: {error}") from error
    found: dict[str, dict[int, list[float]]] = {}
    for number, row in enumerate(rows, 1):
        if not row or (number == 1 and not any(map(_is_number, row[1:2]))):  # titles
            continue
        where = f"responses {path}, row {number}"
        if len(row) != 2 + classes:
            raise InputError(f"{where} must have {2 + classes} columns, query, index and {classes} numbers, got {len(row)}")
        query, index, *values = (cell.strip() for cell in row)
        if not index.isdecimal() or not all(map(_is_number, values)):
            raise InputError(f"{where} must have a whole number as index and numbers after it, got {','.join(row[1:])}")
        if int(index) in found.setdefault(query, {}):
            raise InputError(f"{where} must have another index: query {query} has index {index} already")
        found[query][int(index)] = [float(value) for value in values]
    return {query: _stacked(path, query, by_index) for query, by_index in found.items()}


def _stacked(path: Path, query: str, rows: dict[int, list[float]]) -> NDArray[np.float32]:
    missing = [index for index in range(max(rows)) if index not in rows]
    if missing:
        raise InputError(f"responses {path} must have a row for each image of query {query}: index {missing[0]} is missing")
    return np.array([rows[index] for index in range(len(rows))], dtype=np.float32)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
