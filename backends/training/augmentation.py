"""Random changes of training images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.training.recipe import Recipe

__all__ = ["cut", "moved"]


def moved(images: Tensor, recipe: Recipe, rng: torch.Generator | None = None) -> Tensor:
    """``images`` (n, channels, height, width) shifted and mirrored by ``recipe``: with one draw for all, or one for each."""
    draws, (height, width) = len(images) if recipe.each else 1, images.shape[2:]
    down, right = torch.randint(0, 2 * recipe.shift + 1, (2, draws), generator=rng)
    rows = (down[:, None] + torch.arange(height))[:, None, :, None].to(images.device)
    columns = right[:, None] + torch.arange(width)
    if recipe.mirror:
        columns = torch.where(torch.rand(draws, 1, generator=rng) < 0.5, columns.flip(1), columns)
    columns = columns[:, None, None].to(images.device)
    image, channel = torch.arange(len(images))[:, None, None, None], torch.arange(images.shape[1])[:, None, None]
    places = image.to(images.device), channel.to(images.device)
    return F.pad(images, (recipe.shift,) * 4, value=-1.0)[*places, rows, columns]


def cut(images: Tensor, side: int) -> Tensor:
    """``images`` (n, channels, height, width) with a grey square of ``side`` at a random place on each (DeVries and Taylor
    2017)."""

    def inside(length: int) -> Tensor:
        first = torch.randint(length, (len(images), 1)) - side // 2
        places = torch.arange(length)
        return ((places >= first) & (places < first + side)).to(images.device)

    rows, columns = inside(images.shape[2]), inside(images.shape[3])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
