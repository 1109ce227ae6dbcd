"""What cannot be data is refused in one line that says what was found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backends.base import InputError
from backends.datasets.given import dataset
from backends.datasets.loading import load

PIXELS = np.random.default_rng(0).random((40, 3, 8, 8))
LABELS = np.arange(40) % 4
NAN = np.where(np.arange(40)[:, None, None, None] == 7, np.nan, PIXELS)
HALVES, ODD = LABELS + 0.5, np.where(np.arange(40) == 3, np.nan, LABELS)
RARE = np.where(np.arange(40) == 39, 9, LABELS)
PICTURES = [(Image.fromarray(np.zeros((8, 8), np.uint8)), 0)] * 40


class Items(torch.utils.data.Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.items[place]


def parts(**given: Any) -> dict[str, Any]:
    return {"train": (PIXELS, LABELS), **given}


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "fewer labels": ((PIXELS, LABELS[:39]), {}, "labels of train must be one for each input, got 39 for 40 inputs"),
    "one label": ((PIXELS, 3), {}, "labels of train must be one for each input, got 1 for 40 inputs"),
    "a fraction": ((PIXELS, HALVES), {}, "labels of train must be whole numbers, got 0.5"),
    "no number": ((PIXELS, ODD), {}, "labels of train must be whole numbers, got nan"),
    "negative": ((PIXELS, LABELS - 1), {}, "labels of train must be whole numbers from 0 on, got -1: number"),
    "several ones": ((PIXELS, np.ones((40, 4))), {}, "labels of train must be rows with a single 1, got other rows"),
    "scores": ((PIXELS, np.full((40, 4), 0.25)), {}, "labels of train must be rows with a single 1, got other rows"),
    "deep labels": ((PIXELS, np.zeros((40, 2, 2))), {}, "must have the shape (40,) or (40, classes), got (40, 2, 2)"),
    "unknown labels": ((PIXELS, [None] * 40), {}, "labels of train must be whole numbers or words, got an array of type object"),
    "one class": ((PIXELS, LABELS * 0), {}, "labels must be of two classes or more, got 0 alone"),
    "one word": ((PIXELS, ["ant"] * 40), {}, "labels must be of two classes or more, got ant alone"),
    "more classes": ((PIXELS, LABELS), {"classes": 3}, "labels must lie in [0, 3), got 3"),
    "some labels": (parts(test=PIXELS), {}, "labels must be given for all parts or for none, got none for test"),
    "foreign class": (parts(test=(PIXELS, LABELS + 1)), {}, "classes of test must be in train, got 4, which is not"),
    "rare class": ((PIXELS, RARE), {"split": (0.01, 0.01, 0.98)}, "must hold 10 inputs or more for train and validation"),
    "NaN": ((NAN, LABELS), {}, "inputs of train must be finite, got 192 values that are not, the first in input 7"),
    "infinite in test": (parts(test=(PIXELS * np.inf, LABELS)), {}, "inputs of test must be finite, got 7680 values"),
    "sizes": (([PIXELS[0], PIXELS[1, :, :7]] * 20, LABELS), {}, "inputs of train must be one array, all of one size, got"),
    "sizes of tensors": ((list(torch.zeros(20, 3, 8, 8)) + list(torch.zeros(20, 3, 8, 7)), LABELS), {}, "all of one size"),
    "sizes of test": (parts(test=(PIXELS[:, :2], LABELS)), {}, "inputs of test must have the shape (3, 8, 8) as those of train"),
    "sizes of items": (Items([(PIXELS[0], 0), (PIXELS[0, :, 1:], 1)]), {}, "(3, 8, 8) of the first, got (3, 7, 8) at 1"),
    "type of test": (parts(test=(PIXELS > 0.5, LABELS)), {}, "of type float64 as those of train, got bool"),
    "words": ((np.full((40, 3), "a"), LABELS), {}, "inputs of train must be numbers of one size, got an array of type <U1"),
    "complex": ((PIXELS * 1j, LABELS), {}, "inputs of train must be numbers of one size, got an array of type complex128"),
    "no values": ((np.zeros(40), LABELS), {}, "inputs of train must have an axis of inputs and one or more of values"),
    "empty": ((PIXELS[:0], LABELS[:0]), {}, "none of them empty, got (0, 3, 8, 8)"),
    "few": ((PIXELS[:9], LABELS[:9]), {}, "must hold 10 inputs or more for train and validation, and others for test, got 7"),
    "unknown range": ((PIXELS * 200, LABELS), {}, "is not known, they go from "),
    "unknown range of whole numbers": (((PIXELS * 16).astype(int), LABELS), {}, "int64 is not known, they go from 0 to 15"),
    "out of range": ((PIXELS * 3, LABELS), {"value_range": (0, 2)}, "inputs of train must lie in `value_range` (0, 2), got "),
    "empty range": ((PIXELS, LABELS), {"value_range": (1, 1)}, "`value_range` must be two finite numbers, the lower one first"),
    "a range of one": ((PIXELS, LABELS), {"value_range": (1,)}, "`value_range` must be two numbers (low, high), got (1,)"),
    "all the same": ((PIXELS[:, 0, 0] * 0 + 4, LABELS), {}, "inputs must differ, got 4 everywhere"),
    "three": ((PIXELS, LABELS, LABELS), {}, "must be (inputs, labels), got 3 entries"),
    "no part": (parts(other=(PIXELS, LABELS)), {}, "must have the parts train, validation, test, train at least, got other"),
    "other keys": ({"a": PIXELS, "b": LABELS}, {}, "x_train, y_train, x_test and y_test, got a, b"),
    "shares": ((PIXELS, LABELS), {"split": (0.5, 0.5, 0.5)}, "test that add up to 1, got (0.5, 0.5, 0.5)"),
    "pictures": (Items(PICTURES), {}, "must give arrays or tensors, got a picture"),
    "no items": (Items([]), {}, "must hold inputs, got none"),
    "labels at times": (Items([(PIXELS[0], 0), (PIXELS[0],)]), {}, "a label with every input or with none, got 1 for 2"),
    "nothing": (None, {}, "`data` must be (inputs, labels), inputs alone, a dictionary of parts, a data set or loader, "),
    "a name with labels": ("digits", {"labels": LABELS}, "`labels`, `classes` and `split` are for arrays"),
    "no such file": ("nowhere.npz", {}, "`data` nowhere.npz must be a .npz file of arrays"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_one_line_says_what_was_found(kind: str) -> None:
    data, settings, words = BAD[kind]
    with pytest.raises(InputError) as refused:
        dataset(data, **settings)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_messages_name_the_data() -> None:
    with pytest.raises(InputError, match=r"^`data` mine: labels of train must"):
        dataset((PIXELS, LABELS[:3]), name="mine")
    with pytest.raises(InputError, match=r"^`data`: labels of train must"):
        dataset((PIXELS, LABELS[:3]))


def test_a_file_executes_nothing(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return print, ("executed",)

    np.savez(tmp_path / "bad.npz", images=PIXELS, labels=np.array([Bad()] * 40, dtype=object))
    with pytest.raises(InputError, match=r"must be a .npz file of arrays of numbers or words, .* Object arrays cannot be loaded"):
        load(str(tmp_path / "bad.npz"))
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match=r"text.npz must be a .npz file"):
        load(str(tmp_path / "text.npz"))
