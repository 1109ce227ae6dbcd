"""A data set in its three parts."""

from __future__ import annotations

import torch

from backends.datasets.base import DATASETS, Dataset, Split


@DATASETS.register("stripes")
def stripes() -> Dataset:
    """Bright rows: the class is the row."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    images = 0.3 * torch.randn(400, 1, 8, 8, generator=rng)
    images[torch.arange(400), 0, 2 * labels] += 0.7
    images = images.clamp(-1.0, 1.0)
    parts = [Split(images[a:b], labels[a:b]) for a, b in ((0, 240), (240, 300), (300, 400))]
    return Dataset("stripes", 4, *parts)
