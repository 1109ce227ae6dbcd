"""Image data sets as tensors with a fixed split into a pool that somebody may own and a held-out test part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backends.interface import InputError

__all__ = ["DATA", "Dataset", "Split", "load"]

DATA = ("digits",)


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


def load(name: str) -> Dataset:
    """The data set called ``name``.

    ``digits``: the 1,797 images (1 x 8 x 8, 17 grey levels) that scikit-learn carries, split 1,150 / 287 / 360.

    Raises:
        InputError: no data set has that name.
    """
    if name != "digits":
        raise InputError(f"--data must be one of {', '.join(DATA)}, got {name}")
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(digits)))
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 8.0 - 1.0).float()[order]
    everything = Split(images, torch.from_numpy(digits).long()[order])
    return Dataset(name, 10, everything[:1150], everything[1150:1437], everything[1437:])
