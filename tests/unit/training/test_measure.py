"""Accuracies by hand: of logits, over chips, with and without fuse and head."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from backends.datasets.base import Split
from bbfuse.training.evaluation import Spread, accuracies, accuracy, report_images

CLASSES = 5
CHIPS = [Chip(0.05, 2), Chip(0.05, 3), Chip(0.05, 7)]
LABELS = [3, 0, 4, 1, 1, 2, 0]


def test_a_spread_is_the_mean_and_the_population_sd() -> None:
    found = Spread.of([0.25, 0.5, 0.9, 0.35])
    assert found.mean == pytest.approx(0.5, abs=1e-15)
    assert found.sd == pytest.approx((0.245 / 4) ** 0.5, abs=1e-15)
    assert found.chips == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.mean = 0.3  # type: ignore[misc]
    assert vars(Spread.of([0.3])) == {"mean": 0.3, "sd": 0.0, "chips": 1}


def test_accuracy_is_the_share_of_rows_whose_largest_logit_is_the_label_s() -> None:
    logits = torch.tensor([[0.1, 0.7, 0.2], [-1.0, -3.0, -2.0], [0.4, 0.3, 0.5], [9.0, 8.0, 7.0], [0.0, 0.2, 0.3]])
    assert accuracy(logits, torch.tensor([1, 1, 2, 0, 1])) == pytest.approx(3 / 5, abs=1e-15)


@pytest.mark.parametrize(
    ("images", "chips", "per_chip", "sent"), [(360, 1, 0, 1440), (130, 3, 0, 1040), (130, 3, 17, 1091), (7, 0, 5, 14)]
)
def test_a_report_sends_raw_and_fused_images_at_nominal_voltage_and_on_every_chip_and_calibrates_each_chip_once(
    images: int, chips: int, per_chip: int, sent: int
) -> None:
    assert report_images(images, chips, per_chip) == sent


def test_without_a_head_of_its_own_a_chip_costs_no_calibration() -> None:
    assert report_images(30, 2) == 180


def said(value: int, chip: Chip) -> int:
    """The class that the target gives an image of that grey on that chip."""
    return (value + (value * chip.seed) % 3 + (2 if value >= 10 else 0)) % CLASSES


class Shift:
    """A head that takes each class for the one ``by`` further."""

    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, logits: Tensor) -> Tensor:
        return logits.roll(self.by, 1)


class Shifts:
    """A head of its own for each chip; before the training it was another."""

    def head_for(self, chip: Chip) -> Shift:
        return Shift(chip.seed + 1)

    def before_training(self, head: Shift) -> Shift:
        return Shift(head.by + 2)


def test_each_row_of_the_report_has_its_own_images_and_head() -> None:
    asked: list[tuple[float, Chip]] = []
    raw = [0, 1, 2, 3, 4, 6, 8]

    def query(images: Tensor, chip: Chip) -> Tensor:
        assert not images.requires_grad
        asked.append((images.sum().item(), chip))
        classes = [said(round(value), chip) for value in images.flatten().tolist()]
        return torch.nn.functional.one_hot(torch.tensor(classes), CLASSES) * 2.5

    def shares(fused: int, by: Any) -> list[float]:
        right = [[(said(v + fused, chip) + by(chip)) % CLASSES == want for v, want in zip(raw, LABELS, strict=True)] for chip in
                 (NOMINAL, *CHIPS)]  # fmt: skip
        return [sum(row) / len(row) for row in right]

    test = Split(torch.tensor(raw).float()[:, None, None, None], torch.tensor(LABELS))
    shift = torch.tensor(10.0, requires_grad=True)
    found = accuracies(query, lambda images: images + shift, Shifts(), test, CHIPS)  # type: ignore[arg-type]
    bare, fused = shares(0, lambda chip: 0), shares(10, lambda chip: 0)
    head, both = shares(0, lambda chip: chip.seed + 3), shares(10, lambda chip: chip.seed + 1)
    assert found["clean"] == pytest.approx(bare[0])
    assert found["clean_fused"] == pytest.approx(both[0])
    for name, rows in (("perturbed", bare), ("perturbed_head", head), ("perturbed_fuse", fused), ("perturbed_fused", both)):
        chips = rows[1:]
        mean = sum(chips) / 3
        sd = (sum((share - mean) ** 2 for share in chips) / 3) ** 0.5
        assert found[name] == {"mean": pytest.approx(mean), "sd": pytest.approx(sd), "chips": 3}
    assert len({bare[1], head[1], fused[1], both[1]} | {bare[2], head[2], fused[2], both[2]}) > 3
    assert sorted(asked, key=repr) == sorted([(at, chip) for chip in (NOMINAL, *CHIPS) for at in (24.0, 94.0)], key=repr)
