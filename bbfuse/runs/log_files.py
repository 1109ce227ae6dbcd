"""Logs of responses in files, for `responses`: .npz, .parquet, CSV, or the folder of a session."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.base import BackendInfo, Chip, InputError, TargetError, one_line
from backends.datasets.base import Dataset
from backends.files import write_torch
from bbfuse.config.schema import RunConfig
from bbfuse.querying.log import ResponseLog
from bbfuse.querying.responses import ResponseCheck, Responses

__all__ = ["read_log"]


def read_log(config: RunConfig, data: Dataset, owned: Dataset, info: BackendInfo, folder: Path) -> ResponseLog:
    """The log in the file `responses`. The run's ``folder`` keeps a copy, which a resumed run reads.

    A .npz file has the arrays ``images`` (n, ...) in the form of the data and ``responses`` (n, classes), and if need be
    ``chip_seed`` and ``bit_error_rate``, numbers or (n,); without them all come from the one chip of the run. A .parquet file
    has the columns image, response, chip_seed and bit_error_rate. A CSV file has the index of an owned image, those for training
    first and then those for validation, and one number for each class. A folder is that of a session.

    Raises:
        InputError: it cannot be read, or does not fit the data or the target.
    """
    path = config.responses
    assert path is not None
    copy = folder / "responses.pt"
    if not copy.exists():
        write_torch(copy, _checked(config, owned, info, f"`responses` {path}"))
    read = torch.load(copy, weights_only=True)
    points = torch.stack([read["rates"], read["seeds"].double()], 1)
    rows = []
    for point in points.unique(dim=0):
        index = (points == point).all(1)
        rows.append(Responses(info.seen(read["images"][index]), Chip(point[0].item(), int(point[1])), read["logits"][index]))
    held_out = info.seen(torch.cat([data.validation.images, data.test.images]))
    return ResponseLog(path, rows, [(held_out, row.chip) for row in rows], read["kind"])


def _checked(config: RunConfig, owned: Dataset, info: BackendInfo, where: str) -> dict[str, Any]:
    assert config.responses is not None
    try:
        found = _read(config.responses, owned, where)
        responses = torch.as_tensor(np.asarray(found["responses"], np.float32))
        images = found["images"] if isinstance(found["images"], Tensor) else owned.form.inward(torch.as_tensor(found["images"]))
    except (OSError, ValueError, TypeError, IndexError, KeyError, zipfile.BadZipFile, csv.Error) as error:
        raise InputError(f"{where} cannot be read: {one_line(error)}") from error
    if tuple(images.shape[1:]) != owned.image_shape or len(images) != len(responses) or not len(images):
        raise InputError(
            f"{where} must have inputs of the shape {owned.image_shape} with one response each, got {len(images)} of "
            f"{tuple(images.shape[1:])} and {len(responses)} responses"
        )
    if not torch.isfinite(images).all() or images.abs().max() > 1.0 + 1e-5:
        raise InputError(f"{where} must have inputs in [{owned.form.low:g}, {owned.form.high:g}], as the data have, got others")
    check = ResponseCheck(info)
    try:
        logits = check.logits(responses, len(responses))
    except TargetError as error:
        raise InputError(f"{where}: {error}") from None
    return {"images": images.clamp(-1.0, 1.0), "logits": logits, "kind": check.kind, **_chips(config, found, len(images), where)}


def _chips(config: RunConfig, found: dict[str, Any], count: int, where: str) -> dict[str, Tensor]:
    """The operating point of each row."""
    chip = config.chip
    if chip is None and "chip_seed" not in found:
        raise InputError(f"{where} must have `chip_seed`, the chip of each response, since the run is for the population")
    rates = found.get("bit_error_rate", config.bit_error_rate if chip is None else chip.bit_error_rate)
    try:
        seeds = np.broadcast_to(np.asarray(found.get("chip_seed", chip.seed if chip else 0), np.int64), (count,))
        rate = np.broadcast_to(np.asarray(rates, np.float64), (count,))
        return {"seeds": torch.from_numpy(np.where(rate == 0.0, 0, seeds)), "rates": torch.from_numpy(rate.copy())}
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} must have one chip, or one for each of {count} responses: {error}") from None


def _read(path: Path, owned: Dataset, where: str) -> dict[str, Any]:
    if path.is_dir():
        parts = [_read(part, owned, where) for part in sorted((path / "told").glob("*.npz"))]
        if not parts:
            raise InputError(f"{where} is a folder without told responses: give that of a session, or a file")
        chips = {name: np.concatenate([np.full(len(part["images"]), part[name]) for part in parts])
                 for name in ("chip_seed", "bit_error_rate")}  # fmt: skip
        return {**{name: np.concatenate([part[name] for part in parts]) for name in ("images", "responses")}, **chips}
    if path.suffix == ".npz":
        with path.open("rb") as opened, np.load(opened) as file:
            return {name: file[name] for name in file.files}
    if path.suffix == ".parquet":
        from pyarrow import parquet  # type: ignore[import-untyped]

        columns = parquet.read_table(path).to_pydict()
        names = {"image": "images", "response": "responses"}
        return {names.get(name, name): np.asarray(values) for name, values in columns.items()}
    rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    rows = [row for number, row in enumerate(rows) if row and (number or row[0].strip().isdecimal())]
    images, index = torch.cat([owned.train.images, owned.validation.images]), [int(row[0]) for row in rows]
    if index and not 0 <= min(index) <= max(index) < len(images):
        raise InputError(f"{where} must have indices of owned inputs, 0 to {len(images) - 1}, got {min(index)} to {max(index)}")
    return {"images": images[index], "responses": [[float(value) for value in row[1:]] for row in rows]}
