"""Which chips calibrate a head, on which images, how often; and what a head was before the fuse was trained beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from bbfuse.heads.affine import Affine
from bbfuse.heads.base import HEADS
from bbfuse.heads.per_chip import ChipHeads

CLASSES = 3
ONE, OTHER = Chip(0.05, 7), Chip(0.05, 11)


def heads_of(name: str, chip: Chip | None, raw: Tensor, classes: int, query: Any) -> ChipHeads:
    kind = HEADS[name]
    settings = kind.Config(decay=0.02) if name in ("affine", "net") else kind.Config()
    return ChipHeads(name, settings, chip, raw, classes, query)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of(tensor: Tensor) -> Any:
    return tensor.detach().double().numpy()


def close(found: Tensor, expected: Any) -> None:
    np.testing.assert_allclose(of(found), expected, rtol=2e-5, atol=2e-5)


class Asked:
    """A target that writes down which images it was asked about which chip."""

    def __init__(self) -> None:
        self.questions: list[tuple[int, Chip]] = []

    def __call__(self, images: Tensor, chip: Chip) -> Tensor:
        self.questions.append((len(images), chip))
        return answers_of(images, chip)


def answers_of(images: Tensor, chip: Chip) -> Tensor:
    return images.flatten(1) @ drawn(50 + chip.seed, 4, CLASSES) * (1.0 + chip.bit_error_rate) + 0.1 * chip.seed


RAW = drawn(60, 12, 1, 2, 2)
LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 2, 1, 0, 0, 1, 2, 2, 2, 0])
"""Of more images than the head is calibrated on."""


@pytest.mark.parametrize(
    ("name", "chip", "first", "later"),
    [
        ("none", ONE, [], []),
        ("none", None, [], []),
        ("standardize", ONE, [(12, NOMINAL), (12, ONE)], []),
        ("standardize", None, [(12, NOMINAL)], [(12, OTHER)]),
        ("affine", ONE, [(12, ONE)], []),
        ("net", ONE, [(12, ONE)], []),
    ],
)
def test_a_head_asks_its_calibration_images_on_these_chips_and_no_others(
    name: str, chip: Chip | None, first: list[tuple[int, Chip]], later: list[tuple[int, Chip]]
) -> None:
    query = Asked()
    heads = heads_of(name, chip, RAW, CLASSES, query)
    assert heads.queries_before_training == tuple(images for images, _ in first)
    assert heads.images_per_chip == (12 if name == "standardize" else 0)
    assert heads.state_dict()["reference"].shape == (0, CLASSES)  # no nominal answers yet
    told = heads.fit(LABELS)
    assert query.questions == first
    assert heads.queries_before_training == tuple(images for images, _ in first)
    if name in ("affine", "net"):
        assert told is not None
        torch.testing.assert_close(told, answers_of(RAW, ONE))
    else:
        assert told is None
    for _ in range(2):
        query.questions.clear()
        heads.head_for(OTHER if chip is None else chip)
        assert query.questions == later
    query.questions.clear()
    heads.head_for(NOMINAL)
    assert query.questions == []


def test_standardize_brings_a_chip_to_nominal_voltage_and_leaves_nominal_answers_alone() -> None:
    z = drawn(4, 5, CLASSES)
    for heads, chip in ((heads_of("standardize", c, RAW, CLASSES, Asked()), c or OTHER) for c in (ONE, None)):
        heads.fit(LABELS)
        raw, clean = of(answers_of(RAW, chip)), of(answers_of(RAW, NOMINAL))
        close(heads.head_for(chip)(z), (of(z) - raw.mean(0)) / raw.std(0) * clean.std(0) + clean.mean(0))
        assert heads.head_for(NOMINAL)(z) is z


def test_a_learnt_head_is_fitted_to_the_labels_of_its_own_images_and_the_fitted_one_is_the_base_line() -> None:
    heads = heads_of("affine", ONE, RAW, CLASSES, Asked())
    before = heads.head_for(ONE)
    assert heads.before_training(before) is before  # nothing was fitted yet
    heads.fit(LABELS)
    fitted = Affine(CLASSES, 0.02)
    fitted.fit(answers_of(RAW, ONE), LABELS[:12])
    head = heads.head_for(ONE)
    assert head is heads.trained is heads.head_for(NOMINAL)
    z = drawn(4, 5, CLASSES)
    assert torch.equal(head(z), fitted(z))
    with torch.no_grad():
        heads.trained.bias.add_(3.0)
    assert torch.equal(heads.before_training(head)(z), fitted(z))
    torch.testing.assert_close(head(z), fitted(z) + 3.0)


def test_a_head_that_was_taken_over_is_not_fitted_again() -> None:
    first = heads_of("affine", ONE, RAW, CLASSES, Asked())
    first.fit(LABELS)
    query = Asked()
    heads = heads_of("affine", ONE, RAW, CLASSES, query)
    assert heads.warm_started is False
    heads.warm_start(first.state_dict())
    assert heads.queries_before_training == ()
    assert heads.fit(LABELS.flip(0)) is None
    assert query.questions == []
    assert heads.warm_started is True
    z = drawn(4, 5, CLASSES)
    assert torch.equal(heads.head_for(ONE)(z), first.head_for(ONE)(z))
    assert torch.equal(heads.before_training(heads.head_for(ONE))(z), first.head_for(ONE)(z))


def test_before_a_model_of_the_target_a_head_is_calibrated_on_the_model_or_left_out() -> None:
    def model(images: Tensor, chip: Chip) -> Tensor:
        return (images.flatten(1) @ drawn(80 + chip.seed, 4, CLASSES)).requires_grad_()

    z, query = drawn(4, 5, CLASSES), Asked()
    heads = heads_of("standardize", None, RAW, CLASSES, query)
    raw, clean = of(model(RAW, OTHER)), of(model(RAW, NOMINAL))
    made = heads.head_for(OTHER, model)
    close(made(z), (of(z) - raw.mean(0)) / raw.std(0) * clean.std(0) + clean.mean(0))
    assert not made(z).requires_grad
    assert heads.head_for(NOMINAL, model)(z) is z
    learnt = heads_of("affine", ONE, RAW, CLASSES, query)
    learnt.fit(LABELS)
    assert learnt.head_for(ONE, model)(z) is z
    assert query.questions == [(12, ONE)]


@pytest.mark.parametrize(
    ("name", "chip"), [("none", None), ("standardize", ONE), ("standardize", None), ("affine", ONE), ("net", ONE)]
)
def test_saved_and_loaded_heads_correct_alike(name: str, chip: Chip | None) -> None:
    heads, other = (heads_of(name, chip, RAW, CLASSES, Asked()) for _ in range(2))
    heads.fit(LABELS)
    if heads.trained is not None:
        with torch.no_grad():
            heads.trained.bias.add_(0.3)
    other.load_state_dict(heads.state_dict())
    z, met = drawn(4, 5, CLASSES), chip or OTHER
    assert torch.equal(heads.head_for(met)(z), other.head_for(met)(z))
    assert torch.equal(heads.before_training(heads.head_for(met))(z), other.before_training(other.head_for(met))(z))
    assert not torch.equal(heads.head_for(met)(z), z) or name == "none"
