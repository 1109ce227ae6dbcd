"""A function of the user as a target: a callable on batches, or a scikit-learn estimator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from backends.base import Backend, InputError
from backends.kinds.base import BACKENDS, BackendKind, Opening
from backends.registry import shown
from backends.settings import Count

__all__ = ["Function", "FunctionConfig"]


@dataclass(frozen=True)
class FunctionConfig:
    """How a function that is the target is called. Its inputs have the form, range and layout of the data as they were given."""

    input: Literal["torch", "numpy"] | None = None
    """what it takes: a torch tensor or a numpy array; numpy for scikit-learn estimators, else torch if not given"""
    flat: bool | None = None
    """inputs are rows of features (n, features); for scikit-learn estimators alone if not given"""
    limit: Count | None = None
    """inputs in a batch at most"""
    repeatable: bool = True
    """whether the same query gives the same response"""


@BACKENDS.register("function")
class Function(BackendKind):
    """A function from inputs to scores, or a scikit-learn estimator, in this process: strict access."""

    Config = FunctionConfig

    @classmethod
    def on_chip(cls, target: str, settings: Any) -> bool:
        """See `BackendKind`; a function has no architecture."""
        return False

    @classmethod
    def open(cls, opening: Opening) -> Backend:
        """See `BackendKind`; the function is not called."""
        from backends.function import FunctionBackend, function_of, is_estimator
        from backends.targets.base import TARGETS, Architecture

        found: object = TARGETS[opening.target]
        if isinstance(found, Architecture):
            raise InputError(f"`target` {opening.target} is an architecture, not a function of inputs: choose `backend=local`")
        given, data, estimator = opening.settings, opening.data, is_estimator(found)
        kind: Literal["torch", "numpy"] = given.input or ("numpy" if estimator else "torch")
        flat = estimator if given.flat is None else given.flat
        name = shown(opening.target)
        return FunctionBackend(
            name, function_of(found, name), data.image_shape, data.classes, data.form, kind, flat, given.limit, given.repeatable
        )  # fmt: skip
