"""Every registered target and data set keeps its contract, and the contracts notice those that do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from backends.datasets.base import DATASETS, Dataset, Split
from backends.targets.base import TARGETS, architecture
from backends.testing import check_dataset, check_target


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_keeps_its_contract(name: str) -> None:
    check_target(name)


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_keeps_its_contract(name: str) -> None:
    check_dataset(name)


def test_components_are_checked_as_well_as_names(digits: Dataset) -> None:
    check_dataset(digits)
    check_dataset(lambda: digits)
    check_target(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    check_target(lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(48, classes)), (3, 4, 4))


def five(_: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))


def weightless(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(classes))


class Noisy(nn.Module):
    """A network whose logits depend on more than its weights."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.last, self.noise = nn.Linear(64, classes), torch.rand(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(images.flatten(1)) + self.noise
        return logits


@pytest.mark.parametrize("make", [five, weightless, Noisy])
def test_the_contract_notices_a_target_that_breaks_it(make: Callable[[int], nn.Module]) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_target(architecture(image_shape=(1, 8, 8))(make))


def shared(data: Dataset) -> Dataset:
    return replace(data, test=data.train[:3])


def bright(data: Dataset) -> Dataset:
    return replace(data, test=Split(data.test.images * 2.0, data.test.labels))


def strange(data: Dataset) -> Dataset:
    return replace(data, classes=9)


def missing(data: Dataset) -> Dataset:
    return replace(data, train=data.train[data.train.labels != 3])


@pytest.mark.parametrize("change", [shared, bright, strange, missing])
def test_the_contract_notices_a_data_set_that_breaks_it(change: Callable[[Dataset], Dataset], digits: Dataset) -> None:
    with pytest.raises(AssertionError):
        check_dataset(change(digits))
