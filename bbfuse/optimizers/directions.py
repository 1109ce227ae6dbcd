"""Directions of probes of the target's input: in all pixels, in coarse blocks, in low frequencies, or in one pixel.

Each basis spans ``m`` of an image's dimensions. Directions are drawn for each image independently, by fair signs of the
coefficients or, for coordinates, by a fair choice of one (CGE as ZO-AE-DS has it, but one at a time): their mean outer product is
``P |u|^2 / m``, ``P`` the projection onto the span.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backends.base import InputError
from bbfuse.seeds import fair_signs

__all__ = ["BASES", "Directions"]

BASES = ("pixels", "coarse", "dct", "coordinates")


class Directions:
    """Draws directions for inputs of ``shape``, (channels, height, width) for an image, in the basis ``kind``."""

    def __init__(self, kind: str, shape: Sequence[int]) -> None:
        """Prepare the basis.

        Raises:
            InputError: coarse blocks do not fit the sides, or the inputs are no images.
        """
        self._kind = kind
        self._shape = tuple(shape)
        self.dimensions = math.prod(shape)
        if kind in ("pixels", "coordinates"):
            return
        if len(shape) != 3:
            raise InputError(f"`rge.basis={kind}` is for images, got inputs of the shape {self._shape}: choose pixels")
        channels, height, width = shape
        self._block = max(2, min(height, width) // 8)
        if kind == "coarse" and (height % self._block or width % self._block):
            raise InputError(f"`rge.basis=coarse` needs sides divisible by {self._block}, got {height}x{width}")
        self._waves = [_cosines(side, max(2, side // 4)) for side in (height, width)]
        self.dimensions = {
            "coarse": channels * (height // self._block) * (width // self._block),
            "dct": channels * len(self._waves[0]) * len(self._waves[1]),
        }[kind]

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, *shape), all of the same length: 1 a pixel in root mean square, coordinates 1 in one pixel."""
        if self._kind == "coordinates":
            flat = torch.zeros(count, math.prod(self._shape))
            chosen = torch.randint(0, flat.shape[1], (count, 1), generator=rng)
            return flat.scatter_(1, chosen, fair_signs((count, 1), rng)).view(count, *self._shape)
        signs = fair_signs((count, self.dimensions), rng)
        return self.synthesise(signs) * math.sqrt(math.prod(self._shape) / self.dimensions)

    def analyse(self, images: Tensor) -> Tensor:
        """Coordinates (n, dimensions) of the part of ``images`` (n, *shape) that lies in the span."""
        if self._kind == "coarse":
            return torch.nn.functional.avg_pool2d(images, self._block).mul(self._block).flatten(1)
        if self._kind == "dct":
            return torch.einsum("nchw,ih,jw->ncij", images, *self._waves).flatten(1)
        return images.flatten(1)

    def synthesise(self, coordinates: Tensor) -> Tensor:
        """The images (n, *shape) that have these ``coordinates`` (n, dimensions): the basis is orthonormal."""
        if self._kind == "coarse":
            channels, height, width = self._shape
            blocks = coordinates.view(-1, channels, height // self._block, width // self._block) / self._block
            return blocks.repeat_interleave(self._block, 2).repeat_interleave(self._block, 3)
        if self._kind == "dct":
            sides = [len(waves) for waves in self._waves]
            return torch.einsum("ncij,ih,jw->nchw", coordinates.view(-1, self._shape[0], *sides), *self._waves)
        return coordinates.view(-1, *self._shape)


def _cosines(side: int, count: int) -> Tensor:
    """The ``count`` slowest of the orthonormal cosines of length ``side`` (DCT-II), (count, side)."""
    place = torch.arange(side, dtype=torch.float64) + 0.5
    waves = torch.cos(math.pi / side * place[None, :] * torch.arange(count, dtype=torch.float64)[:, None])
    normed: Tensor = waves / waves.norm(dim=1, keepdim=True)
    return normed.float()
