"""Open Inference Protocol v2: images and a chip to a request, a response to logits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from urllib.parse import quote

from torch import Tensor

from backends.base import BackendInfo, Chip
from backends.http.codecs.base import JSON, Message, Pixels
from backends.http.codecs.oip_binary import LENGTH, MEDIA_TYPE, packed, unpacked
from backends.http.codecs.oip_json import request_body, tensor_of

__all__ = ["OpenInference", "model_path"]


@dataclass(frozen=True)
class OpenInference:
    """Open Inference Protocol v2: the chip in the parameters, numbers in JSON or with ``binary`` as raw bytes."""

    info: BackendInfo
    pixels: Pixels = field(default_factory=Pixels)
    input: str = "images"
    binary: bool = False
    assumed: str | None = None

    @property
    def path(self) -> str:
        """See `Dialect`."""
        return f"{model_path(self.info.name)}/infer"

    def encode(self, images: Tensor, chip: Chip) -> Message:
        """See `Dialect`."""
        # pixels that are levels are rounded already
        content = request_body(self.pixels.encoded(images), chip, self.input, binary=self.binary)
        if not self.binary:
            return Message(json.dumps(content).encode(), JSON)
        body, length = packed(content)
        return Message(body, {"Content-Type": MEDIA_TYPE, LENGTH: str(length)})

    def decode(self, response: Message) -> Tensor:
        """See `Dialect`; the server may choose JSON or binary, whatever the request said."""
        return tensor_of(unpacked(response.body, response.headers.get(LENGTH)).get("outputs"), "outputs")


def model_path(model: str) -> str:
    """The path of a model in the Open Inference Protocol."""
    return f"/v2/models/{quote(model, safe='')}"
