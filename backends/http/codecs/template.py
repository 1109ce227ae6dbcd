"""Any other JSON protocol: a template with places for images and chip, and a path to the logits in a response."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from backends.base import BackendInfo, Chip, InputError
from backends.http.codecs.base import JSON, Message, Pixels, at, numbers

__all__ = ["JsonTemplate", "steps_of", "template_of"]


@dataclass(frozen=True)
class JsonTemplate:
    """Requests from ``template`` (`template_of`); logits at ``steps`` (`steps_of`) in a response."""

    info: BackendInfo
    pixels: Pixels
    template: Any
    steps: list[str | int]
    assumed: str | None = None
    path: str = field(default="", init=False)
    binary: bool = field(default=False, init=False)

    def encode(self, images: Tensor, chip: Chip) -> Message:
        """See `Dialect`."""
        values = {
            "{images}": self.pixels.encoded(images).tolist(), "{bit_error_rate}": chip.bit_error_rate, "{chip_seed}": chip.seed
        }  # fmt: skip
        return Message(json.dumps(_filled(self.template, values)).encode(), JSON)

    def decode(self, response: Message) -> Tensor:
        """See `Dialect`."""
        return numbers(at(json.loads(response.body), self.steps), self.info.classes)


def template_of(text: str) -> Any:
    """The template in ``text``, JSON or the name of a file that holds it; places are the strings ``"{images}"``,
    ``"{bit_error_rate}"`` and ``"{chip_seed}"``.

    Raises:
        InputError: it is no JSON, has no place for images, or an unknown place.
    """
    try:
        content = Path(text).read_text() if not text.lstrip().startswith("{") else text
        template = json.loads(content)
    except (OSError, ValueError) as error:
        raise InputError(f"`remote.request` must be JSON or a file that holds it, got {text[:80]}: {error}") from error
    places = set(re.findall(r'"(\{\w*\})"', json.dumps(template)))
    known = {"{images}", "{bit_error_rate}", "{chip_seed}"}
    if "{images}" not in places or places - known:
        listed = " ".join(sorted(places)) or "none"
        raise InputError(
            f'`remote.request` must have "{{images}}", and may have {" ".join(sorted(known))}, as values, got {listed}'
        )
    return template


def steps_of(path: str) -> list[str | int]:
    """The keys and indexes in ``path``, such as ``result.scores[0]``; the empty path is the whole response.

    Raises:
        InputError: it is no such path.
    """
    if not re.fullmatch(r"([^.\[\]]+|\[\d+\])?(\.[^.\[\]]+|\[\d+\])*", path):
        raise InputError(f"`remote.response` must be a path such as result.scores or outputs[0].data, got {path[:80]}")
    return [int(place) if place else key for place, key in re.findall(r"\[(\d+)\]|([^.\[\]]+)", path)]


def _filled(template: Any, values: dict[str, Any]) -> Any:
    if isinstance(template, dict):
        return {key: _filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, values) for value in template]
    return values.get(template, template) if isinstance(template, str) else template
