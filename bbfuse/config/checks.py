"""Checks of a configuration: the ranges that its fields declare, the rules of its sections, the rules between sections.

The same checks serve Python objects, JSON files and flags.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import annotated_types
from pydantic import TypeAdapter, ValidationError

from backends.base import InputError, one_line
from bbfuse.config.rules import RULES
from bbfuse.config.schema import CHOICES, RunConfig

__all__ = ["adapter", "rule_of", "validate"]


def validate(config: RunConfig) -> None:
    """Refuse a configuration that cannot work, before anything is opened or written.

    Raises:
        InputError: a value outside its range, or a combination of settings that a rule forbids.
    """
    for choice, registry in CHOICES.items():
        if getattr(config, choice) is not None:
            registry[getattr(config, choice)]  # an unknown name is refused first
    _check_ranges(config, "")
    for f in dataclasses.fields(config):
        section = getattr(config, f.name)
        _check_rules(getattr(section, "rules", ()), section)
    _check_rules(RULES, config)


def _check_ranges(section: Any, where: str) -> None:
    kind: Any = type(section)
    for f in dataclasses.fields(kind):
        value = getattr(section, f.name)
        if dataclasses.is_dataclass(value) and type(value) is _hint(kind, f.name):
            _check_ranges(value, f"{where}{f.name}.")
        else:
            try:
                adapter(kind, f.name).validate_python(value, strict=True)
            except ValidationError as error:
                found = one_line(value, 100)
                raise InputError(f"`{where}{f.name}` must {rule_of(kind, f.name, error)}, got {found}") from None


def _check_rules(rules: Any, settings: Any) -> None:
    for rule in rules:
        if (message := rule.refusal(settings)) is not None:
            raise InputError(message)


@functools.cache
def _hint(kind: type, name: str) -> Any:
    return get_type_hints(kind, include_extras=True)[name]


@functools.cache
def adapter(kind: Any, name: str) -> TypeAdapter[Any]:
    """Checks values of the field ``name`` of the section ``kind``."""
    return TypeAdapter(_hint(kind, name))


def rule_of(kind: type, name: str, error: ValidationError) -> str:
    """What a field declares, in words such as ``be above 0`` or ``lie in [0, 1]``; pydantic's message if it declares nothing, or
    if the value is of another type; NaN and infinities count as numbers."""
    found = error.errors()[0]
    infinite = isinstance(found["input"], float) and not math.isfinite(found["input"])
    if found["type"].endswith("_type") and not infinite:
        return found["msg"].replace("Input should be", "be")
    bounds: dict[str, Any] = {}
    for item in _metadata(_hint(kind, name)):
        if isinstance(item, annotated_types.Predicate) and item.func.__doc__:
            return f"be {item.func.__doc__.removeprefix('Whether it is ').rstrip('.')}"
        for part in item if isinstance(item, annotated_types.GroupedMetadata) else [item]:
            bounds |= {key: getattr(part, key) for key in ("gt", "ge", "lt", "le") if hasattr(part, key)}
    if {"gt", "ge"} & bounds.keys() and {"lt", "le"} & bounds.keys():
        left = f"({bounds['gt']}" if "gt" in bounds else f"[{bounds['ge']}"
        return f"lie in {left}, " + (f"{bounds['lt']})" if "lt" in bounds else f"{bounds['le']}]")
    if "gt" in bounds:
        return f"be above {bounds['gt']}"
    if "ge" in bounds:
        return f"be {bounds['ge']} or more"
    return found["msg"].replace("Input should be", "be")


def _metadata(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Annotated:
        yield from get_args(hint)[1:]
    for part in get_args(hint):
        if get_origin(part) is Annotated:
            yield from get_args(part)[1:]
