"""The control: a classifier of the fuse's size, trained on the owned images and used instead of the target."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from backends.datasets.loading import load
from backends.training.cache import kept
from backends.training.recipe import LARGE_RECIPE, Recipe
from bbfuse.training.evaluation import accuracy

__all__ = ["control", "network"]

_BATCH = 500


def control(data: str, owned: int | None, seed: int = 0, tested: int | None = None) -> float:
    """Held-out accuracy (a fraction of the first ``tested`` images) after training on ``owned`` images to convergence."""
    torch.set_num_threads(1)
    pool = load(data).owned(owned)
    recipe = replace(LARGE_RECIPE, steps=5000, seed=seed) if _large(pool.image_shape) else Recipe(steps=3000, seed=seed)
    trained = kept(network(pool.image_shape, pool.classes), pool.train, recipe, "control").eval()
    test = pool.test[:tested]
    with torch.no_grad():
        return accuracy(torch.cat([trained(part) for part in test.images.split(_BATCH)]), test.labels)


def network(image_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Has 8,410 parameters for 1x8x8 (the fuse `MLP` has 8,320) and 23,682 for 3x32x32 (`UNetXS` has 23,635)."""
    if not _large(image_shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), 112), nn.ReLU(), nn.Linear(112, classes))

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(3, 16), *block(16, 16), nn.MaxPool2d(2), *block(16, 32), nn.MaxPool2d(2), *block(32, 54),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(54, classes),
    )  # fmt: skip


def _large(image_shape: tuple[int, ...]) -> bool:
    return len(image_shape) == 3 and image_shape[1] > 8
