"""A trained network of the user, which takes inputs in the form of the user's data."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from backends.datasets.form import Form

__all__ = ["Formed", "formed"]


class Formed(nn.Module):
    """``network`` behind the way from inputs in [-1, 1] to those that it takes. Whole numbers are not rounded: inputs keep their
    gradients."""

    def __init__(self, network: nn.Module, form: Form) -> None:
        super().__init__()
        self.network, self._form = network, replace(form, integers=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, classes) of ``inputs`` (n, ...) in [-1, 1]."""
        logits: Tensor = self.network(self._form.outward(inputs))
        return logits


def formed(network: nn.Module, form: Form | None) -> nn.Module:
    """``network`` for inputs in [-1, 1], if its own are in ``form``."""
    return network if form in (None, Form()) else Formed(network, form)
