"""What a server says of itself, completed by what the user says: which dialect it is to be asked in, and for which images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from backends.base import Access, BackendInfo, InputError
from backends.http.codecs import (
    Dialect,
    Layout,
    Mapped,
    OpenInference,
    Pixels,
    Range,
    RefusedError,
    TensorFlow,
    at,
    model_path,
)  # fmt: skip

__all__ = ["Wanted", "found"]

_BINARY = "binary_tensor_data"


@dataclass(frozen=True)
class Wanted:
    """What the user says of the server; the rest is read from its metadata, or taken from the data set."""

    protocol: Literal["oip", "oip-binary", "tensorflow", "json"] | None = None
    layout: Layout | None = None
    range: Range | None = None
    request: str | None = None
    response: str | None = None
    image_shape: tuple[int, int, int] | None = None
    """that of the data set: channels, height, width"""
    classes: int | None = None


def found(get: Callable[[str], Any], model: str, wanted: Wanted) -> Dialect:
    """The dialect of a server; ``get`` reads the JSON at a path below its address.

    Without a protocol ``wanted`` the server is asked for OIP metadata first, then for TensorFlow Serving's.

    Raises:
        InputError: what is wanted does not go together with what the server says of itself.
        RefusedError: by ``get``, where the server has no such model.
        ValueError: the metadata are not those of an image classifier.
    """
    if wanted.protocol == "json" or wanted.request is not None:
        return _mapped(model, wanted)
    if wanted.protocol == "tensorflow":
        return _tensorflow(get, model, wanted)
    try:
        metadata = get(model_path(model))
    except RefusedError as refusal:
        if wanted.protocol is not None or refusal.status != 404:
            raise
        try:
            return _tensorflow(get, model, wanted)
        except RefusedError:
            raise refusal from None
    return _open_inference(get, metadata, model, wanted)


def _open_inference(get: Callable[[str], Any], metadata: Any, model: str, wanted: Wanted) -> OpenInference:
    if not isinstance(metadata, dict) or not ("name" in metadata or "inputs" in metadata):
        raise ValueError("that is no model's metadata")
    inputs, outputs = (_only(metadata.get(kind), kind) for kind in ("inputs", "outputs"))
    if (datatype := inputs.get("datatype", "FP32")) not in ("FP32", "UINT8"):
        raise ValueError(f"its input is {datatype}, neither FP32 nor UINT8")
    shape = inputs.get("shape")
    info, pixels, assumed = _described(model, shape, datatype == "UINT8", outputs.get("shape"), wanted)
    parameters = metadata.get("parameters")
    said = [part.get("max_batch_size") for part in (metadata, parameters) if isinstance(part, dict)]
    if shape and shape[0] == 1:
        said.append(1)  # a network that was exported for one image at a time
    limit = min((limit for limit in said if type(limit) is int and limit > 0), default=None)
    binary = wanted.protocol == "oip-binary" or (wanted.protocol is None and _speaks_binary(get))
    return OpenInference(replace(info, limit=limit), pixels, str(inputs.get("name", "images")), binary, assumed)


def _speaks_binary(get: Callable[[str], Any]) -> bool:
    try:
        extensions = get("/v2").get("extensions")
    except (RefusedError, ValueError, AttributeError):
        return False  # the server's own metadata are optional
    return isinstance(extensions, list) and _BINARY in extensions


def _tensorflow(get: Callable[[str], Any], model: str, wanted: Wanted) -> TensorFlow:
    path = f"/v1/models/{quote(model, safe='')}/metadata"
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    try:
        signature = at(get(path), ["metadata", "signature_def", "signature_def", "serving_default"])
        inputs, outputs = (_only(list(signature.get(kind, {}).values()), kind) for kind in ("inputs", "outputs"))
    except RefusedError as refusal:
        if wanted.protocol is None or refusal.status != 404:
            raise
    if (datatype := inputs.get("dtype", "DT_FLOAT")) not in ("DT_FLOAT", "DT_UINT8"):
        raise ValueError(f"its input is {datatype}, neither DT_FLOAT nor DT_UINT8")
    shapes = ([int(dim["size"]) for dim in part.get("tensor_shape", {}).get("dim", [])] for part in (inputs, outputs))
    if not inputs and wanted.range == "levels":
        datatype = "DT_UINT8"
    info, pixels, assumed = _described(model, next(shapes), datatype == "DT_UINT8", next(shapes), wanted)
    return TensorFlow(info, pixels, "; ".join(filter(None, [assumed, "its requests carry no chip"])))


def _mapped(model: str, wanted: Wanted) -> Mapped:
    if wanted.request is None or wanted.response is None:
        raise InputError("JSON by a template needs both --remote.request and --remote.response")
    template, steps = _template(wanted.request), _steps(wanted.response)
    info, pixels, assumed = _described(model, None, wanted.range == "levels", None, wanted)
    return Mapped(info, pixels, template, steps, assumed)


def _described(model: str, shape: Any, eight_bits: bool, answered: Any, wanted: Wanted) -> tuple[BackendInfo, Pixels, str | None]:
    """What the metadata say, completed by what is wanted; the last is what had to be assumed."""
    missing = []
    if not shape or any(type(side) is not int or side < 1 for side in shape[1:]):
        if shape and len(shape) != 4:
            raise ValueError(f"its input has shape {shape}, not that of images")
        if wanted.image_shape is None:
            raise ValueError("it does not say which images it takes")
        image_shape, layout = wanted.image_shape, wanted.layout or "nchw"
        missing.append(f"images {image_shape}, sent as {layout}")
    else:
        if len(shape) != 4:
            raise ValueError(f"its input has shape {shape}, not that of images")
        # channels are fewer than rows or columns
        layout = wanted.layout or ("nchw" if shape[1] <= shape[3] else "nhwc")
        image_shape = (shape[1], shape[2], shape[3]) if layout == "nchw" else (shape[3], shape[1], shape[2])
    if answered and len(answered) != 2:
        raise ValueError(f"its output has shape {answered}, not a row of classes for each image")
    classes = answered[1] if answered and type(answered[1]) is int and answered[1] > 0 else None
    if classes is None:
        if wanted.classes is None:
            raise ValueError("it does not say how many classes it knows")
        classes = wanted.classes
        missing.append(f"{classes} classes")
    if wanted.range is not None and (wanted.range == "levels") != eight_bits:
        takes = "whole numbers from 0 to 255 (--remote.range levels)" if eight_bits else "floating-point numbers"
        raise InputError(f"--remote.range {wanted.range} does not go with {model}, which takes {takes}: drop it")
    pixels = Pixels(layout, "levels" if eight_bits else wanted.range or "signed")
    assumed = f"it does not describe itself, so taken from --data: {', '.join(missing)}" if missing else None
    return BackendInfo(model, Access.LOGITS, image_shape, classes, eight_bits), pixels, assumed


def _only(entries: Any, kind: str) -> dict[str, Any]:
    """The only tensor that is described, or nothing where none is."""
    if entries in (None, []):
        return {}
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise ValueError(f"it must have one tensor as {kind}, got {len(entries) if isinstance(entries, list) else 'none'}")
    return entries[0]


def _template(text: str) -> Any:
    try:
        content = Path(text).read_text() if not text.lstrip().startswith("{") else text
        template = json.loads(content)
    except (OSError, ValueError) as error:
        raise InputError(f"--remote.request must be JSON or a file that holds it, got {text[:80]}: {error}") from error
    places = set(re.findall(r'"(\{\w*\})"', json.dumps(template)))
    known = {"{images}", "{bit_error_rate}", "{chip_seed}"}
    if "{images}" not in places or places - known:
        said = " ".join(sorted(places)) or "no place"
        raise InputError(
            f'--remote.request must have "{{images}}", and may have {" ".join(sorted(known))}, as values, got {said}'
        )
    return template


def _steps(path: str) -> list[str | int]:
    """``result.scores[0]`` as keys and places; the empty path is the whole answer."""
    if not re.fullmatch(r"([^.\[\]]+|\[\d+\])?(\.[^.\[\]]+|\[\d+\])*", path):
        raise InputError(f"--remote.response must be a path such as result.scores or outputs[0].data, got {path[:80]}")
    return [int(place) if place else key for place, key in re.findall(r"\[(\d+)\]|([^.\[\]]+)", path)]
