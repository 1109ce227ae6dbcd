"""Data sets that the library `datasets` reads: the same draw from any form of the same images, and one line for what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from backends.base import InputError
from backends.datasets.loading import load
from backends.simulated import SimulatedBackend
from bbfuse.cli.run import main
from tests.helpers.pictures import NAMES, Rows, class_folders, drawings, encoded, in_memory, parquet, png, shuffled_folder

TRAIN, TEST = drawings((30, 17, 13), 0), drawings((12, 8, 5), 1)
FORMS = (class_folders, shuffled_folder, parquet)
Content = tuple[bytes, Any]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_a_class_sorted_folder_a_shuffled_one_and_a_parquet_file_give_the_same_draw(tmp_path: Path) -> None:
    found = [load(str(form(tmp_path / form.__name__, train=TRAIN, test=TEST))) for form in FORMS]
    for data in found:
        assert (data.image_shape, data.classes) == ((1, 8, 8), 3)
        reported, validation, calibration = data.test[:10], data.validation[:4], data.train[:20]
        # of 12, 8 and 5 in 25 ten are 4.8, 3.2 and 2; of 3, 2 and 1 in 6 four are 2, 1.33 and 0.67; of 27, 15 and 12 in 54 ...
        counts = [torch.bincount(part.labels, minlength=3).tolist() for part in (reported, validation, calibration)]
        assert counts[0] in ([5, 3, 2], [4, 4, 2])
        assert torch.bincount(data.validation.labels, minlength=3).tolist() in ([3, 2, 1], [3, 1, 2])
        assert counts[1] in ([2, 1, 1], [2, 2, 0])
        assert counts[2] in ([10, 6, 4], [10, 5, 5])
        assert counts == [torch.bincount(found[0].test.labels[:10], minlength=3).tolist(), *counts[1:]]
        for name in ("train", "validation", "test"):
            assert torch.equal(getattr(data, name).images, getattr(found[0], name).images)
            assert torch.equal(getattr(data, name).labels, getattr(found[0], name).labels)


def test_pixels_lie_in_minus_one_to_one_and_belong_to_their_labels(tmp_path: Path) -> None:
    data = load(str(parquet(tmp_path / "mine", train=TRAIN, test=TEST)))
    expected = {np.asarray(picture).tobytes(): label for picture, label in TEST}
    levels = ((data.test.images + 1.0) * 127.5).round().to(torch.uint8)
    assert [expected.pop(image.numpy().tobytes()) for image in levels] == data.test.labels.tolist()
    assert torch.allclose(levels.float() / 127.5 - 1.0, data.test.images, atol=1e-6)
    assert data.test.images.dtype == torch.float32
    assert not expected


def test_colour_comes_as_channels_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pixels = np.zeros((6, 9, 3), dtype=np.uint8)
    pixels[1, 2] = (51, 102, 255)
    rows = [(png(Image.fromarray(pixels)), number % 2) for number in range(12)]
    monkeypatch.setattr("backends.datasets.folders._opened", lambda _: {"train": in_memory(rows), "test": in_memory(rows)})
    data = load(str(tmp_path))
    assert data.image_shape == (3, 6, 9)
    assert data.test.images[0, :, 1, 2].tolist() == pytest.approx([-0.6, -0.2, 1.0])
    assert data.test.images[0, :, 2, 1].tolist() == [-1.0] * 3


def grey(seed: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def contents(rows: Rows) -> list[Content]:
    return [(png(picture), label) for picture, label in rows]


def one_more(rows: Rows, content: bytes, label: Any = 1) -> list[Content]:
    """``rows`` with another image in the place of number 3."""
    found = contents(rows)
    found[3] = (content, label)
    return found


NOISE = png(Image.fromarray(grey(5)))
TRUNCATED = NOISE[: len(NOISE) // 2]
SMALL = png(Image.fromarray(grey(5, (7, 8))))
COLOURED = png(Image.fromarray(np.stack([grey(seed) for seed in range(3)], 2)))
CLEAR = png(Image.fromarray(np.stack([grey(seed) for seed in range(4)], 2)))
FLOATS = encoded(Image.fromarray(grey(5).astype(np.float32) * np.float32("nan")), "TIFF")
BRIGHT = encoded(Image.fromarray(grey(5).astype(np.float32) + 20), "TIFF")
PRINTED = encoded(Image.fromarray(np.stack([grey(seed) for seed in range(4)], 2), mode=None).convert("CMYK"), "TIFF")
WIDE = encoded(Image.fromarray(grey(5).astype(np.int32)), "TIFF")
INTEGERS, FRACTIONS, WORDS = datasets.Value("int64"), datasets.Value("float32"), datasets.Value("string")
GOOD = contents(TRAIN), contents(TEST)
DARK = [(png(Image.fromarray(grey(number) // 128)), number % 2) for number in range(12)]
BAD: dict[str, tuple[list[Content], list[Content], Any, str]] = {
    "truncated": (GOOD[0], one_more(TEST, TRUNCATED), None, "test image 3 (3.png) must be a whole image file, got image"),
    "no image": (one_more(TRAIN, b"hello"), GOOD[1], None, "train image 3 (3.png) must be a whole image file, got cannot"),
    "transparent": (one_more(TRAIN, CLEAR), GOOD[1], None, "train image 3 (3.png) must be opaque, got mode RGBA with"),
    "CMYK": (GOOD[0], one_more(TEST, PRINTED), None, "or with a palette, got mode CMYK: convert it to L or RGB"),
    "32 bits": (one_more(TRAIN, WIDE), GOOD[1], None, "or with a palette, got mode I: convert it to L or RGB"),
    "NaN": (one_more(TRAIN, FLOATS), GOOD[1], None, "must be of finite pixels, got 64 that are not: replace them"),
    "floats out of range": (GOOD[0], one_more(TEST, BRIGHT), None, "must be of pixels in [0, 255], got 22 to 270: rescale it"),
    "sizes": (one_more(TRAIN, SMALL), GOOD[1], None, "must be 8x8 as train image 0 is, got 8x7: crop or scale all"),
    "sizes in test": (GOOD[0], one_more(TEST, SMALL), None, "test image 3 (3.png) must be 8x8 as train image 0 is, got"),
    "modes": (one_more(TRAIN, COLOURED), GOOD[1], None, "must be grey as train image 0 is, got colour: convert all"),
    "modes in test": (GOOD[0], [(COLOURED, 1)], None, "test image 0 (0.png) must be grey as train image 0 is, got"),
    "all but black": (DARK, DARK[:3], None, "from 0 to 255 (65,535 where they have 16 bits), the brightest is at 1 of"),
    "label missing": (one_more(TRAIN, NOISE, None), GOOD[1], None, "from 0 on, train image 3 has None: give it its class"),
    "label negative": (GOOD[0], one_more(TEST, NOISE, -1), INTEGERS, "from 0 on, test image 3 has -1: give it its class"),
    "label a fraction": (one_more(TRAIN, NOISE, 0.5), GOOD[1], FRACTIONS, "labels must be whole numbers from 0 on, train"),
    "label a word": ([(NOISE, "ant")] * 12, [(NOISE, "ant")], WORDS, "from 0 on, train image 0 has 'ant': give it its class"),
    "label unknown": (GOOD[0], [(NOISE, 1), (NOISE, 5)], INTEGERS, "must be in train, got 5, which is not: add images"),
    "test empty": (GOOD[0], [], None, "the split test must hold images, got none: move some of train there"),
    "train empty": ([], GOOD[1], None, "10 images or more, and one for each class, got 0 with labels up to 0: add"),
    "few": (contents(TRAIN[-9:]), GOOD[1], None, "10 images or more, and one for each class, got 9 with labels up to 2: add"),
    "fewer than classes": (one_more(TRAIN[:20], NOISE, 20), GOOD[1][:5], INTEGERS, "got 20 with labels up to 20: add images"),
    "one class": (GOOD[0][-13:], GOOD[1][-3:], None, "must hold two classes or more, got 2 alone: add images of others"),
    "the first image": ([(SMALL, 0), *GOOD[0]], GOOD[1], None, "train image 1 (1.png) must be 8x7 as train image 0 is, got 8x8"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_used_is_one_line_and_exit_code_2_before_the_first_query(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test, label, words = BAD[kind]
    monkeypatch.setattr(
        "backends.datasets.folders._opened", lambda _: {"train": in_memory(train, label), "test": in_memory(test, label)}
    )
    monkeypatch.setattr(SimulatedBackend, "query", lambda *_: pytest.fail("the target was asked"))
    monkeypatch.setattr("backends.targets.fit.fitted", lambda *_: pytest.fail("a target was fitted"))
    monkeypatch.setattr("backends.server.subprocess_server.OwnServer.__init__", lambda *_: pytest.fail("a server was started"))
    (tmp_path / "mine").mkdir()
    for backend in ("local", "remote"):
        flags = ["--data", str(tmp_path / "mine"), "--backend", backend, "--out", str(tmp_path / "run"), "--budget", "3000"]
        assert main([*flags, "--chip-seed", "0"]) == 2
        out, told = capsys.readouterr()
        assert (out, told.count("\n")) == ("", 1)
        assert told.startswith(f"error: --data {tmp_path / 'mine'}: ")
        assert words in told
        assert not (tmp_path / "run").exists()


def arrays(values: list[Any]) -> datasets.Dataset:
    """A column of arrays, none of which has a file."""
    features = datasets.Features({"image": datasets.Array2D((8, 8), "int64"), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": values, "label": [n % 2 for n in range(len(values))]}, features=features)


def test_arrays_are_levels_and_are_named_by_their_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = [grey(number).astype(np.int64) for number in range(12)]
    monkeypatch.setattr("backends.datasets.folders._opened", lambda _: {"train": arrays(good), "test": arrays(good[:3])})
    data = load(f"{tmp_path}/good/")
    sums = sorted((array / 127.5 - 1).sum() for array in good[:3])
    assert sorted(image.sum().item() for image in data.test.images) == pytest.approx(sums, abs=1e-3)
    spoilt = [*good[:3], good[3] + 300, *good[4:]]
    monkeypatch.setattr("backends.datasets.folders._opened", lambda _: {"train": arrays(spoilt), "test": arrays(good[:3])})
    with pytest.raises(InputError, match=r"bad/: train image 3 must be of pixels in \[0, 255\], got 30"):
        load(f"{tmp_path}/bad/")


def test_a_picture_that_is_missing_or_has_no_file_is_named_by_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    rows = in_memory(GOOD[1])
    images = [{"bytes": png(picture), "path": None} for picture, _ in TEST]
    for image, words in ((None, "a picture or an array"), ({"bytes": CLEAR, "path": None}, "opaque")):
        columns = {"image": [*images[:5], image, *images[6:]], "label": rows["label"][:]}
        part = datasets.Dataset.from_dict(columns, features=rows.features)
        monkeypatch.setattr("backends.datasets.folders._opened", lambda _, part=part: {"train": in_memory(GOOD[0]), "test": part})
        with pytest.raises(InputError, match=f"mine/: test image 5 must be {words}"):
            load(f"{tmp_path}/mine/")


def test_pixels_that_use_more_than_one_level_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [(png(Image.fromarray(grey(number) // 128 * 2)), number % 2) for number in range(12)]
    monkeypatch.setattr("backends.datasets.folders._opened", lambda _: {"train": in_memory(rows), "test": in_memory(rows)})
    assert load(str(tmp_path)).test.images.max() == pytest.approx(2 / 127.5 - 1.0)


def test_one_image_a_class_and_one_to_report_on_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [(png(picture), number) for number, (picture, _) in enumerate(TRAIN[:10])]
    label = datasets.Value("int64")
    monkeypatch.setattr(
        "backends.datasets.folders._opened", lambda _: {"train": in_memory(rows, label), "test": in_memory(rows[:1], label)}
    )
    data = load(str(tmp_path))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [9, 1, 1]
    assert data.classes == 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "nowhere", "error: --data {} cannot be read as a folder or hub id: "),
        (lambda path: path, "error: --data {} cannot be read as a folder or hub id: "),
        (lambda path: class_folders(path / "one", test=TRAIN), "error: --data {} must have the splits train and test, got "),
        (lambda path: named(path / "named"), "error: --data {} must have the columns image and label, got image, colour"),
    ],
)
def test_what_is_no_data_set_is_refused_by_name(
    make: Callable[[Path], Path], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    name = make(tmp_path / "empty")
    capsys.readouterr()  # the library that writes the files shows its progress
    assert main(["--data", str(name), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(words.format(name))
    assert told.count("\n") == 1


def named(path: Path) -> Path:
    path.mkdir()
    for part in ("train", "test"):
        in_memory(contents(TEST)).rename_column("label", "colour").to_parquet(str(path / f"{part}.parquet"))
    return path


def test_a_name_that_is_neither_folder_nor_hub_id_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.datasets.folders._opened", lambda _: pytest.fail("it was looked for"))
    with pytest.raises(
        InputError, match=r"^`data` must be digits, module:attribute, FILE.npz, a folder, or a hub id .*, got digit$"
    ):
        load("digit")


def test_classes_of_a_folder_are_numbered_by_name(tmp_path: Path) -> None:
    data = load(str(class_folders(tmp_path / "mine", train=TRAIN, test=TEST[:14])))
    assert sorted(NAMES) == NAMES
    assert torch.bincount(data.test.labels).tolist() == [12, 2]
    assert data.classes == 3
