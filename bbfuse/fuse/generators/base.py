"""Generators: functions of the shape of an input that make a network with input and output of that shape."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from backends.base import InputError
from backends.registry import Registry

__all__ = ["GENERATORS", "Generator", "Shape", "divisible_by", "for_images"]

Shape = tuple[int, ...]
"""The shape of one input: channels, height, width for an image."""

Generator = Callable[[Shape], nn.Module]
"""Makes a network with fresh weights for inputs of a shape; its output, of the same shape, is added to the input.

The fuse sets the last layer to zero, so that a new generator changes nothing.
"""

GENERATORS: Registry[Generator] = Registry("generator", "bbfuse.fuse.generators", "bbfuse.generators")
"""All generators by the name that `generator` takes."""


def for_images(shape: Shape, name: str) -> None:
    """Refuse inputs that are no images (channels, height, width), for the generator called ``name``.

    Raises:
        InputError: ``shape`` has not three sides.
    """
    if len(shape) != 3:
        fitting = "MLP, Scale or Conv1d" if len(shape) == 2 else "MLP or Scale"
        raise InputError(
            f"`generator={name}` is for images (channels, height, width), got inputs of the shape {shape}: choose {fitting}"
        )


def divisible_by(divisor: int, shape: Shape, name: str) -> None:
    """Refuse images that cannot be halved as often as the generator does.

    Raises:
        InputError: a side is not divisible by ``divisor``, or the inputs are no images.
    """
    for_images(shape, name)
    if shape[1] % divisor or shape[2] % divisor:
        raise InputError(f"`generator={name}` needs image sides divisible by {divisor}, got {shape[1]}x{shape[2]}")
