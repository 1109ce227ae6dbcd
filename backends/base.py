"""What a backend is: images and a chip in, logits out.

The errors of the project start here, so that both rooms raise the same two::

    InputError    what was asked for cannot be done: bad value, wrong combination, nobody at that address (exit code 2)
    TargetError   the target failed while it was being asked: no answer, wrong shape, not finite (exit code 1)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NOMINAL", "Access", "Backend", "BackendInfo", "Chip", "InputError", "Sending", "TargetError", "levels"]


class InputError(ValueError):
    """The request cannot be carried out; the message is one line that names the value and the way out."""


class TargetError(RuntimeError):
    """The target failed while it was being asked; the message is one line."""


class Access(IntEnum):
    """What a backend grants and a method needs; more includes less."""

    LOGITS = 1
    """Strict: answers only."""
    GRADIENTS = 2
    """Relaxed: answers keep their tape back to the images."""


@dataclass(frozen=True, slots=True)
class Chip:
    """One memory at one operating point, that is: which stored bits are wrong.

    Each bit is flipped with probability ``bit_error_rate``, in [0, 1], independently (Stutz et al., MLSys 2021, section 3).
    ``seed``, a non-negative integer, names the chip: the errors of one seed at a lower rate are among those at a higher one.
    """

    bit_error_rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.bit_error_rate <= 1.0:  # also false for NaN
            raise InputError(f"bit_error_rate must lie in [0, 1], got {self.bit_error_rate}")
        if self.seed < 0:
            raise InputError(f"chip seed must be a non-negative integer, got {self.seed}")


NOMINAL = Chip(0.0)
"""The memory at nominal voltage: no errors."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a backend says of itself before it is asked anything."""

    name: str
    access: Access
    image_shape: tuple[int, int, int]
    """Channels, height, width; pixels are float32 in [-1, 1]."""
    classes: int
    eight_bits: bool = False
    """Pixels are sent as 256 levels of 8 bits; what is asked is rounded on its way."""

    limit: int | None = None
    """Images that a request may carry; larger ones are sent in parts."""

    def seen(self, images: Tensor) -> Tensor:
        """``images`` as the target sees them."""
        return levels(images) / 127.5 - 1.0 if self.eight_bits else images


def levels(images: Tensor) -> Tensor:
    """Pixels in [-1, 1] as whole numbers from 0 to 255, the nearest one."""
    return ((images + 1.0) * 127.5).round()


Sending = Callable[[int], None]
"""Called with the number of images before every attempt to send them, retries included; may raise to forbid it."""


class Backend(Protocol):
    """A target that can be asked."""

    @property
    def info(self) -> BackendInfo:
        """Shapes and access granted."""
        ...

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """Logits (n, classes) of ``images`` (n, channels, height, width) on ``chip``.

        Raises:
            TargetError: no usable answer came.
        """
        ...

    def close(self) -> None:
        """Let go of everything; may be called twice."""
        ...
