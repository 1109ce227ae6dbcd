"""A seed of its own for every test that draws the weights of layers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def seeded() -> Iterator[None]:
    """Fresh layers have the same weights in any order of tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
