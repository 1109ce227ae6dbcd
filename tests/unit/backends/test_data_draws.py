"""The first so many images of a part are a stratified random draw, whatever the order in which the files came."""

from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError
from fractions import Fraction
from math import ceil, floor

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from backends.base import InputError
from backends.datasets import loading
from backends.datasets.base import Dataset, Split
from backends.datasets.drawing import stratified
from backends.datasets.loading import load
from tests.helpers.pictures import NAMES, drawings, in_memory, png

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=40)


def loaded(name: str, monkeypatch: pytest.MonkeyPatch, train: list[int], test: list[int], order: int | None = None) -> Dataset:
    """A data set with so many images a class; their files in the order of classes, or in a random one."""
    parts = {}
    for seed, (part, counts) in enumerate({"train": train, "test": test}.items()):
        rows = drawings(counts, seed)
        places = range(len(rows)) if order is None else np.random.default_rng(order).permutation(len(rows))
        parts[part] = in_memory([(png(rows[place][0]), rows[place][1]) for place in places])
    monkeypatch.setattr("backends.datasets.folders._opened", lambda _: parts)
    return loading._loaded(name)


@given(LABELS, st.integers(0, 9))
@settings(max_examples=50)
def test_every_beginning_has_of_each_class_its_share_rounded_down_or_up(labels: list[int], seed: int) -> None:
    order = stratified(np.array(labels), np.random.default_rng(seed)).tolist()
    assert sorted(order) == list(range(len(labels)))
    for first in range(1, len(labels) + 1):
        taken = [labels[row] for row in order[:first]]
        for label in set(labels):
            share = Fraction(first * labels.count(label), len(labels))
            assert floor(share) <= taken.count(label) <= ceil(share)


@given(LABELS, st.integers(0, 9))
@settings(max_examples=50)
def test_the_order_is_that_of_the_earliest_deadline_among_those_whose_window_is_open(labels: list[int], seed: int) -> None:
    drawn = np.random.default_rng(seed).permutation(len(labels)).tolist()
    every = {label: Fraction(len(labels), labels.count(label)) for label in set(labels)}  # places for one of this class
    left = {label: [row for row in drawn if labels[row] == label] for label in set(labels)}
    expected: list[int] = []
    while len(expected) < len(labels):
        done = {label: labels.count(label) - len(rows) for label, rows in left.items()}
        may = [rows[0] for label, rows in left.items() if rows and done[label] * every[label] < len(expected) + 1]
        due = {row: ceil((done[labels[row]] + 1) * every[labels[row]]) for row in may}
        first = min(may, key=lambda row: (due[row], drawn.index(row)))
        left[labels[first]].remove(first)
        expected.append(first)
    assert stratified(np.array(labels), np.random.default_rng(seed)).tolist() == expected


def test_within_a_class_every_image_is_drawn_equally_often() -> None:
    """3 of the 7 images of class 0 are among the first 6 of 14: each with probability 3/7, for 1,000 seeds."""
    labels = np.array([0] * 7 + [1] * 7)
    counts = np.zeros(14)
    for seed in range(1000):
        counts[stratified(labels, np.random.default_rng(seed))[:6]] += 1
    expected, sd = 1000 * 3 / 7, (1000 * 3 / 7 * 4 / 7) ** 0.5
    assert (abs(counts - expected) < 5 * sd).all()  # wrongly red once in 100,000


def test_the_order_of_the_files_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    by_class, by_chance = (loaded("me/mine", monkeypatch, [40, 23, 17], [11, 9, 5], order) for order in (None, 8))
    for part in ("train", "validation", "test"):
        a, b = getattr(by_class, part), getattr(by_chance, part)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def test_the_draw_is_that_of_seed_0_among_images_in_the_order_of_their_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    test = loaded("me/mine", monkeypatch, [40, 30, 20], [12, 6, 3]).test
    digests = {
        hashlib.blake2b(image.numpy().tobytes() + label.numpy().tobytes()).digest(): place
        for place, (image, label) in enumerate(zip(test.images, test.labels, strict=True))
    }
    ordered = [digests[digest] for digest in sorted(digests)]
    drawn = stratified(test.labels.numpy()[ordered], np.random.default_rng(0))
    assert [ordered[place] for place in drawn] == list(range(21))


def of_each_class(part: Split | Tensor) -> list[int]:
    return torch.bincount(part.labels if isinstance(part, Split) else part, minlength=len(NAMES)).tolist()


def test_the_validation_part_is_a_tenth_of_every_class_and_images_keep_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = loaded("me/mine", monkeypatch, [40, 30, 20], [12, 6, 3])
    assert (of_each_class(data.train), of_each_class(data.validation)) == ([36, 27, 18], [4, 3, 2])
    assert of_each_class(data.test) == [12, 6, 3]
    assert of_each_class(data.test[:7]) == [4, 2, 1]
    assert of_each_class(data.validation[:3]) in ([1, 1, 1], [2, 1, 0])
    for part in (data.train, data.validation, data.test):
        told = (part.images[:, 0, 0, 0] + 1.0) * 127.5
        assert torch.allclose(told, 60.0 * part.labels + 7.0, atol=1e-3)
    seen = {image.numpy().tobytes() for part in (data.train, data.validation, data.test) for image in part.images}
    assert len(seen) == 90 + 21


@pytest.mark.parametrize(("images", "train", "validation"), [(10, 8, 2), (34, 28, 6), (45, 36, 9), (46, 37, 9), (90, 81, 9)])
def test_what_is_owned_is_so_many_in_all_and_stratified(
    images: int, train: int, validation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loaded("me/mine", monkeypatch, [40, 30, 20], [12, 6, 3])
    data = whole.owned(images)
    assert (len(data.train), len(data.validation)) == (train, validation)
    for part, of in ((data.train, whole.train), (data.validation, whole.validation)):
        assert torch.equal(part.images, of.images[: len(part)])
        for found, size in zip(of_each_class(part), of_each_class(of), strict=True):
            assert floor(Fraction(len(part) * size, len(of))) <= found <= ceil(Fraction(len(part) * size, len(of)))
    assert data.test is whole.test
    assert (data.name, data.classes) == (whole.name, 3)


def test_no_fewer_are_owned_than_ten_or_than_there_are_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = loaded("me/mine", monkeypatch, [40, 30, 20], [12, 6, 3])
    assert data.owned(None) is data
    with pytest.raises(FrozenInstanceError):
        data.classes = 4  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        data.test.labels = data.train.labels  # type: ignore[misc]
    for images in (9, 91):
        with pytest.raises(InputError, match=rf"^`images` must lie in \[10, 90\] for me/mine, got {images}$"):
            data.owned(images)
    many = Dataset("many", 12, data.train, data.validation, data.test)
    assert len(many.owned(12).train) == 10
    with pytest.raises(InputError, match=r"must lie in \[12, 90\] for many, got 11$"):
        many.owned(11)


def test_the_digits_are_split_once_and_for_all_and_their_beginnings_are_as_even_as_said() -> None:
    data = load("digits")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1150, 287, 360]
    assert (data.name, data.classes, data.image_shape) == ("digits", 10, (1, 8, 8))
    assert data.test.labels[:12].tolist() == [0, 8, 8, 9, 8, 3, 7, 5, 0, 6, 6, 3]
    assert data.train.images[0, 0, 2, :4].tolist() == [-1.0, -1.0, 0.625, -0.375]  # grey levels 0, 0, 13 and 5 of 16
    assert load("digits") is data
    for part in (data.train, data.validation, data.test):
        share = torch.bincount(part.labels) / len(part)
        taken = torch.nn.functional.one_hot(part.labels).cumsum(0)
        off = (taken - torch.arange(1, len(part) + 1)[:, None] * share).abs()
        assert off.max() < 12
        if len(part) < 1000:
            assert off[99].max() < 5
            assert 5 <= taken[99].min() <= taken[99].max() <= 16
