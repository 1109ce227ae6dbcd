"""The interface of a backend: images and a chip in, logits out. And the two errors of the project::

InputError    the request is not possible: a bad value, a wrong combination, no server at the address (exit code 2)
TargetError   the target failed: no response, a wrong shape, logits that are not finite (exit code 1)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "NOMINAL",
    "Access",
    "Backend",
    "BackendInfo",
    "Chip",
    "InputError",
    "Sending",
    "TargetError",
    "levels",
    "one_line",
    "raised",
]


class InputError(ValueError):
    """The request is not possible. The message is one line: name, rule, value found, way out. Settings in it stand in
    backticks."""


class TargetError(RuntimeError):
    """The target failed to respond. The message is one line."""


def one_line(error: object, most: int = 200) -> str:
    """The text of ``error`` in one line, cut after ``most`` characters."""
    return " ".join(str(error).split())[:most]


def raised(error: BaseException) -> str:
    """The class of ``error`` and its text in one line, for what code of others raised."""
    return one_line(f"{type(error).__name__}: {error}")


class Access(IntEnum):
    """The access that a backend grants or a method requires; more includes less."""

    LOGITS = 1
    """Strict access: responses only."""
    GRADIENTS = 2
    """Relaxed (white-box) access: responses have gradients back to the images."""


@dataclass(frozen=True, slots=True)
class Chip:
    """One memory at one operating point: a pattern of bit errors.

    Each bit is flipped with probability ``bit_error_rate``, in [0, 1], independently (Stutz et al., MLSys 2021, section 3).
    ``seed``, a non-negative integer, names the chip: its errors at a lower rate are a subset of those at a higher one.
    """

    bit_error_rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.bit_error_rate <= 1.0:  # also false for NaN
            raise InputError(f"`bit_error_rate` must lie in [0, 1], got {self.bit_error_rate}")
        if self.seed < 0:
            raise InputError(f"`chip_seed` must be a non-negative integer, got {self.seed}")


NOMINAL = Chip(0.0)
"""The memory at nominal voltage: no errors."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """The description of a backend, known before any query."""

    name: str
    access: Access
    image_shape: tuple[int, ...]
    """The shape of one input, channels, height, width for an image; values are float32 in [-1, 1]."""
    classes: int
    eight_bits: bool = False
    """Pixels are sent as 256 levels of 8 bits, so that images are rounded."""

    limit: int | None = None
    """Images in a request at most; larger queries are sent in parts."""

    repeatable: bool = True
    """The same query gives the same response."""

    def seen(self, images: Tensor) -> Tensor:
        """``images`` as the target sees them."""
        return levels(images) / 127.5 - 1.0 if self.eight_bits else images


def levels(images: Tensor) -> Tensor:
    """Pixels in [-1, 1] as whole numbers from 0 to 255, the nearest one."""
    return ((images + 1.0) * 127.5).round()


Sending = Callable[[int], None]
"""Called with the number of images before every attempt to send them, retries included; it may raise to prevent that."""


class Backend(Protocol):
    """A target that responds to queries."""

    @property
    def info(self) -> BackendInfo:
        """Shapes and access granted."""
        ...

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """Logits (n, classes) of ``images`` (n, *image_shape) on ``chip``.

        Raises:
            TargetError: there was no valid response.
        """
        ...

    def close(self) -> None:
        """Release all resources; may be called twice."""
        ...
