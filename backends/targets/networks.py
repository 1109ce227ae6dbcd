"""Architectures of the targets, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from backends.interface import InputError

__all__ = ["TARGETS", "build"]


def _digits() -> nn.Sequential:
    """Four 3x3 convolutions and two linear layers for 1 x 8 x 8 images: 25,274 parameters, of which 25,104 weights are stored."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]

    return nn.Sequential(
        *block(1, 16), *block(16, 16), nn.MaxPool2d(2), *block(16, 32), *block(32, 32), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


TARGETS: dict[str, Callable[[], nn.Module]] = {"digits": _digits}


def build(name: str) -> nn.Module:
    """A network of that architecture with fresh weights.

    Raises:
        InputError: no target has that name.
    """
    if name not in TARGETS:
        raise InputError(f"--target must be one of {', '.join(TARGETS)}, got {name}")
    return TARGETS[name]()
