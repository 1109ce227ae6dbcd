"""A target with gradients in closed form, small data for it, and whole runs before it, seen step by step."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.base import NOMINAL, Access, BackendInfo, Chip, Sending
from backends.datasets.base import Dataset, Split
from bbfuse.callbacks.base import Status
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.heads.affine import AffineConfig
from bbfuse.objective.eopm import EopmConfig
from bbfuse.objective.step import Probe, Score, Step
from bbfuse.querying.ledger import Ledger
from bbfuse.runs.folder import RunFolder
from bbfuse.training.trainer import Trainer
from tests.helpers.references.points import named

SHAPE, CLASSES = (1, 8, 8), 4
ONE = Chip(0.05, 3)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def part(seed: int, images: int) -> Split:
    pixels = (0.6 * drawn(seed, images, *SHAPE)).clamp(-1.0, 1.0)
    noise = 2.0 * drawn(seed + 1, images, CLASSES)
    return Split(pixels, (answers(pixels, NOMINAL) + noise).argmax(1))


def answers(images: Tensor, chip: Chip) -> Tensor:
    """A smooth map from pixels to logits; a chip bends it and shifts a class."""
    logits = 3.0 * torch.tanh(images.flatten(1) @ (drawn(7, 64, CLASSES) / 4.0))
    return logits + chip.bit_error_rate * (40.0 * drawn(chip.seed + 100, CLASSES) + 10.0 * logits.roll(1, 1))


class Open:
    """A target with gradients, which keeps what it was asked."""

    def __init__(self) -> None:
        self.info = BackendInfo("open", Access.GRADIENTS, SHAPE, CLASSES)
        self.asked: list[tuple[Tensor, Chip]] = []

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        sending(len(images))
        self.asked.append((images.detach(), chip))
        return answers(images, chip)

    def close(self) -> None: ...


DATA = Dataset("some", CLASSES, part(20, 60), part(30, 31), part(40, 27))
CONFIG = RunConfig(
    backend="whitebox", optimizer="backprop", generator="Filter", chip_seed=3, batch=7, seed=5, budget=500,
    affine=AffineConfig(images=40, lr=0.02, decay=0.01), validation=ValidationConfig(images=23, times=2),
)  # fmt: skip


def trained(
    config: RunConfig, folder: Path, scorer: Any = None, data: Dataset = DATA
) -> tuple[Trainer, Open, dict[str, Any], list[Status]]:
    """A whole run: its trainer, its target, its accuracies and all that it showed."""
    target, shown = Open(), list[Status]()
    with contextlib.closing(RunFolder.create(folder, config)) as records:
        trainer = Trainer(config, target.info, data, Ledger(target, config.budget), records, scorer)
        return trainer, target, trainer.run(shown.append), shown


STRICT = dataclasses.replace(CONFIG, backend="local", optimizer="spsa", head="none", budget=1_500)


def steps_of(config: RunConfig, folder: Path, data: Dataset = DATA) -> tuple[Trainer, list[Step]]:
    """A run, and every step of it as those who score its probes see it."""
    seen: list[Step] = []

    def scorer(step: Step, probes: Sequence[Probe]) -> list[Score | None]:
        seen.append(step)
        return list(Step.scored_here(step, probes))

    return trained(config, folder, scorer, data)[0], seen


def terms(step: Step) -> list[tuple[Chip, float]]:
    return [(term.chip, term.weight) for term in step.terms]


def chips(step: int, count: int, pool: int = 30_000) -> list[int]:
    found: list[int] = torch.randint(pool, (count,), generator=named(5, "training chips", step)).tolist()
    return found


POPULATION = dataclasses.replace(STRICT, chip_seed=None, report=ReportConfig(chips=2), eopm=EopmConfig(chips=2, pool=9))
