"""A device without an API: the run hands out queries and is told the responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from backends.base import Backend, BackendInfo, InputError
from backends.kinds.base import BACKENDS, BackendKind, Description, Opening

__all__ = ["UNNAMED", "Bench", "BenchConfig"]

UNNAMED = "bench"
"""The target of a device whose architecture is not named."""


@dataclass(frozen=True)
class BenchConfig:
    """The device on a bench."""

    format: Literal["npz", "png"] = "npz"
    """how `bbfuse bench ask` writes a query: one .npz file with the exact numbers, or a folder of PNG images, 8 bits a pixel, to
    which every probe is rounded"""


@BACKENDS.register("bench")
class Bench(BackendKind):
    """A device without an API: queries are handed out, responses are told (bbfuse bench, or bbfuse.Session)."""

    Config = BenchConfig

    @classmethod
    def on_chip(cls, target: str, settings: Any) -> bool:
        """See `BackendKind`; only if the device's architecture is named."""
        return target != UNNAMED

    @classmethod
    def open(cls, opening: Opening) -> Backend:
        """See `BackendKind`; never possible.

        Raises:
            InputError: always.
        """
        raise InputError(
            "`backend=bench` has no target that a run could query: use `bbfuse bench ask` and `bbfuse bench tell`, or "
            "bbfuse.Session in Python"
        )

    @classmethod
    def describe(cls, opening: Opening) -> Description:
        """See `BackendKind`."""
        data, png, form = opening.data, opening.settings.format == "png", opening.data.form
        if png and (len(data.image_shape) != 3 or data.image_shape[0] not in (1, 3)):
            raise InputError(
                f"`bench.format=png` takes images of one or three channels, {data.name} has the shape {data.image_shape}: use npz"
            )
        return Description(BackendInfo("bench", cls.access, data.image_shape, data.classes, png or form.eight_bits))
