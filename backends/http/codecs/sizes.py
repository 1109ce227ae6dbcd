"""Sizes of the bodies that a run will send and receive, for a plan."""

from __future__ import annotations

from torch import Tensor

from backends.base import Chip
from backends.http.codecs.base import Dialect
from backends.http.codecs.oip_json import BodySize, body_sizes

__all__ = ["sizes"]


def sizes(dialect: Dialect, images: Tensor) -> tuple[BodySize, BodySize]:
    """Sizes of requests and responses for a sample of ``images`` (n, channels, height, width); see `body_sizes`."""
    chip = Chip(0.05, 10_000)
    alone, whole = (len(dialect.encode(some, chip).body) for some in (images[:0], images))
    _, down = body_sizes(images[:1], dialect.info.classes, binary=dialect.binary)
    return BodySize(alone, (whole - alone) / len(images)), down
