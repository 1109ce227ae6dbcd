"""Data sets: the one that scikit-learn carries, and folders that the library `datasets` reads."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from backends.data import load
from backends.interface import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def folder(path: Path, shapes: list[tuple[int, ...]], splits: tuple[str, ...] = ("train", "test"), column: str = "label") -> Path:
    for split in splits:
        rng = np.random.default_rng(0)
        pictures = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
        columns = {"image": pictures, column: [j % 3 for j in range(len(pictures))]}
        features = datasets.Features({"image": datasets.Image(), column: datasets.ClassLabel(names=["a", "b", "c"])})
        made = datasets.Dataset.from_dict(columns, features=features)
        path.mkdir(exist_ok=True)
        made.to_parquet(str(path / f"{split}.parquet"))
    return path


def test_the_digits_are_split_once_and_for_all() -> None:
    data = load("digits")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1150, 287, 360]
    assert data.image_shape == (1, 8, 8)
    assert load("digits") is data


@pytest.mark.parametrize(("shape", "channels"), [((6, 8, 3), 3), ((6, 8), 1)])
def test_a_folder_of_images_becomes_a_data_set(shape: tuple[int, ...], channels: int, tmp_path: Path) -> None:
    data = load(str(folder(tmp_path / "mine", [shape] * 40)))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [36, 4, 40]
    assert data.image_shape == (channels, 6, 8)
    assert data.classes == 3
    everything = torch.cat([data.train.images, data.validation.images])
    assert everything.min() >= -1.0
    assert everything.max() <= 1.0
    first = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)  # the same picture in both splits
    expected = torch.from_numpy(first).view(6, 8, channels).permute(2, 0, 1).float() / 127.5 - 1.0
    assert torch.allclose(data.test.images[0], expected, atol=1e-6)
    assert data.test.labels[:4].tolist() == [0, 1, 2, 0]


def test_what_is_no_data_set_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in (
        (str(tmp_path / "nowhere"), "nowhere cannot be read"),
        (str(tmp_path / "empty"), "empty cannot be read"),
        (str(folder(tmp_path / "one", [(8, 8, 3)] * 3, splits=("train",))), "splits train and test, got train"),
        (str(folder(tmp_path / "named", [(8, 8, 3)] * 3, column="colour")), "columns image and label, got image, colour"),
        (str(folder(tmp_path / "sizes", [(8, 8, 3), (9, 8, 3)])), r"images of one size and mode, got \(8, 8, 3\), \(9, 8, 3\)"),
    ):
        with pytest.raises(InputError, match=words) as refused:
            load(name)
        assert "\n" not in str(refused.value)
