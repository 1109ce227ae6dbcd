"""Ranks in place of losses, so that a step does not depend on their scale (Wierstra et al. 2014; Salimans et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["centred_ranks"]


def centred_ranks(losses: Sequence[float]) -> Tensor:
    """Each loss's place among ``losses`` (n,), from -1/2 for the smallest to 1/2 for the largest; equal ones share their mean."""
    values = torch.tensor(losses, dtype=torch.float64)
    if len(values) < 2:
        return torch.zeros(len(values))
    below = (values[None, :] < values[:, None]).sum(1)
    not_above = (values[None, :] <= values[:, None]).sum(1)
    return ((below + not_above - 1) / 2 / (len(values) - 1) - 0.5).float()
