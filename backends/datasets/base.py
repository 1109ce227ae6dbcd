"""What a data set is: images with labels in three parts; and the registry of the functions that load one.

A data set of your own is one function in a file, used as ``--data FILE.py:mine``, or by its name if its package is installed with
an entry point in the group ``bbfuse.datasets``::

    @DATASETS.register("mine")
    def mine() -> Dataset:
        \"\"\"Ten classes of grey 8x8 images.\"\"\"
        return Dataset("mine", 10, train, validation, test)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from backends.base import InputError
from backends.datasets.form import Form
from backends.registry import Registry

__all__ = ["DATASETS", "FEWEST", "Dataset", "Split"]

FEWEST = 10
"""The smallest pool, in images: a smaller one would leave no validation images."""


@dataclass(frozen=True)
class Split:
    """Inputs (n, *shape), float32 in [-1, 1], images (n, channels, height, width) above all, and their labels (n,), int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Split:
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A named data set: ``train`` and ``validation`` are the pool that a user may own, ``test`` is for reporting alone.

    ``form`` is the form in which the user's own target takes such inputs: their range, type and layout. Without labels all labels
    are -1, and ``classes`` is 0 unless it is known.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    form: Form = field(default_factory=Form)
    names: tuple[str, ...] = ()
    """The names of the classes, if labels were words."""

    @property
    def labelled(self) -> bool:
        """Whether the labels are known."""
        return bool((self.train.labels >= 0).all())

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one input: channels, height, width for an image."""
        return tuple(self.train.images.shape[1:])

    def on(self, device: str) -> Dataset:
        """The same data with its images on ``device``; labels stay on the CPU, where responses arrive."""
        train, validation, test = (
            Split(part.images.to(device), part.labels) for part in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test)

    def owned(self, images: int | None) -> Dataset:
        """The same data for a user who owns only ``images`` of the pool, a fifth of them kept for validation.

        They are the first of both parts, whose order is random. A fifth is at most the whole validation part.

        Raises:
            InputError: fewer than 10, or than there are classes, or more than the pool holds.
        """
        pool = len(self.train) + len(self.validation)
        if images is None:
            return self
        least = max(FEWEST, self.classes)
        if not least <= images <= pool:
            raise InputError(f"`images` must lie in [{least}, {pool}] for {self.name}, got {images}")
        validation = min(images // 5, len(self.validation))
        return replace(self, train=self.train[: images - validation], validation=self.validation[:validation])


DATASETS: Registry[Callable[[], Dataset] | Dataset] = Registry("data", "backends.datasets", "bbfuse.datasets")
