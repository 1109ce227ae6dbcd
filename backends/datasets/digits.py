"""The data set ``digits``, which scikit-learn carries."""

from __future__ import annotations

import numpy as np
import torch

from backends.datasets.base import DATASETS, Dataset, Split

__all__ = ["digits"]


@DATASETS.register("digits")
def digits() -> Dataset:
    """1,797 images of handwritten digits, 8x8 pixels of 17 grey levels, from scikit-learn.

    They are split 1,150 / 287 / 360, in one random order. The first so many of a part are a simple random draw: of the first 100
    of validation and test, 5 to 16 are of each class, at most 5 from a class's share of the part, and nowhere in any part is the
    difference more than 12.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 8.0 - 1.0).float()[order]
    everything = Split(images, torch.from_numpy(labels).long()[order])
    return Dataset("digits", 10, everything[:1150], everything[1150:1437], everything[1437:])
