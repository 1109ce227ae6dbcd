"""Data of the user's own in every form: the same inputs give the same data set, and each form comes back as it was given."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from backends.datasets.base import Dataset
from backends.datasets.form import Form
from backends.datasets.given import dataset
from backends.datasets.loading import load
from backends.testing import check_dataset
from tests.helpers.pictures import class_folders

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (60, 3, 8, 10), dtype=np.uint8)
LABELS = np.arange(60) % 3
LAST = np.moveaxis(PIXELS, 1, -1)
TENSORS = torch.utils.data.TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(LABELS))


class Counted(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        return PIXELS[place], int(LABELS[place])


class Streamed(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(PIXELS, LABELS, strict=True))


def same(one: Dataset, other: Dataset) -> bool:
    parts = [(getattr(one, part), getattr(other, part)) for part in ("train", "validation", "test")]
    return all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in parts)


FORMS: dict[str, Any] = {
    "arrays": (PIXELS, LABELS),
    "tensors": (torch.from_numpy(PIXELS), torch.from_numpy(LABELS)),
    "lists": (list(PIXELS), LABELS.tolist()),
    "lists of tensors": (list(torch.from_numpy(PIXELS)), list(torch.from_numpy(LABELS))),
    "other order": (PIXELS[::-1], LABELS[::-1]),
    "one-hot": (PIXELS, np.eye(3)[LABELS]),
    "columns of labels": (PIXELS, LABELS[:, None].astype(float)),
    "words": (PIXELS, np.array(["ant", "bee", "cow"])[LABELS]),
    "list of words": (PIXELS, [("ant", "bee", "cow")[label] for label in LABELS]),
    "bytes": (PIXELS, np.array([b"ant", b"bee", b"cow"])[LABELS]),
    "channels last": (LAST, LABELS),
    "a data set of tensors": TENSORS,
    "a data set": Counted(),
    "a stream": Streamed(),
    "a loader": torch.utils.data.DataLoader(TENSORS, batch_size=7, shuffle=True),
    "a dictionary": {"x": PIXELS, "y": LABELS},
    "another dictionary": {"images": PIXELS, "labels": LABELS},
    "a part": {"train": (PIXELS, LABELS)},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_inputs_gives_the_same_data(form: str) -> None:
    data, expected = dataset(FORMS[form]), dataset((PIXELS, LABELS))
    assert same(data, expected)
    assert data.form == Form(0.0, 255.0, channels_last=form == "channels last", integers=True)
    assert (data.image_shape, data.classes, data.labelled) == ((3, 8, 10), 3, True)
    assert data.names == (("ant", "bee", "cow") if form in ("words", "list of words", "bytes") else ())
    check_dataset(data)


def test_values_and_labels_stay_together_and_come_back_as_they_were() -> None:
    data = dataset((LAST, LABELS))
    expected = {image.tobytes(): label for image, label in zip(LAST, LABELS.tolist(), strict=True)}
    for part in (data.train, data.validation, data.test):
        back = data.form.outward(part.images).numpy()
        assert (back.dtype, back.shape[1:]) == (np.uint8, (8, 10, 3))
        assert [expected.pop(np.ascontiguousarray(image).tobytes()) for image in back] == part.labels.tolist()
    assert not expected


def test_the_parts_that_are_made_have_their_sizes_and_each_class_its_share() -> None:
    data = dataset((PIXELS, LABELS))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [36, 9, 15]
    for part, each in ((data.train, 12), (data.validation, 3), (data.test, 5)):
        assert torch.bincount(part.labels).tolist() == [each] * 3
        assert torch.bincount(part.labels[:6], minlength=3).tolist() == [2, 2, 2]
    other = dataset((PIXELS, LABELS), split=(0.5, 0.25, 0.25), seed=1)
    assert [len(part) for part in (other.train, other.validation, other.test)] == [30, 15, 15]
    assert not torch.equal(other.test.images, data.test.images)
    assert same(dataset((PIXELS, LABELS), seed=1), dataset((PIXELS, LABELS), seed=1))


def test_parts_of_ones_own_stay_apart() -> None:
    parts = {
        "train": (PIXELS[:30], LABELS[:30]),
        "validation": (PIXELS[30:40], LABELS[30:40]),
        "test": (PIXELS[40:], LABELS[40:]),
    }
    data, expected = dataset(parts), {image.tobytes() for image in PIXELS[40:]}
    assert [len(part) for part in (data.train, data.validation, data.test)] == [30, 10, 20]
    assert {image.numpy().tobytes() for image in data.form.outward(data.test.images)} == expected
    flat = {f"{letter}_{part}": parts[part][place] for part in ("train", "test") for place, letter in enumerate("xy")}
    without = dataset(flat)
    assert [len(part) for part in (without.train, without.validation, without.test)] == [24, 6, 20]
    assert torch.equal(without.test.images, data.test.images)


@pytest.mark.parametrize(
    ("values", "settings", "form", "shape"),
    [
        (PIXELS[:, 0], {}, Form(0.0, 255.0, integers=True, squeezed=True), (1, 8, 10)),
        (PIXELS / 255.0, {}, Form(0.0, 1.0), (3, 8, 10)),
        (PIXELS / 127.5 - 1.0, {}, Form(), (3, 8, 10)),
        (PIXELS * 2.0, {"value_range": (0, 510)}, Form(0.0, 510.0), (3, 8, 10)),
        (PIXELS.astype(np.int64), {"value_range": (0, 255)}, Form(0.0, 255.0, integers=True), (3, 8, 10)),
        (PIXELS > 127, {}, Form(0.0, 1.0, integers=True), (3, 8, 10)),
        (PIXELS[:, :, :1, :3], {}, Form(0.0, 255.0, integers=True), (3, 1, 3)),
        (PIXELS[:, :, :1, :3], {"channels_last": True}, Form(0.0, 255.0, channels_last=True, integers=True), (3, 3, 1)),
        (LAST, {"channels_last": False}, Form(0.0, 255.0, integers=True), (8, 10, 3)),
        (PIXELS[:, 0, 0] * 1.0, {}, Form(float(PIXELS[:, 0, 0].min()), float(PIXELS[:, 0, 0].max())), (10,)),
        (PIXELS[:, 0, :2] / 255.0, {}, Form(0.0, 1.0), (2, 10)),
        (PIXELS[:, 0] / 255.0, {"channels_last": False}, Form(0.0, 1.0), (8, 10)),
        (PIXELS[:, 0] / 255.0, {"channels_last": True}, Form(0.0, 1.0, channels_last=True), (10, 8)),
        (PIXELS[:, :, None], {}, Form(0.0, 255.0, integers=True), (3, 1, 8, 10)),
    ],
)  # fmt: skip
def test_ranges_and_layouts(values: np.ndarray, settings: dict[str, Any], form: Form, shape: tuple[int, ...]) -> None:
    data = dataset({"train": (values, LABELS), "test": (values, LABELS)}, **settings)
    assert (data.form, data.image_shape) == (form, shape)
    assert float(data.train.images.abs().max()) <= 1.0
    back = {np.round(one.numpy().astype(np.float64), 3).tobytes() for one in form.outward(data.test.images)}
    assert back == {np.round(one.numpy().astype(np.float64), 3).tobytes() for one in torch.from_numpy(values.astype(np.float32))}


def test_tables_are_scaled_by_train_and_the_other_parts_are_clipped_to_it() -> None:
    table = np.linspace(-3.0, 5.0, 60)[:, None] * np.ones((1, 4))
    data = dataset({"train": (table[5:50], LABELS[5:50]), "test": (table[50:], LABELS[50:])})
    assert (data.form.low, data.form.high) == (pytest.approx(table[5, 0]), pytest.approx(table[49, 0]))
    assert data.test.images.tolist() == [[1.0] * 4] * 10
    wide = dataset((table, LABELS), value_range=(-5, 5))
    assert float(wide.train.images.max()) <= 1.0
    assert float(wide.train.images.min()) >= -0.6 - 1e-6


def test_inputs_without_labels() -> None:
    for data in (dataset(PIXELS), dataset({"train": PIXELS[:40], "test": PIXELS[40:]}), dataset(PIXELS, classes=3)):
        assert not data.labelled
        assert {int(label) for part in (data.train, data.validation, data.test) for label in part.labels} == {-1}
    assert [dataset(PIXELS).classes, dataset(PIXELS, classes=3).classes] == [0, 3]
    assert same(dataset(PIXELS, labels=LABELS), dataset((PIXELS, LABELS)))
    assert dataset((PIXELS, LABELS), classes=7).classes == 7


def test_a_file_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", images=PIXELS, labels=LABELS)
    for data in (load(str(tmp_path / "mine.npz")), dataset(tmp_path / "mine.npz")):
        assert same(data, dataset((PIXELS, LABELS)))
        assert data.name == str(tmp_path / "mine.npz")
    np.savez(tmp_path / "ranged.npz", x=PIXELS * 2.0, y=LABELS, value_range=(0.0, 510.0), channels_last=False)
    assert load(str(tmp_path / "ranged.npz")).form == Form(0.0, 510.0)
    assert dataset(tmp_path / "ranged.npz", value_range=(-10, 510)).form == Form(-10.0, 510.0)


def test_class_folders_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for number, (image, label) in enumerate(zip(PIXELS[:, 0], LABELS, strict=True)):
        (tmp_path / "mine" / f"class{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "mine" / f"class{label}" / f"{number}.png")
    data, arrays = load(str(tmp_path / "mine")), dataset((PIXELS[:, 0], LABELS))
    assert same(data, arrays)
    assert data.form == Form()
    assert dataset(tmp_path / "mine", value_range=(0, 1), channels_last=True).form == Form(0.0, 1.0, channels_last=True)


def test_data_sets_of_the_library_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [(Image.fromarray(image), int(label)) for image, label in zip(PIXELS[:, 0], LABELS, strict=True)]
    class_folders(tmp_path / "both", train=rows[:45], test=rows[45:])
    both = datasets.load_dataset(str(tmp_path / "both"))
    assert same(dataset(both), load(str(tmp_path / "both")))
    alone = dataset(datasets.concatenate_datasets([both["train"], both["test"]]))
    assert same(alone, dataset((PIXELS[:, 0], LABELS)))
    assert dataset(alone) is alone
