"""Pixels are on the scale of 8 bits whatever a picture's mode is, or the picture is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backends.base import InputError
from backends.datasets.pictures import levels
from tests.helpers.pictures import encoded

GREY = np.array([[0, 3, 200], [255, 77, 18]], dtype=np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], np.flip(GREY, 1)], 2)
PALETTE = [250, 10, 30, 5, 90, 120]  # two colours


def read(picture: Image.Image, form: str = "PNG", **more: Any) -> Image.Image:
    """``picture`` as it comes back from a file."""
    return Image.open(io.BytesIO(encoded(picture, form, **more)))


def indexed() -> Image.Image:
    made = Image.fromarray(np.array([[0, 1, 1], [1, 0, 1]], dtype=np.uint8), mode="P")
    made.putpalette(PALETTE)
    return made


COLOURS = np.array(PALETTE, dtype=np.uint8).reshape(2, 3)[np.array([[0, 1, 1], [1, 0, 1]])]


@pytest.mark.parametrize(
    ("picture", "mode", "expected"),
    [
        (read(Image.fromarray(GREY)), "L", GREY),
        (read(Image.fromarray(COLOUR)), "RGB", COLOUR),
        (read(Image.fromarray(GREY > 50)), "1", 255 * (GREY > 50)),
        (read(indexed()), "P", COLOURS),
        (read(indexed(), "GIF"), "P", COLOURS),
        (read(Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]))), "LA", GREY),
        (read(Image.fromarray(np.dstack([COLOUR, np.full_like(GREY, 255)]))), "RGBA", COLOUR),
        (read(Image.fromarray(COLOUR), transparency=(1, 2, 3)), "RGB", COLOUR),
        (read(Image.fromarray(GREY), transparency=4), "L", GREY),
        (read(indexed(), transparency=7), "P", COLOURS),
        (GREY, None, GREY),
        (COLOUR.tolist(), None, COLOUR),
        (GREY[..., None].astype(np.int64), None, GREY),
        (GREY.astype(np.float64) / 2, None, GREY / 2),
        (read(Image.fromarray(GREY.astype(np.float32) / 4), "TIFF"), "F", GREY / 4),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_what_has_levels_of_8_bits_gives_them_exactly(picture: Any, mode: str | None, expected: np.ndarray) -> None:
    assert getattr(picture, "mode", None) == mode
    found = levels(picture)
    assert np.array_equal(found, expected if expected.ndim == 3 else expected[..., None])


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_spread_over_the_same_range(form: str) -> None:
    values = np.array([[0, 257, 40_000], [65_535, 128, 1000]], dtype=np.uint16)
    found = levels(read(Image.fromarray(values), form))
    assert found.shape == (2, 3, 1)
    assert found[..., 0] == pytest.approx(values / 65_535 * 255, rel=1e-6)
    assert found.max() == 255.0


def test_32_bits_are_taken_for_16_where_an_old_pillow_read_them_from_a_png_alone() -> None:
    values = np.array([[0, 40_000]], dtype=np.int32)
    old = Image.fromarray(values)
    old.format = "PNG"
    assert levels(old)[..., 0] == pytest.approx(values / 257)


def with_nan() -> np.ndarray:
    made = GREY.astype(np.float32)
    made[0, 1] = made[1, 2] = np.nan
    return made


MODES = "of 1, 8 or 16 bits, grey or RGB, or with a palette"


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (read(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"), f"{MODES}, got mode CMYK: convert it to L or RGB"),
        (Image.fromarray(COLOUR).convert("YCbCr"), f"{MODES}, got mode YCbCr: "),
        (Image.fromarray(COLOUR).convert("LAB"), f"{MODES}, got mode LAB: "),
        (read(Image.fromarray(GREY.astype(np.int32)), "TIFF"), f"{MODES}, got mode I: "),
        (Image.fromarray(np.dstack([GREY, GREY])), "opaque, got mode LA with transparent pixels: put it on a background"),
        (read(Image.fromarray(np.dstack([COLOUR, GREY]))), "opaque, got mode RGBA with transparent pixels: "),
        (read(Image.fromarray(GREY), transparency=77), "opaque, got mode L with transparent pixels: "),
        (read(Image.fromarray(COLOUR), transparency=(3, 77, 3)), "opaque, got mode RGB with transparent pixels: "),
        (read(indexed(), transparency=1), "opaque, got mode P with transparent pixels: "),
        (read(Image.fromarray(GREY > 50), transparency=0), "opaque, got mode 1 with transparent pixels: "),
        (
            read(Image.fromarray(GREY.astype(np.uint16)), transparency=5),
            "opaque, got 16 bits with a transparent grey: save it without transparency",
        ),
        (read(Image.fromarray(with_nan()), "TIFF"), "of finite pixels, got 2 that are not: replace them"),
        (np.array([[np.inf, 1.0]]), "of finite pixels, got 1 that are not: "),
        (read(Image.fromarray(GREY.astype(np.float32) + 0.5), "TIFF"), "of pixels in [0, 255], got 0.5 to 255.5: rescale it"),
        (np.array([[-1, 7]]), "of pixels in [0, 255], got -1 to 7: "),
        (np.array([[5, 256]]), "of pixels in [0, 255], got 5 to 256: "),
        (np.zeros((3, 5, 6)), "of the shape (height, width), and 1 or 3 channels after it, got (3, 5, 6): rearrange it"),
        (np.dstack([GREY, GREY]), "of the shape (height, width), and 1 or 3 channels after it, got (2, 3, 2): "),
        (GREY.flatten(), "of the shape (height, width), and 1 or 3 channels after it, got (6,): "),
        (GREY[:0], "of the shape (height, width), and 1 or 3 channels after it, got (0, 3): "),
        (None, "a picture or an array of numbers, got NoneType: drop it, or save it as a picture"),
        ([[1, 2], [3]], "a picture or an array of numbers, got list: "),
        ({"bytes": b"", "path": None}, "a picture or an array of numbers, got dict: "),
        ([[True, False]], "a picture or an array of numbers, got list: "),
    ],
)
def test_anything_else_is_refused_in_words_that_say_what_it_must_be(picture: Any, words: str) -> None:
    with pytest.raises(InputError) as refused:
        levels(picture)
    assert str(refused.value).startswith(f"must be {words}")
