"""Committed results: ``python -m experiments.NAME`` shows one, ``--json`` prints its file, ``--run`` computes it again.

A study is a result whose rows are runs. Its runs are resumed (in ``runs/NAME``) until all are done; ``--ray-address``
distributes them over a Ray cluster. ``python -m experiments.study FILE`` does the same with a list of runs of one's own
(`bbfuse.compare.config_list`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bbfuse.compare import measured
from bbfuse.compare import study as compare
from bbfuse.compare.command import Tabulate, result_command, tiered_command
from bbfuse.compare.config_list import main as run_list
from bbfuse.compare.results import ResultFiles
from bbfuse.compare.tasks import Row

__all__ = ["RESULTS", "Measurement", "Study", "command", "rows_of", "tiered"]

RESULTS = Path(__file__).parent / "results"


def rows_of(name: str) -> list[Row]:
    """The rows of a committed result."""
    return ResultFiles(RESULTS).rows(name)


def command(
    name: str, compute: Callable[[], tuple[Any, list[Row]]], table: Tabulate, arguments: Sequence[str],
    more_rows: Callable[[], list[Row]] = list,
) -> int:  # fmt: skip
    """The command line of the committed result ``name`` (see `result_command`); the exit code."""
    return result_command(
        ResultFiles(RESULTS),
        name.split(".")[-1],
        f"python -m experiments.{name}",
        lambda _: compute(),
        table,
        arguments,
        more_rows,
    )


def tiered(
    name: str, compute: Callable[[str], tuple[Any, list[Row]]], table: Tabulate, arguments: Sequence[str],
    tiers: Sequence[str] = ("cpu", "gpu"),
) -> int:  # fmt: skip
    """The command line of a committed result with tiers (see `tiered_command`); the exit code."""
    return tiered_command(ResultFiles(RESULTS), name, f"python -m experiments.{name}", compute, table, arguments, tiers)


class Study(compare.Study):
    """A study with a committed result."""

    def main(self, arguments: Sequence[str]) -> int:
        """The command line; the exit code."""
        return self.command(ResultFiles(RESULTS), f"python -m experiments.{self.name}", arguments)


class Measurement(measured.Measurement):
    """A measurement with a committed result."""

    def main(self, arguments: Sequence[str]) -> int:
        """The command line; the exit code."""
        return command(self.name, self.compute, self.table, arguments)


if __name__ == "__main__":
    sys.exit(run_list(sys.argv[1:], "python -m experiments.study"))
