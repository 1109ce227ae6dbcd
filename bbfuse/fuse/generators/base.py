"""Generators: functions of an image shape that make a network with input and output of that shape."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from backends.base import InputError
from backends.registry import Registry

__all__ = ["GENERATORS", "Generator", "Shape", "divisible_by"]

Shape = tuple[int, int, int]
"""Channels, height, width."""

Generator = Callable[[Shape], nn.Module]
"""Makes a network with fresh weights for images of a shape; its output, of the same shape, is added to the image.

The fuse sets the last layer to zero, so that a new generator changes nothing.
"""

GENERATORS: Registry[Generator] = Registry("generator", "bbfuse.fuse.generators", "bbfuse.generators")
"""All generators by the name that `generator` takes."""


def divisible_by(divisor: int, shape: Shape, name: str) -> None:
    """Refuse images that cannot be halved as often as the generator does.

    Raises:
        InputError: a side is not divisible by ``divisor``.
    """
    if shape[1] % divisor or shape[2] % divisor:
        raise InputError(f"`generator={name}` needs image sides divisible by {divisor}, got {shape[1]}x{shape[2]}")
