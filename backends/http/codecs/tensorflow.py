"""TensorFlow Serving's REST protocol: images to a request, a response to logits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from urllib.parse import quote

from torch import Tensor

from backends.base import BackendInfo, Chip
from backends.http.codecs.base import JSON, Message, Pixels, at, numbers

__all__ = ["TensorFlow"]


@dataclass(frozen=True)
class TensorFlow:
    """TensorFlow Serving's REST form, ``instances`` to ``predictions``; requests cannot name a chip."""

    info: BackendInfo
    pixels: Pixels = field(default_factory=Pixels)
    assumed: str | None = None
    binary: bool = field(default=False, init=False)

    @property
    def path(self) -> str:
        """See `Dialect`."""
        return f"/v1/models/{quote(self.info.name, safe='')}:predict"

    def encode(self, images: Tensor, chip: Chip) -> Message:
        """See `Dialect`."""
        return Message(json.dumps({"instances": self.pixels.encoded(images).tolist()}).encode(), JSON)

    def decode(self, response: Message) -> Tensor:
        """See `Dialect`."""
        return numbers(at(json.loads(response.body), ["predictions"]), self.info.classes)
