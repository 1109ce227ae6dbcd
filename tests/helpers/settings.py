"""Settings by their dotted names, so that a table of them can be written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bbfuse.config.schema import RunConfig

__all__ = ["made"]


def made(settings: Mapping[str, Any]) -> RunConfig:
    """The configuration with ``settings``, such as ``{"optimizer": "spsa", "spsa.c": 0.1}``; all others at their defaults."""
    plain = {name: value for name, value in settings.items() if "." not in name}
    sections: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        if "." in name:
            section, setting = name.split(".")
            sections.setdefault(section, {})[setting] = value
    config = RunConfig(**plain)
    made_sections = {name: dataclasses.replace(getattr(config, name), **values) for name, values in sections.items()}
    return dataclasses.replace(config, **made_sections)
