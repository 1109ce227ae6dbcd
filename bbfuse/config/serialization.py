"""Configurations as plain values, as ``config.json`` has them."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from pydantic import ValidationError

from backends.base import InputError
from backends.registry import known
from bbfuse.config.checks import adapter
from bbfuse.config.schema import CHOICES, RunConfig, config_class

__all__ = ["from_dict", "to_dict"]

_NOT_COMPUTED = ("trust", "out", "plan", "json", "resume", "workers", "ray")
"""Settings that results do not depend on: folders, workers, output, and trust, which a file cannot give itself."""


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain values of all settings that results depend on."""
    plain = dataclasses.asdict(config)
    for name in _NOT_COMPUTED:
        del plain[name]
    for name in ("init", "responses"):
        plain[name] = None if plain[name] is None else str(plain[name])
    return plain


def from_dict(plain: dict[str, Any]) -> RunConfig:
    """The inverse of `to_dict`.

    Raises:
        InputError: a setting is unknown, or its value is invalid.
    """
    for choice, registry in CHOICES.items():
        name = plain.get(choice)
        if isinstance(name, str) and name not in registry and ":" not in name:
            raise InputError(f"config.json has {choice} = {name}, which is none of {', '.join(registry)}")
    config: RunConfig = _build(config_class(plain), plain, "")
    if "share" not in plain.get(
        "report", {"share": None}
    ):  # written before this setting existed: the report was never made smaller
        config = dataclasses.replace(config, report=dataclasses.replace(config.report, share=1.0))
    return config


def _build(kind: Any, plain: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    if unknown := sorted(set(plain) - set(hints)):
        raise InputError(f"config.json has an unknown setting {where}{unknown[0]}")
    values = {}
    for name, value in plain.items():
        if dataclasses.is_dataclass(hints[name]):
            values[name] = _build(hints[name], value, f"{where}{name}.")
        else:
            try:
                checked = adapter(kind, name).validate_python(value)
                values[name] = known(checked) if isinstance(checked, str) else checked
            except ValidationError as error:
                words = error.errors()[0]["msg"].replace("Input should be", "should be")
                raise InputError(f"config.json has {where}{name} = {value}, which {words}") from None
    return kind(**values)
