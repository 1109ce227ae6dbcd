"""Small targets and steps for tests: closed forms that cost nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from backends.base import Access, BackendInfo, Chip, Sending
from backends.datasets.base import Dataset
from bbfuse.objective.step import Step

CHIP = Chip(0.05, 0)
SMALL = (1, 4, 4)
StepMaker = Callable[..., Step]


class LinearBackend:
    """A closed-form target for 8x8 images, so cheap that whole runs take a second; a chip shifts its answers."""

    def __init__(self, data: Dataset) -> None:
        images, labels = data.train.images.flatten(1), data.train.labels
        design = torch.cat([images, torch.ones(len(images), 1)], 1).double()
        wanted = nn.functional.one_hot(labels, 10).double()
        self._weights = torch.linalg.lstsq(design, 8.0 * wanted, driver="gelsd").solution.float()
        self.info = BackendInfo("linear", Access.LOGITS, (1, 8, 8), 10)
        self.received = 0

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        sending(len(images))
        self.received += len(images)
        with torch.no_grad():
            logits = images.flatten(1) @ self._weights[:-1] + self._weights[-1]
            wrong = torch.randn(10, generator=torch.Generator().manual_seed(chip.seed))
            return logits + 100.0 * chip.bit_error_rate * wrong

    def close(self) -> None:
        pass
