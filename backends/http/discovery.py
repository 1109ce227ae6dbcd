"""Chooses the dialect of a server from its metadata and the settings of the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote

from backends.base import Access, BackendInfo, InputError
from backends.http.codecs.base import Dialect, Layout, Pixels, Range, RefusedError, at
from backends.http.codecs.open_inference import OpenInference, model_path
from backends.http.codecs.template import JsonTemplate, steps_of, template_of
from backends.http.codecs.tensorflow import TensorFlow

__all__ = ["DiscoveryOverrides", "found"]

_BINARY = "binary_tensor_data"


@dataclass(frozen=True)
class DiscoveryOverrides:
    """What the user sets about the server; the rest comes from its metadata, or from the data set."""

    protocol: Literal["oip", "oip-binary", "tensorflow", "json"] | None = None
    layout: Layout | None = None
    range: Range | None = None
    request: str | None = None
    response: str | None = None
    image_shape: tuple[int, ...] | None = None
    """of the data set: channels, height, width for images"""
    classes: int | None = None


def found(get: Callable[[str], Any], model: str, overrides: DiscoveryOverrides) -> Dialect:
    """The dialect of a server; ``get`` reads the JSON at a path below its address.

    Without a protocol in ``overrides`` OIP metadata are read first, then those of TensorFlow Serving.

    Raises:
        InputError: ``overrides`` contradict the metadata of the server.
        RefusedError: raised by ``get``, if the server has no such model.
        ValueError: the metadata are not those of an image classifier.
    """
    if overrides.protocol == "json" or overrides.request is not None:
        return _json_template(model, overrides)
    if overrides.protocol == "tensorflow":
        return _tensorflow(get, model, overrides)
    try:
        metadata = get(model_path(model))
    except RefusedError as refusal:
        if overrides.protocol is not None or refusal.status != 404:
            raise
        try:
            return _tensorflow(get, model, overrides)
        except RefusedError:
            raise refusal from None
    return _open_inference(get, metadata, model, overrides)


def _open_inference(get: Callable[[str], Any], metadata: Any, model: str, overrides: DiscoveryOverrides) -> OpenInference:
    if not isinstance(metadata, dict) or not ("name" in metadata or "inputs" in metadata):
        raise ValueError("the response is not the metadata of a model")
    inputs, outputs = (_only(metadata.get(kind), kind) for kind in ("inputs", "outputs"))
    if (datatype := inputs.get("datatype", "FP32")) not in ("FP32", "UINT8"):
        raise ValueError(f"its input is {datatype}, neither FP32 nor UINT8")
    shape = inputs.get("shape")
    info, pixels, assumed = _described(model, shape, datatype == "UINT8", outputs.get("shape"), overrides)
    parameters = metadata.get("parameters")
    limits = [part.get("max_batch_size") for part in (metadata, parameters) if isinstance(part, dict)]
    if shape and shape[0] == 1:
        limits.append(1)  # a network that was exported for one image at a time
    limit = min((limit for limit in limits if type(limit) is int and limit > 0), default=None)
    binary = overrides.protocol == "oip-binary" or (overrides.protocol is None and _speaks_binary(get))
    return OpenInference(replace(info, limit=limit), pixels, str(inputs.get("name", "images")), binary, assumed)


def _speaks_binary(get: Callable[[str], Any]) -> bool:
    try:
        extensions = get("/v2").get("extensions")
    except (RefusedError, ValueError, AttributeError):
        return False  # the server's own metadata are optional
    return isinstance(extensions, list) and _BINARY in extensions


def _tensorflow(get: Callable[[str], Any], model: str, overrides: DiscoveryOverrides) -> TensorFlow:
    path = f"/v1/models/{quote(model, safe='')}/metadata"
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    try:
        signature = at(get(path), ["metadata", "signature_def", "signature_def", "serving_default"])
        inputs, outputs = (_only(list(signature.get(kind, {}).values()), kind) for kind in ("inputs", "outputs"))
    except RefusedError as refusal:
        if overrides.protocol is None or refusal.status != 404:
            raise
    if (datatype := inputs.get("dtype", "DT_FLOAT")) not in ("DT_FLOAT", "DT_UINT8"):
        raise ValueError(f"its input is {datatype}, neither DT_FLOAT nor DT_UINT8")
    shapes = ([int(dim["size"]) for dim in part.get("tensor_shape", {}).get("dim", [])] for part in (inputs, outputs))
    if not inputs and overrides.range == "levels":
        datatype = "DT_UINT8"
    info, pixels, assumed = _described(model, next(shapes), datatype == "DT_UINT8", next(shapes), overrides)
    return TensorFlow(info, pixels, "; ".join(filter(None, [assumed, "its requests cannot name a chip"])))


def _json_template(model: str, overrides: DiscoveryOverrides) -> JsonTemplate:
    if overrides.request is None or overrides.response is None:
        raise InputError("a JSON template needs both `remote.request` and `remote.response`: give both")
    template, steps = template_of(overrides.request), steps_of(overrides.response)
    info, pixels, assumed = _described(model, None, overrides.range == "levels", None, overrides)
    return JsonTemplate(info, pixels, template, steps, assumed)


def _described(
    model: str, shape: Any, eight_bits: bool, output_shape: Any, overrides: DiscoveryOverrides
) -> tuple[BackendInfo, Pixels, str | None]:
    """The metadata completed by ``overrides``; the last value says in words what had to be assumed."""
    image_shape, layout, missing = _sides(shape, overrides)
    if output_shape and len(output_shape) != 2:
        raise ValueError(f"its output has shape {output_shape}, not a row of classes for each image")
    classes = output_shape[1] if output_shape and type(output_shape[1]) is int and output_shape[1] > 0 else None
    if classes is None:
        if overrides.classes is None:
            raise ValueError("the metadata do not say how many classes it has")
        classes = overrides.classes
        missing.append(f"{classes} classes")
    if overrides.range is not None and (overrides.range == "levels") != eight_bits:
        takes = "whole numbers from 0 to 255 (`remote.range=levels`)" if eight_bits else "floating-point numbers"
        raise InputError(f"`remote.range={overrides.range}` does not fit {model}, which takes {takes}: remove it")
    pixels = Pixels(layout, "levels" if eight_bits else overrides.range or "signed")
    assumed = f"the metadata do not say it, so taken from the data set: {', '.join(missing)}" if missing else None
    return BackendInfo(model, Access.LOGITS, image_shape, classes, eight_bits), pixels, assumed


def _sides(shape: Any, overrides: DiscoveryOverrides) -> tuple[tuple[int, ...], Layout, list[str]]:
    """Shape and layout of one input, from the ``shape`` of the metadata or from the data set, and what was assumed."""
    of_data = overrides.image_shape
    known = bool(shape) and all(type(side) is int and side >= 1 for side in shape[1:])
    if of_data is not None and len(of_data) != 3 and (not shape or len(shape) == len(of_data) + 1):
        if overrides.layout is not None:
            raise InputError(
                f"`remote.layout={overrides.layout}` is for images, but `data` has inputs of the shape {of_data}: drop it"
            )
        return (tuple(shape[1:]), "nchw", []) if known else (of_data, "nchw", [f"inputs {of_data}"])
    if shape and len(shape) != 4:
        raise ValueError(f"its input has shape {shape}, not that of images")
    if not known:
        if of_data is None:
            raise ValueError("the metadata do not say which images it takes")
        layout = overrides.layout or "nchw"
        return of_data, layout, [f"images {of_data}, sent as {layout}"]
    # channels are fewer than rows or columns
    layout = overrides.layout or ("nchw" if shape[1] <= shape[3] else "nhwc")
    return ((shape[1], shape[2], shape[3]) if layout == "nchw" else (shape[3], shape[1], shape[2])), layout, []


def _only(entries: Any, kind: str) -> dict[str, Any]:
    """The metadata of the only tensor; empty if there are none."""
    if entries in (None, []):
        return {}
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise ValueError(f"it must have one tensor as {kind}, got {len(entries) if isinstance(entries, list) else 'none'}")
    return entries[0]
