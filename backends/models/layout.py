"""Inputs in the layout and the batch size that a model in a file was made for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["arranged", "in_batches"]

Sides = Sequence[int | None]
"""Sides of a shape; ``None`` where any number is allowed."""


def arranged(inputs: Tensor, declared: Sides) -> Tensor:
    """``inputs`` (n, ...) in the layout of ``declared``, the sides of one input.

    They are left as they are, or get their channels last or first, or lose the axis of their one channel, or become rows of
    features: the first of these that fits is taken. A batch that fits in no layout is returned unchanged.
    """
    ways: list[Tensor] = [inputs]
    if inputs.ndim > 2:
        ways += [inputs.movedim(1, -1), inputs.movedim(-1, 1)]
        ways += [inputs.squeeze(axis) for axis in (1, -1) if inputs.shape[axis] == 1]
        ways.append(inputs.flatten(1))
    return next((way for way in ways if _fits(way.shape[1:], declared)), inputs)


def _fits(sides: Sequence[int], declared: Sides) -> bool:
    return len(sides) == len(declared) and all(wanted in (None, side) for side, wanted in zip(sides, declared, strict=True))


def in_batches(run: Callable[[Tensor], Tensor], inputs: Tensor, size: int | None) -> Tensor:
    """``run`` on ``inputs`` in batches of exactly ``size``; the last one is filled up with its last input."""
    if size is None or len(inputs) == size:
        return run(inputs)
    responses = []
    for part in inputs.split(size):
        missing = size - len(part)
        full = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
        responses.append(run(full)[: len(part)])
    return torch.cat(responses)
