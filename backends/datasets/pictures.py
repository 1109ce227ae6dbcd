"""One picture as numbers on the scale of 8 bits, where it has such numbers exactly; anything else is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import InputError

__all__ = ["levels"]

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_OPAQUE = 255


def levels(picture: Any) -> NDArray[Any]:
    """Pixels (height, width, channels) in [0, 255], one channel for grey or three for red, green and blue.

    ``picture`` is one of Pillow's, or an array of numbers that are such levels already. 8 bits stay what they are; black and
    white become 0 and 255; a palette's indices become their colours; 16 bits are divided by 257; what is transparent nowhere
    loses its transparency.

    Raises:
        InputError: it is none of these; its words go on after a name of the picture.
    """
    if not hasattr(picture, "getbands"):
        return _of_array(picture)
    mode, keyed = picture.mode, "transparency" in picture.info
    if mode in _SIXTEEN_BITS or (mode == "I" and picture.format == "PNG"):  # as Pillow before 11 calls 16 bits
        pixels = np.asarray(picture).astype(np.float32) / 257.0
        if keyed:
            raise _refused("opaque", "16 bits with a transparent grey", "save it without transparency")
    elif mode in ("P", "PA"):
        keyed = keyed or mode == "PA" or picture.palette.mode.endswith("A")
        pixels = np.asarray(picture.convert("RGBA" if keyed else "RGB"))
    elif mode in ("1", "L", "RGB"):
        alone = picture.convert("L") if mode == "1" and not keyed else picture
        pixels = np.asarray(alone.convert("RGBA" if mode == "RGB" else "LA") if keyed else alone)
    elif mode in ("LA", "RGBA"):
        pixels = np.asarray(picture)
    elif mode == "F":
        pixels = _of_array(np.asarray(picture))
    else:
        raise _refused("of 1, 8 or 16 bits, grey or RGB, or with a palette", f"mode {mode}", "convert it to L or RGB")
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.shape[2] in (2, 4):
        if (pixels[..., -1] != _OPAQUE).any():
            raise _refused("opaque", f"mode {mode} with transparent pixels", "put it on a background")
        pixels = pixels[..., :-1]
    return pixels


def _of_array(given: Any) -> NDArray[Any]:
    try:
        pixels = np.asarray(given)
    except ValueError:  # rows of several lengths
        pixels = np.asarray(None)
    if pixels.dtype.kind not in "uif":
        raise _refused("a picture or an array of numbers", type(given).__name__, "drop it, or save it as a picture")
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise _refused("of the shape (height, width), and 1 or 3 channels after it", str(pixels.shape), "rearrange it")
    if not np.isfinite(pixels).all():
        raise _refused("of finite pixels", f"{np.count_nonzero(~np.isfinite(pixels))} that are not", "replace them")
    if pixels.min() < 0 or pixels.max() > 255:
        raise _refused("of pixels in [0, 255]", f"{pixels.min():g} to {pixels.max():g}", "rescale it")
    pixels = pixels.astype(np.float32)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _refused(rule: str, found: str, way_out: str) -> InputError:
    return InputError(f"must be {rule}, got {found}: {way_out}")
