"""Help: a page with the flags that most users need, and one with all of them."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import textwrap
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from backends.datasets.base import DATASETS
from backends.flags import as_flags
from backends.kinds.base import BACKENDS
from backends.registry import Registry, about
from backends.targets.base import TARGETS
from bbfuse.fuse.generators.base import GENERATORS
from bbfuse.heads.base import HEADS
from bbfuse.optimizers.base import OPTIMIZERS

__all__ = ["field_docs", "full_help", "short_help"]

_COMMON = (
    "backend", "optimizer", "head", "generator", "target", "data", "bit_error_rate", "chip_seed", "no_chip", "budget", "images",
    "labels", "seed", "workers", "remote.url", "remote.model", "init", "responses", "out", "plan", "json", "resume",
)  # fmt: skip
_REGISTRIES: dict[str, Registry[Any]] = {
    "backend": BACKENDS, "optimizer": OPTIMIZERS, "head": HEADS, "generator": GENERATORS,
}  # fmt: skip
_WIDTH = 110


def short_help(kind: type, program: str) -> str:
    """The common flags with their defaults, and the components by name."""
    lines = [f"usage: {program} [flags]", "", about(kind) + ".", ""]
    for name in _COMMON:
        lines += _entry(f"`{name}`", _described(kind, name))
        if name == "chip_seed":
            lines += _entry("--population", "train for the population of chips, report on unseen ones (default: chip 0)")
    for choice, registry in _REGISTRIES.items():
        lines += ["", f"{as_flags(f'`{choice}`')}, or module:attribute, or FILE.py:attribute"]
        for name, component in registry.items():
            lines += _entry(name, about(component))
    for choice, names in (("target", list(TARGETS)), ("data", list(DATASETS))):
        lines += ["", f"{as_flags(f'`{choice}`')}, or module:attribute, or FILE.py:attribute"]
        lines += [f"  {line}" for line in textwrap.wrap(", ".join(names), _WIDTH - 2)]
    lines += ["", f"All flags, those of every component included: {program} --help-all"]
    return "\n".join(lines)


def full_help(kind: type, program: str) -> str:
    """All flags."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], prog=program)
    return as_flags(printed.getvalue())


def field_docs(kind: type) -> dict[str, str]:
    """The string below each field of the dataclass ``kind``."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        with contextlib.suppress(OSError, TypeError):  # made without a source
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(tree, ast.ClassDef)
            for field, text in zip(tree.body, tree.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                    assert isinstance(field.target, ast.Name)
                    found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _described(kind: type, dotted: str) -> str:
    section, _, name = dotted.rpartition(".")
    owner = get_type_hints(kind)[section] if section else kind
    hint, text = get_type_hints(owner)[name], field_docs(owner)[name]
    default = next(f.default for f in dataclasses.fields(owner) if f.name == name)
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if choices:
        text = f"{text} ({' or '.join(map(str, choices))})"
    return text if default is None or default is False or dotted == "chip_seed" else f"{text} (default: {default})"


def _entry(name: str, text: str) -> list[str]:
    name = as_flags(name)
    wrapped = textwrap.wrap(as_flags(text), _WIDTH - 22)
    first, *rest = wrapped or [""]
    return [f"  {name:<18}  {first}", *(f"{'':22}{line}" for line in rest)]
