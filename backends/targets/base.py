"""What a target is: a function that makes a network for a number of classes, and what it declares about itself.

A target of your own is one function in a file, used as ``--target FILE.py:mine``, or by its name if its package is installed with
an entry point in the group ``bbfuse.targets``::

    @TARGETS.register("mine")
    @architecture(image_shape=(1, 8, 8))
    def mine(classes: int) -> nn.Module:
        \"\"\"Two linear layers.\"\"\"
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))

``FILE.py:attribute`` may also be a plain function of the number of classes, or a trained ``nn.Module``, which is used as it is.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path

from torch import nn

from backends.base import InputError
from backends.registry import Registry
from backends.training.recipe import Recipe

__all__ = ["TARGETS", "Architecture", "Maker", "architecture", "architecture_of", "image_shape_of"]

Maker = Callable[[int], nn.Module]
TARGETS: Registry[Maker | nn.Module] = Registry("target", "backends.targets", "bbfuse.targets")


class Architecture:
    """A function that makes a network, with what it declares; called with a number of classes it makes the network.

    Args:
        make: makes the network; its weights are fresh, or trained ones if ``trained``.
        image_shape: channels, height and width of the images; ``None`` if it takes images of any size.
        recipe: how the network is trained; ``None`` for the recipe of `recipe_for`.
        trained: the network is used as it comes, without training.
    """

    def __init__(
        self, make: Maker, image_shape: tuple[int, ...] | None = None, recipe: Recipe | None = None, trained: bool = False
    ) -> None:
        functools.update_wrapper(self, make)
        self.make = make
        self.image_shape = image_shape
        self.recipe = recipe
        self.trained = trained

    def __call__(self, classes: int) -> nn.Module:
        """The network for ``classes`` classes."""
        return self.make(classes)

    @property
    def source(self) -> str | None:
        """SHA-256 of the file that defines a target of a user, so that an edited one is trained again; ``None`` if built in."""
        if getattr(self.make, "__module__", "").startswith("backends.targets."):
            return None
        try:
            return hashlib.sha256(Path(inspect.getfile(self.make)).read_bytes()).hexdigest()
        except (OSError, TypeError):
            return None


def architecture(
    image_shape: tuple[int, ...] | None = None, recipe: Recipe | None = None, trained: bool = False
) -> Callable[[Maker], Architecture]:
    """A decorator: the function that it decorates is an `Architecture` with these declarations."""
    return lambda make: Architecture(make, image_shape, recipe, trained)


def architecture_of(target: str | Maker | nn.Module) -> Architecture:
    """The architecture that ``target`` is or names; a name is as in `Registry`.

    Raises:
        InputError: there is none of that name.
    """
    found = TARGETS[target] if isinstance(target, str) else target
    if isinstance(found, Architecture):
        return found
    if isinstance(found, nn.Module):
        return Architecture(functools.partial(_copied, found), trained=True)
    return Architecture(found)


def image_shape_of(target: str) -> tuple[int, ...]:
    """Channels, height and width that the architecture called ``target`` declares.

    Raises:
        InputError: it declares none.
    """
    shape = architecture_of(target).image_shape
    if shape is None:
        raise InputError(f"`target` {target} must declare its image shape: decorate it with @architecture(image_shape=...)")
    return shape


def _copied(network: nn.Module, _: int) -> nn.Module:
    return copy.deepcopy(network)
