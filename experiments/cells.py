"""What a target has right behind a fuse, in any memory at any rate: many questions, each answered once and kept in a file."""

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
from bbfuse.fuse.module import Fuse
from bbfuse.seeds import reporting_chips
from bbfuse.training.evaluation import Spread, accuracy
from experiments.carrying import processes

__all__ = ["Cell", "answered"]

_AT_ONCE = 500


@dataclass(frozen=True)
class Cell:
    """One question: held-out accuracy on the first ``chips`` chips that are reported on."""

    data: str
    target: str
    memory: Memory
    bit_error_rate: float
    chips: int
    images: int | None
    """the first ones of the test part; all of them if not given"""
    run: str | None = None
    """folder of the run whose fuse stands in front; none if not given"""
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Of its file: cells that differ have other names."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def answered(root: Path, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """For each of ``cells``, fractions of the images: ``clean`` at nominal voltage, ``mean`` and ``sd`` over chips. What is not
    in ``root`` yet is computed there, on all cores."""
    root.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in dict.fromkeys(cells) if not (root / f"{cell.name}.json").exists()]
    with ProcessPoolExecutor(processes(cell.device for cell in missing), multiprocessing.get_context("spawn")) as pool:
        found = pool.map(_answer, missing)
        for cell, answer in zip(missing, track(found, "cells", len(missing), console=Console(stderr=True)), strict=True):
            (root / f"{cell.name}.json").write_text(json.dumps(answer))
    return [json.loads((root / f"{cell.name}.json").read_text()) for cell in cells]


def _answer(cell: Cell) -> dict[str, Any]:
    torch.set_num_threads(1)
    test = load(cell.data).test[: cell.images]
    images, simulator = test.images.to(cell.device), _simulator(cell.data, cell.target, cell.memory, cell.device)
    with torch.no_grad():
        if cell.run is not None:
            fuse = Fuse.load(Path(cell.run) / "fuse.pt").to(cell.device)
            images = torch.cat([fuse(part) for part in images.split(_AT_ONCE)])

        def right(chip: Chip) -> float:
            answers: Tensor = torch.cat([simulator.logits(part, chip) for part in images.split(_AT_ONCE)])
            return accuracy(answers.cpu(), test.labels)

        each = Spread.of([right(Chip(cell.bit_error_rate, seed)) for seed in reporting_chips(cell.chips)])
        return {"clean": right(NOMINAL), "mean": each.mean, "sd": each.sd}


@lru_cache(maxsize=4)
def _simulator(data: str, target: str, memory: Memory, device: str) -> Simulator:
    return Simulator(fitted(target, load(data)).to(device), memory)
