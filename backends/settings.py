"""What settings are made of: ranges that fields declare, and rules between settings.

A section of settings is a frozen dataclass. Its fields declare their ranges by `annotated_types`; a string below a field says
what it is. Rules between the fields of one section are its ``rules``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval
from pydantic import AllowInfNan

__all__ = ["Count", "NoSettings", "NonNegative", "NonNegativeInt", "Positive", "Rule", "Share", "changed"]

Positive = Annotated[float, Gt(0), AllowInfNan(False)]
NonNegative = Annotated[float, Ge(0), AllowInfNan(False)]
Count = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1), AllowInfNan(False)]


@dataclass(frozen=True)
class Rule:
    """A combination of settings that cannot work.

    ``broken`` says whether the settings ``c`` are such a combination; anything true is. ``message`` names the settings in
    backticks, why they cannot work, and the way out; it is formatted with ``c``, and with ``found``, what ``broken`` gave.
    """

    broken: Callable[[Any], object]
    message: str

    def refusal(self, settings: Any) -> str | None:
        """The message if ``settings`` break the rule."""
        found = self.broken(settings)
        return self.message.format(c=settings, found=found) if found else None


@dataclass(frozen=True)
class NoSettings:
    """The section of a component without settings."""


def changed(section: Any) -> list[str]:
    """Names of the fields of ``section`` that differ from their defaults, in order."""
    return [f.name for f in fields(section) if getattr(section, f.name) != f.default]
