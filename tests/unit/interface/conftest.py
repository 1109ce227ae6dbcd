"""A small problem of the user's own: bright rows in noise, as arrays, and a network that knows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]


def templates() -> Tensor:
    """Four 8x8 images in [0, 1]; the class is the bright row."""
    found = torch.full((4, 1, 8, 8), 0.2)
    for row in range(4):
        found[row, 0, 2 * row] = 0.9
    return found


@pytest.fixture(scope="session")
def arrays() -> Arrays:
    """320 images (n, 1, 8, 8) in [0, 1] and their classes."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(320) % 4
    images = (templates()[labels] + 0.15 * torch.randn(320, 1, 8, 8, generator=rng)).clamp(0, 1)
    return images.numpy(), labels.numpy()


@pytest.fixture(scope="session")
def own() -> nn.Module:
    """A classifier of such images: correlates them with the templates, in two layers whose weights can be stored."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    rng = torch.Generator().manual_seed(1)
    mean = templates().mean(0).flatten()
    with torch.no_grad():
        rows = (templates().flatten(1) - mean).repeat(4, 1) + 0.02 * torch.randn(16, 64, generator=rng)
        network[1].weight.copy_(rows)
        network[1].bias.copy_(-rows @ mean)
        network[3].weight.copy_(torch.eye(4).repeat(1, 4))
        network[3].bias.zero_()
    return network.eval()


@pytest.fixture
def quick() -> dict[str, Any]:
    """Settings of a run of a second."""
    return {"optimizer": "spsa", "budget": 1_500, "validation": {"images": 20, "times": 2}, "report": {"images": 40}}
