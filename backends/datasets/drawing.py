"""Random orders of images in which each class has its share of any first part."""

from __future__ import annotations

import hashlib
import heapq

import numpy as np
import torch
from numpy.typing import NDArray

from backends.datasets.base import Split

__all__ = ["drawn", "stratified"]


def drawn(part: Split, seed: int = 0) -> Split:
    """``part`` in a random order from ``seed``, stratified by class; the order of ``part`` itself makes no difference."""
    rows = zip(part.images.numpy(), part.labels.numpy(), strict=True)
    digests = [hashlib.blake2b(image.tobytes() + label.tobytes()).digest() for image, label in rows]
    canonical = part[torch.tensor(sorted(range(len(part)), key=digests.__getitem__))]
    return canonical[torch.from_numpy(stratified(canonical.labels.numpy(), np.random.default_rng(seed)))]


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
