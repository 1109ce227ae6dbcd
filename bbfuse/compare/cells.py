"""Accuracy of a target on many chips, with or without a fuse: each cell is computed once and cached in a file."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from backends.base import NOMINAL, Chip
from backends.datasets.loading import load
from backends.memory.config import Memory
from backends.memory.simulator import Simulator
from backends.targets.fit import fitted
from bbfuse.compare.executor import process_count
from bbfuse.fuse.module import Fuse
from bbfuse.seeds import reporting_chips
from bbfuse.training.evaluation import Spread, accuracy

__all__ = ["Cell", "evaluate"]

_BATCH = 500


@dataclass(frozen=True)
class Cell:
    """Held-out accuracy on the first ``chips`` reporting chips."""

    data: str
    target: str
    memory: Memory
    bit_error_rate: float
    chips: int
    images: int | None
    """the first images of the test part; all of them if not given"""
    run: str | None = None
    """folder of the run whose fuse is placed before the target; no fuse if not given"""
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The name of its file; different cells have different names."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def evaluate(root: Path, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """For each of ``cells`` the accuracy as a fraction: ``clean`` at nominal voltage, ``mean`` and ``sd`` over chips.

    Cells that have no file in ``root`` are computed on all cores and written there.
    """
    root.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in dict.fromkeys(cells) if not (root / f"{cell.name}.json").exists()]
    with ProcessPoolExecutor(process_count(cell.device for cell in missing), multiprocessing.get_context("spawn")) as pool:
        found = pool.map(_computed, missing)
        for cell, values in zip(missing, track(found, "cells", len(missing), console=Console(stderr=True)), strict=True):
            (root / f"{cell.name}.json").write_text(json.dumps(values))
    return [json.loads((root / f"{cell.name}.json").read_text()) for cell in cells]


def _computed(cell: Cell) -> dict[str, Any]:
    torch.set_num_threads(1)
    test = load(cell.data).test[: cell.images]
    images, simulator = test.images.to(cell.device), _simulator(cell.data, cell.target, cell.memory, cell.device)
    with torch.no_grad():
        if cell.run is not None:
            fuse = Fuse.load(Path(cell.run) / "fuse.pt").to(cell.device)
            images = torch.cat([fuse(part) for part in images.split(_BATCH)])

        def accuracy_on(chip: Chip) -> float:
            logits: Tensor = torch.cat([simulator.logits(part, chip) for part in images.split(_BATCH)])
            return accuracy(logits.cpu(), test.labels)

        each = Spread.of([accuracy_on(Chip(cell.bit_error_rate, seed)) for seed in reporting_chips(cell.chips)])
        return {"clean": accuracy_on(NOMINAL), "mean": each.mean, "sd": each.sd}


@lru_cache(maxsize=4)
def _simulator(data: str, target: str, memory: Memory, device: str) -> Simulator:
    return Simulator(fitted(target, load(data)).to(device), memory)
