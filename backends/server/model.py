"""A backend as a model of the Open Inference Protocol v2: requests in, responses out."""

from __future__ import annotations

import json
import threading
from reprlib import repr as shown  # bounded, whatever it is of
from typing import Any

import torch
from fastapi.responses import Response
from torch import Tensor

from backends.base import Backend, InputError, TargetError
from backends.http.codecs.oip_binary import LENGTH, MEDIA_TYPE, packed, unpacked
from backends.http.codecs.oip_json import chip_of, named_tensor, request_body, tensor_of
from backends.server.limits import Limits, RefusedRequestError, error, refusal

__all__ = ["VERSION", "Model"]

VERSION = "1"
"""The only version of every model."""


class Model:
    """A backend as a model of the protocol: requests in, responses out."""

    def __init__(self, backend: Backend, datatype: str, limits: Limits) -> None:
        self.name = backend.info.name
        self._backend, self._datatype, self._limits = backend, datatype, limits
        self._lock = threading.Lock()

    def metadata(self) -> dict[str, Any]:
        """Name, shapes and limits, as the protocol has them."""
        info, limits = self._backend.info, self._limits
        return {
            "name": self.name, "versions": [VERSION], "platform": "pytorch",
            "inputs": [{"name": "images", "datatype": self._datatype, "shape": [-1, *info.image_shape]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, info.classes]}],
            "parameters": {"max_batch_size": limits.batch_size, "max_body_bytes": limits.body_bytes},
        }  # fmt: skip

    def example(self) -> dict[str, Any]:
        """A small valid request."""
        return request_body(torch.zeros(1, *self._backend.info.image_shape), chip_of(None), eight_bits=self._datatype == "UINT8")

    def respond(self, body: bytearray, length: str | None) -> Response:
        """The response to the request in ``body``, whose header `LENGTH` is ``length``; an error if it is refused or fails."""
        torch.get_num_threads()  # this call gives the thread the number of the process; sums round differently with another
        try:
            return self._inferred(body, length)
        except InputError as problem:  # handled here: in another thread it would keep the whole request in memory
            return refusal(problem)
        except TargetError as problem:
            return error(500, str(problem))

    def _inferred(self, body: bytearray, length: str | None) -> Response:
        content = unpacked(body, length)
        images, chip, binary = self._images(content.get("inputs")), chip_of(content.get("parameters")), _wants_binary(content)
        given = content.get("id")
        if given is not None and not isinstance(given, str):
            raise InputError(f"id must be a string, got {shown(given)}")
        with self._lock:  # one query at a time: a backend has one memory
            logits = self._backend.query(images, chip, lambda _: None)
        if not torch.isfinite(logits).all():
            raise TargetError(f"{self.name} gave logits that are not finite")
        response = {
            "model_name": self.name, "model_version": VERSION, **({} if given is None else {"id": given}),
            "outputs": [named_tensor("logits", logits, binary)],
        }  # fmt: skip
        if not binary:
            return Response(json.dumps(response, separators=(",", ":")), media_type="application/json")
        whole, header = packed(response)
        return Response(whole, headers={LENGTH: str(header)}, media_type=MEDIA_TYPE)

    def _images(self, inputs: Any) -> Tensor:
        entry = inputs[0] if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) else {}
        for key, expected in ("name", "images"), ("datatype", self._datatype):
            if entry and entry.get(key) != expected:
                raise InputError(f"inputs[0].{key} must be {expected}, got {shown(entry.get(key))}")
        images, sides = tensor_of(inputs, "inputs"), self._backend.info.image_shape
        if images.ndim == 0 or tuple(images.shape[1:]) != sides or not len(images):
            raise InputError(f"inputs[0].shape must be [n, {', '.join(map(str, sides))}], n > 0, got {list(images.shape)}")
        if len(images) > self._limits.batch_size:
            raise RefusedRequestError(413, f"inputs[0] may have {self._limits.batch_size} images, got {len(images)}")
        low, high = images.aminmax()
        if not (low >= -1.0 and high <= 1.0):  # also true for NaN
            raise InputError("inputs[0].data must lie in [-1, 1]")
        return images


def _wants_binary(content: dict[str, Any]) -> bool:
    """Whether the response is to be binary: the setting of the output, or else that of the request."""
    outputs = content.get("outputs")
    if outputs is not None and not (isinstance(outputs, list) and len(outputs) <= 1):
        raise InputError("outputs must be a list of at most one output")
    wanted = _switch(content, "binary_data_output", "parameters")
    for output in outputs or []:
        if not isinstance(output, dict) or output.get("name") != "logits":
            raise InputError(f"outputs[0].name must be logits, got {shown(output)}")
        chosen = _switch(output, "binary_data", "outputs[0].parameters")
        wanted = wanted if chosen is None else chosen
    return bool(wanted)


def _switch(entry: dict[str, Any], name: str, place: str) -> bool | None:
    """The parameter ``name`` of ``entry``; ``place`` names its parameters in errors."""
    parameters = entry.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InputError(f"{place} must be an object, got {shown(parameters)}")
    value = (parameters or {}).get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{place}.{name} must be true or false, got {shown(value)}")
    return value
