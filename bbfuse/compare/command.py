"""Command line of a result file: show its table, print it (``--json``, ``--markdown``), or compute it again (``--run``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console, RenderableType

from backends import flags
from backends.base import InputError, TargetError
from bbfuse.compare.display.tables import markdown
from bbfuse.compare.results import ResultFiles
from bbfuse.compare.tasks import Row

__all__ = ["RayShow", "Show", "Tabulate", "TierShow", "result_command", "tier_result", "tiered_command"]

Computed = tuple[Any, list[Row]]
"""The settings and the rows of a result."""
Tabulate = Callable[[list[Row]], RenderableType]


@dataclass(frozen=True)
class Show:
    """Show a committed result."""

    json: bool = False
    """print the file"""
    run: bool = False
    """compute what is missing and write the file again"""
    markdown: bool = False
    """print the table as Markdown"""


@dataclass(frozen=True)
class RayShow(Show):
    """Show a committed study."""

    ray_address: str | None = None
    """with --run: distribute the runs over this Ray (local, auto, HOST:PORT)"""


@dataclass(frozen=True)
class TierShow(Show):
    """Show a committed result."""

    tier: str = "cpu"
    """cpu: small targets, for two cores; gpu: the paper's targets, on a machine with a GPU; others as the study declares"""


def result_command(
    results: ResultFiles, name: str, program: str, compute: Callable[[Any], Computed], table: Tabulate, arguments: Sequence[str],
    more_rows: Callable[[], list[Row]] = list, kind: type[Show] = Show,
) -> int:  # fmt: skip
    """The command line of the result ``name``, called as ``program``; the exit code.

    ``compute`` gets the parsed flags (a ``kind``) and returns settings and rows. ``more_rows`` are rows with the same keys from
    another result; they are shown after the own rows.
    """
    try:
        show = flags.parse(kind, program, arguments)
        if isinstance(show, RayShow) and show.ray_address is not None and not show.run:
            raise InputError("`ray_address` has no effect without `run`: remove it")
        if show.json and show.markdown:
            raise InputError("`json` and `markdown` exclude each other: remove one")
        computed = compute(show) if show.run else None
    except InputError as error:
        return flags.refused(error)
    except TargetError as error:
        return flags.refused(error, code=1)
    if computed is not None:
        results.write(name, *computed)
    result = results.read(name)
    result["rows"] += more_rows()
    if show.json:
        print(json.dumps(result, indent=1))
    elif show.markdown:
        print(markdown(table(result["rows"])))
    else:
        Console().print(table(result["rows"]))
    return 0


def tier_result(name: str, tier: str) -> str:
    """Name of the result of ``tier``: ``NAME_TIER``, and ``NAME`` for the tier ``cpu``."""
    return name if tier == "cpu" else f"{name}_{tier}"


def tiered_command(
    results: ResultFiles, name: str, program: str, compute: Callable[[str], Computed], table: Tabulate, arguments: Sequence[str],
    tiers: Sequence[str] = ("cpu", "gpu"),
) -> int:  # fmt: skip
    """The command line of a result that ``compute`` gives for each of ``tiers``; the exit code."""
    try:
        show = flags.parse(TierShow, program, arguments)
        if show.tier not in tiers:
            raise InputError(f"`tier` must be one of {', '.join(tiers)}, got {show.tier}")
        result = tier_result(name, show.tier)
        if not show.run and not results.path(result).exists():
            raise InputError(f"`tier={show.tier}` has no committed result: add `run`")
        if show.run and show.tier == "gpu" and not torch.cuda.is_available():
            raise InputError("`tier=gpu` needs a GPU: run it on a machine that has one")
    except InputError as error:
        return flags.refused(error)
    return result_command(results, result, program, lambda _: compute(show.tier), table, arguments, kind=TierShow)
