"""One run of a comparison, its labels and its folder; settings stored as differences from the defaults."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from bbfuse.config.schema import RunConfig
from bbfuse.config.serialization import from_dict, to_dict

__all__ = ["Outcome", "Row", "Task", "configs_of", "differences", "grid", "outcome_of", "settings_of"]

Row = dict[str, Any]
"""One flat record of a result."""
_REASON = 300  # characters of a reason that are kept


@dataclass(frozen=True)
class Task:
    """One run of a comparison and the labels of its record."""

    labels: dict[str, Any]
    config: RunConfig
    whole_report: bool = True
    """Whether the report uses all held-out images and chips whatever the budget, so that all runs report on the same ones."""

    def __post_init__(self) -> None:
        if self.whole_report:
            whole = replace(self.config.report, share=1.0)
            object.__setattr__(self, "config", replace(self.config, report=whole))

    @property
    def name(self) -> str:
        """All labels in one line."""
        return ", ".join(str(value) for value in self.labels.values())

    def folder(self, root: Path) -> Path:
        """The run folder under ``root``, named by the settings that differ from the defaults: equal settings share a run."""
        changes = differences(to_dict(self.config), _defaults())
        return root / hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """The result of one run."""

    summary: dict[str, Any] | None
    """``None`` if the run failed."""
    reason: str = ""
    """Why the run failed, in one line."""


def outcome_of(future: Future[dict[str, Any]]) -> Outcome:
    """The outcome of a run that has ended."""
    error = future.exception()
    if error is None:
        return Outcome(future.result())
    error = getattr(error, "cause", None) or error  # Ray wraps the exception of the worker
    return Outcome(None, (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:_REASON])


def grid(config: Callable[..., RunConfig], **axes: Iterable[Any]) -> Iterator[Task]:
    """One task for each combination of the values of ``axes``; the last axis varies fastest.

    ``config`` gets one value of each axis by name and returns the settings of that run. The values are the labels of the task.
    """
    for values in product(*axes.values()):
        labels = dict(zip(axes, values, strict=True))
        yield Task(labels, config(**labels))


def _defaults() -> dict[str, Any]:
    """The defaults of tasks: those of a run with the whole report."""
    return to_dict(Task({}, RunConfig()).config)


def differences(plain: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The settings of ``plain`` that differ from ``defaults``, section by section."""
    changed = {name: value for name, value in plain.items() if value != defaults[name]}
    return {
        name: differences(value, defaults[name]) if isinstance(value, dict) else value for name, value in changed.items()
    }  # fmt: skip


def settings_of(tasks: Sequence[Task]) -> dict[str, Any]:
    """The settings of all ``tasks``, in their order: ``defaults``, and for each run what differs from them."""
    defaults = _defaults()
    return {"defaults": defaults, "runs": [differences(to_dict(task.config), defaults) for task in tasks]}


def configs_of(settings: dict[str, Any]) -> list[RunConfig]:
    """The inverse of `settings_of`."""
    return [from_dict(_merged(settings["defaults"], changes)) for changes in settings["runs"]]


def _merged(defaults: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _merged(value, changes.get(name, {})) if isinstance(value, dict) else changes.get(name, value)
        for name, value in defaults.items()
    }
