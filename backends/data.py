"""Image data sets as tensors with a fixed split into a pool that somebody may own and a held-out test part."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.interface import InputError

__all__ = ["Dataset", "Split", "load"]


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width), float32 in [-1, 1], and their labels (n,), int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Split:
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A named data set: ``train`` and ``validation`` are the pool, ``test`` is only ever reported on."""

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def on(self, device: str) -> Dataset:
        """The same data with its images on ``device``; labels stay, as answers come back."""
        parts = (Split(part.images.to(device), part.labels) for part in (self.train, self.validation, self.test))
        return Dataset(self.name, self.classes, *parts)

    def owned(self, images: int | None) -> Dataset:
        """The same data for a user who owns only ``images`` of the pool, a fifth of them kept for validation.

        Raises:
            InputError: fewer than 10 or more than the pool holds.
        """
        pool = len(self.train) + len(self.validation)
        if images is None:
            return self
        if not 10 <= images <= pool:
            raise InputError(f"--images must lie in [10, {pool}] for {self.name}, got {images}")
        validation = images // 5
        return Dataset(self.name, self.classes, self.train[: images - validation], self.validation[:validation], self.test)


@functools.lru_cache(maxsize=2)
def load(name: str) -> Dataset:
    """The data set called ``name``.

    ``digits``: the 1,797 images (1 x 8 x 8, 17 grey levels) that scikit-learn carries, split 1,150 / 287 / 360. Anything else is
    a folder or a hub id that the library ``datasets`` reads, with splits ``train`` and ``test`` and columns ``image`` and
    ``label``; a tenth of ``train``, the same one every time, is kept for validation.

    Raises:
        InputError: there is no such data set, or it is not one of images of one size with their classes.
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(digits)))
        images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 8.0 - 1.0).float()[order]
        everything = Split(images, torch.from_numpy(digits).long()[order])
        return Dataset(name, 10, everything[:1150], everything[1150:1437], everything[1437:])
    if "/" not in name and not Path(name).is_dir():
        raise InputError(f"--data must be digits, a folder, or a hub id OWNER/NAME, got {name}")
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"--data {name} needs the library datasets, which is not here: python -m pip install datasets pillow"
        ) from error
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # the library raises what its many readers raise
        words = " ".join(str(error).split())[:200]
        raise InputError(f"--data must be digits, a folder, or a hub id, and {name} cannot be read: {words}") from error
    if not {"train", "test"} <= set(found):
        raise InputError(f"--data {name} must have the splits train and test, got {', '.join(found)}")
    pool, test = _split(name, found["train"]), _split(name, found["test"])
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(pool)))
    kept = len(pool) // 10
    classes = int(max(pool.labels.max(), test.labels.max())) + 1
    return Dataset(name, classes, pool[order[kept:]], pool[order[:kept]], test)


def _split(name: str, rows: Any) -> Split:
    if not {"image", "label"} <= set(rows.column_names):
        raise InputError(f"--data {name} must have the columns image and label, got {', '.join(rows.column_names)}")
    pictures = [np.asarray(picture) for picture in rows["image"]]
    sizes = {picture.shape for picture in pictures}
    if len(sizes) != 1:
        raise InputError(f"--data {name} must have images of one size and mode, got {', '.join(map(str, sorted(sizes)[:3]))}")
    pixels = torch.from_numpy(np.stack(pictures))
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    images = pixels.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)
    return Split(images, torch.tensor(rows["label"][:], dtype=torch.int64))
