"""Named random streams: the numbers of a stream depend on the run's seed and the stream's name, and on nothing else.

Chips are drawn from three disjoint ranges of seeds (law 4): training 0 to 29,999 (NeuralFuse draws from 0 to 30,000),
validation from 40,000, reporting from 50,000 (NeuralFuse's 50,000 to 50,009).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["fair_signs", "reporting_chips", "stream", "training_chips", "validation_chip"]

_TRAINING = 30_000
_VALIDATION = 40_000
_REPORTING = 50_000


def stream(seed: int, *name: str | int) -> torch.Generator:
    """A generator for the stream called ``name`` of the run with root ``seed``, such as ``stream(0, "probe", step, 3)``."""
    digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def fair_signs(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Independent fair signs, -1.0 or 1.0, of that shape."""
    return torch.randint(0, 2, tuple(shape), generator=rng).float() * 2.0 - 1.0


def training_chips(seed: int, step: int, count: int, pool: int | None = None) -> list[int]:
    """Seeds of the chips of training step ``step``, drawn from the first ``pool`` ones, if given."""
    seeds: list[int] = torch.randint(
        min(pool or _TRAINING, _TRAINING), (count,), generator=stream(seed, "training chips", step)
    ).tolist()
    return seeds


def validation_chip(index: int) -> int:
    """Seed of the chip of the ``index``-th validation."""
    return _VALIDATION + index


def reporting_chips(count: int) -> list[int]:
    """Seeds of the chips that results are reported on."""
    return [_REPORTING + index for index in range(count)]
