"""What a user of Python passes as the target: a network, a function, an estimator, a file, an address, or a backend."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from backends.base import BackendInfo, InputError
from backends.function import is_estimator
from backends.models.reading import SUFFIXES
from backends.targets.base import TARGETS, Architecture
from backends.targets.checkpoint import SUFFIX

__all__ = ["FILES", "is_backend", "resolve"]

FILES = (SUFFIX, *SUFFIXES)
"""Suffixes of files that hold a target."""


def resolve(target: object) -> tuple[str, object]:
    """The name of the kind of backend for ``target``, and the target: a string if it is one by name, else the object.

    A URL is ``remote``; a file, a name and an ``nn.Module`` are ``local``; a scikit-learn estimator or another callable is a
    ``function``; a backend is an ``object``. What ``module:attribute`` names is treated like the object itself, but a plain
    function of that kind makes a network for a number of classes, as on the command line.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(target, str) and target.startswith(("http://", "https://")):
        return "remote", target
    if isinstance(target, str | Path):
        return _named(str(target)), str(target)
    kind = _kind_of(target)
    if kind is None:
        raise InputError(
            f"`target` must be an nn.Module, a function, a scikit-learn classifier, a file ({', '.join(FILES)}), a URL, a name "
            f"or a backend, got {type(target).__name__}"
        )
    return kind, target


def is_backend(target: object) -> bool:
    """Whether ``target`` has what a `backends.base.Backend` has."""
    works = all(callable(getattr(target, name, None)) for name in ("query", "close"))
    return works and not isinstance(target, type) and isinstance(getattr(target, "info", None), BackendInfo)


def _named(name: str) -> str:
    if name.endswith(FILES) or "+" in name:
        return "local"
    found: object = TARGETS[name]
    return "local" if not is_estimator(found) and not is_backend(found) else _kind_of(found) or "local"


def _kind_of(target: object) -> str | None:
    if isinstance(target, nn.Module | Architecture):
        return "local"
    if is_backend(target):
        return "object"
    if is_estimator(target) or (callable(target) and not isinstance(target, type)):
        return "function"
    return None
