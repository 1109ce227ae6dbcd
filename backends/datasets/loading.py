"""Image data sets as tensors with a fixed split into a pool that somebody may own and a held-out test part."""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.base import InputError
from backends.datasets.pictures import levels

__all__ = ["Dataset", "Split", "load", "stratified"]

_FEWEST = 10
"""Images of a pool: of fewer, none would be kept for validation."""
_TENTH = 10
_MODES = {1: "grey", 3: "colour"}


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

        They are the first of both parts, for which see `load`. Where a fifth is more than the validation part has, all of that is
        kept.

        Raises:
            InputError: fewer than 10, or than there are classes, or more than the pool holds.
        """
        pool = len(self.train) + len(self.validation)
        if images is None:
            return self
        least = max(_FEWEST, self.classes)
        if not least <= images <= pool:
            raise InputError(f"--images must lie in [{least}, {pool}] for {self.name}, got {images}")
        validation = min(images // 5, len(self.validation))
        return Dataset(self.name, self.classes, self.train[: images - validation], self.validation[:validation], self.test)


@functools.lru_cache(maxsize=2)
def load(name: str) -> Dataset:
    """The data set called ``name``.

    ``digits``: the 1,797 images (1 x 8 x 8, 17 grey levels) that scikit-learn carries, split 1,150 / 287 / 360, in one random
    order. The first so many of a part are a simple random draw: of the first 100 of validation and test, 5 to 16 are of each
    class, at most 5 from a class's share of the part, and nowhere in any part is it more than 12.

    Anything else is a folder or a hub id that the library ``datasets`` reads, with splits ``train`` and ``test`` and columns
    ``image`` and ``label``; a tenth of ``train`` is kept for validation. The tenth and the order of each part are drawn at random
    and stratified: whatever a study takes are the first n of a part, and of each class they hold n times its share of that part,
    rounded down or up. The seed is fixed, and images are ordered by their content before they are drawn, so that the
    draw is the same whatever the names and the order of the files.

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
    found = _opened(name)
    if not {"train", "test"} <= set(found):
        raise InputError(f"--data {name} must have the splits train and test, got {', '.join(found)}")
    train, test = _labels(name, "train", found["train"]), _labels(name, "test", found["test"])
    classes = _classes(name, train, test)
    pictures = {part: _pictures(name, part, found[part]) for part in ("train", "test")}
    _check_alike(name, pictures, found)
    pool, held = Split(_tensor(pictures["train"]), torch.tensor(train)), Split(_tensor(pictures["test"]), torch.tensor(test))
    pool, kept = _drawn(pool), len(pool) // _TENTH
    return Dataset(name, classes, _drawn(pool[kept:]), _drawn(pool[:kept]), _drawn(held))


def _opened(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"--data {name} needs the library datasets, which is not here: python -m pip install datasets pillow"
        ) from error
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name)
    except Exception as error:  # the library raises what its many readers raise
        words = " ".join(str(error).split())[:200]
        raise InputError(f"--data must be digits, a folder, or a hub id, and {name} cannot be read: {words}") from error


def _labels(name: str, part: str, rows: Any) -> list[int]:
    if not {"image", "label"} <= set(rows.column_names):
        raise InputError(f"--data {name} must have the columns image and label, got {', '.join(rows.column_names)}")
    labels = list(rows["label"][:])
    for place, label in enumerate(labels):
        if type(label) is not int or label < 0:
            raise InputError(
                f"--data {name}: labels must be whole numbers from 0 on, {part} image {place} has {label!r}: give it its class, "
                "or drop it"
            )
    return labels


def _classes(name: str, train: list[int], test: list[int]) -> int:
    if not test:
        raise InputError(f"--data {name}: the split test must hold images, got none: move some of train there")
    classes = max(train, default=0) + 1
    if len(train) < max(_FEWEST, classes):
        raise InputError(
            f"--data {name}: the split train must hold {_FEWEST} images or more, and one for each class, got {len(train)} with "
            f"labels up to {classes - 1}: add images, or number the classes from 0 on"
        )
    if len(set(train)) == 1:
        raise InputError(f"--data {name}: train must hold two classes or more, got {classes - 1} alone: add images of others")
    unknown = sorted(set(test) - set(train))
    if unknown:
        raise InputError(
            f"--data {name}: classes of the split test must be in train, got {unknown[0]}, which is not: add images of it there"
        )
    return classes


def _pictures(name: str, part: str, rows: Any) -> list[NDArray[Any]]:
    pictures: list[NDArray[Any]] = []
    remaining = iter(rows)
    while len(pictures) < len(rows):
        try:
            picture = next(remaining)["image"]
        except Exception as error:  # what the many readers of files raise
            words = " ".join(str(error).split())[:200]
            raise InputError(
                f"{_which(name, part, rows, len(pictures))} must be a whole image file, got {words}: replace or remove it"
            ) from error
        try:
            pictures.append(levels(picture))
        except InputError as error:
            raise InputError(f"{_which(name, part, rows, len(pictures))} {error}") from error
    return pictures


def _check_alike(name: str, pictures: Mapping[str, list[NDArray[Any]]], found: Any) -> None:
    height, width, channels = pictures["train"][0].shape
    for part, made in pictures.items():
        for place, picture in enumerate(made):
            if picture.shape[2] != channels:
                rule, got, way_out = _MODES[channels], _MODES[picture.shape[2]], "convert all to one mode"
            elif picture.shape[:2] != (height, width):
                rule, got = f"{width}x{height}", f"{picture.shape[1]}x{picture.shape[0]}"
                way_out = "crop or scale all to one size"
            else:
                continue
            where = _which(name, part, found[part], place)
            raise InputError(f"{where} must be {rule} as train image 0 is, got {got}: {way_out}")
    brightest = max(float(picture.max()) for made in pictures.values() for picture in made)
    if brightest <= 1.0:
        raise InputError(
            f"--data {name}: pixels must use the range from 0 to 255 (65,535 where they have 16 bits), the brightest is at "
            f"{brightest:.3g} of 255: multiply them"
        )


def _which(name: str, part: str, rows: Any, place: int) -> str:
    """How a message names an image: by its file, where it has one."""
    import datasets

    path = None
    if isinstance(rows.features["image"], datasets.Image):
        path = (rows.cast_column("image", datasets.Image(decode=False))[place]["image"] or {}).get("path")
    return f"--data {name}: {part} image {place}{f' ({path})' if path else ''}"


def _tensor(pictures: list[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def _drawn(part: Split) -> Split:
    """``part`` in a random order, stratified in the sense of `load`, that does not depend on the order it has."""
    rows = zip(part.images.numpy(), part.labels.numpy(), strict=True)
    digests = [hashlib.blake2b(image.tobytes() + label.tobytes()).digest() for image, label in rows]
    canonical = part[torch.tensor(sorted(range(len(part)), key=digests.__getitem__))]
    return canonical[torch.from_numpy(stratified(canonical.labels.numpy(), np.random.default_rng(0)))]


def stratified(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of ``labels`` (n,) in which the first k, for each k, hold floor or ceil of ``k n_c / n`` of each class c.

    The j-th of the ``n_c`` images of class c (from 0 on) must come at a place from ``floor(j n / n_c)`` on and before
    ``ceil((j + 1) n / n_c)``; of those that may come, the one that must come first does. Such windows can always be kept (Baruah
    et al. 1996, proportionate progress), and jobs of one unit keep them if the earliest deadline goes first.
    """
    total, sizes = len(labels), np.bincount(labels).tolist()
    seen = [0] * len(sizes)
    windows = []
    for tie, row in enumerate(rng.permutation(total).tolist()):
        label = int(labels[row])
        nth, size = seen[label], sizes[label]
        windows.append((nth * total // size, -(-(nth + 1) * total // size), tie, row))
        seen[label] += 1
    windows.sort(reverse=True)
    waiting: list[tuple[int, int, int]] = []
    order = np.empty(total, dtype=np.int64)
    for place in range(total):
        while windows and windows[-1][0] <= place:
            heapq.heappush(waiting, windows.pop()[1:])
        order[place] = heapq.heappop(waiting)[2]
    return order
