"""What the loggers of a run have in common: the numbers of a state and of a summary, by name."""

from __future__ import annotations

import importlib
from typing import Any

from backends.base import InputError
from bbfuse.callbacks.base import Status

__all__ = ["of_status", "of_summary", "required", "settings"]


def of_status(status: Status) -> dict[str, float]:
    """``images`` sent and, if there is one, the ``loss``."""
    found: dict[str, float] = {"images": status.images}
    return found if status.loss is None else {**found, "loss": status.loss}


def of_summary(summary: dict[str, Any]) -> dict[str, float]:
    """The accuracies of the closing report, the recovered points and the images sent, by dotted name."""
    numbers = {
        f"accuracy.{name}": value["mean"] if isinstance(value, dict) else value for name, value in summary["accuracy"].items()
    }
    numbers |= {"recovered_points": summary["recovered_points"], "images": summary["queries"]["images"]}
    return {name: float(value) for name, value in numbers.items() if value is not None}


def settings(config: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """The settings in ``config`` with dotted names; those without a value are left out."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= settings(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = value if isinstance(value, bool | int | float) else str(value)
    return found


def required(module: str, distribution: str, extra: str) -> Any:
    """The imported ``module``.

    Raises:
        InputError: ``distribution`` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{distribution} is not installed: python -m pip install 'bbfuse[{extra}]'") from error
