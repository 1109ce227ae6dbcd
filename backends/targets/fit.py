"""Targets as they are deployed: fitted on the training part of their data, frozen."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from backends.data import Dataset
from backends.fitting import Recipe, kept, recipe_for
from backends.targets import networks

__all__ = ["fitted"]


def fitted(target: str, data: Dataset, recipe: Recipe | None = None) -> nn.Module:
    """The target called ``target``, fitted on the training part of ``data``, frozen; from the cache where it is.

    Raises:
        InputError: there is no such target, or it takes other images.
    """
    network = networks.build(target, data.image_shape, data.classes)
    recipe = recipe or recipe_for(data.image_shape)
    return kept(network, data.train, recipe, f"{target}-{Path(data.name).name}").eval().requires_grad_(False)
