"""A head that is calibrated from responses without labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bbfuse.heads.base import HEADS, CalibratedHead


@HEADS.register("centred")
class Centred(CalibratedHead):
    """Shifts each class's logit to its nominal mean."""

    shift: Tensor

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)

    @classmethod
    def create(cls, settings: Any, responses: Tensor, reference: Tensor) -> Centred:
        return cls(reference.mean(0) - responses.mean(0))

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.shift
