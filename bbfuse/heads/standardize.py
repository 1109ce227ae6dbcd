"""The head without labels: each class's logit gets the nominal mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from backends.settings import Count
from bbfuse.heads.base import HEADS, CalibratedHead

__all__ = ["Standardize", "StandardizeConfig"]


@dataclass(frozen=True)
class StandardizeConfig:
    """The head without labels."""

    images: Count = 50
    """raw responses that calibrate it, from each chip and once at nominal voltage, to owned images"""


@HEADS.register("standardize")
class Standardize(CalibratedHead):
    """Brings each class's logit to its nominal mean and standard deviation, from 50 unlabelled responses; works on unseen chips.

    ``h(z) = (z - m_chip) / s_chip * s_nominal + m_nominal``, with mean and population standard deviation of each class over the
    same raw images.
    """

    Config = StandardizeConfig

    def __init__(self, responses: Tensor, reference: Tensor) -> None:
        """From logits of a chip and of the nominal target to the same images, each (n, classes)."""
        super().__init__()
        gain = reference.std(0, correction=0) / responses.std(0, correction=0).clamp_min(1e-6)
        self.gain: Tensor
        self.shift: Tensor
        self.register_buffer("gain", gain)
        self.register_buffer("shift", reference.mean(0) - gain * responses.mean(0))

    @classmethod
    def create(cls, settings: StandardizeConfig, responses: Tensor, reference: Tensor) -> Standardize:
        """See `CalibratedHead`."""
        return cls(responses, reference)

    def forward(self, logits: Tensor) -> Tensor:
        """``gain * z + shift``."""
        return logits * self.gain + self.shift
