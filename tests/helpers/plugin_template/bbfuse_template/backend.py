"""A backend with settings: in place of the client of a device or of an API."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backends.base import Access, Backend, BackendInfo, Chip, Sending
from backends.datasets.base import Dataset
from backends.kinds.base import BACKENDS, BackendKind, Opening
from backends.settings import NonNegative


@dataclass(frozen=True)
class CorrelatorConfig:
    """Settings of the correlator."""

    noise: NonNegative = 10.0
    """change of the logits by a chip, for a bit error rate of 1"""


class Client:
    """Correlates an image with the mean image of each class; a chip changes each logit by a constant."""

    def __init__(self, data: Dataset, noise: float) -> None:
        self.info = BackendInfo("correlator", Access.LOGITS, data.image_shape, data.classes)
        images, labels = data.train.images.flatten(1), data.train.labels
        means = torch.stack([images[labels == number].mean(0) for number in range(data.classes)])
        self._weights, self._noise = (means - means.mean(0)).T, noise

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        sending(len(images))  # before every attempt; may raise
        changes = torch.randn(self.info.classes, generator=torch.Generator().manual_seed(chip.seed))
        with torch.no_grad():
            return images.flatten(1) @ self._weights + self._noise * chip.bit_error_rate * changes

    def close(self) -> None: ...


@BACKENDS.register("correlator")
class Correlator(BackendKind):
    """A device that correlates images with the mean of each class: strict access."""

    Config = CorrelatorConfig

    @classmethod
    def on_chip(cls, target: str, settings: CorrelatorConfig) -> bool:
        return False  # no energy in the summary

    @classmethod
    def open(cls, opening: Opening) -> Backend:
        return Client(opening.data, opening.settings.noise)
