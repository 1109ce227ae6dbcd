"""Flags of a command line from a frozen dataclass; what is wrong with them is said in one line."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from backends.base import InputError

__all__ = ["parse", "refused"]

T = TypeVar("T")
_ADVICE = ("Argument helptext:", "For full helptext", "Perhaps you meant:", "Similar")


def parse(kind: Callable[..., T], program: str, arguments: Sequence[str]) -> T:
    """The ``kind`` that ``arguments`` describe; ``program`` is how the command is called.

    Raises:
        InputError: a flag or value that does not exist.
        SystemExit: ``--help`` was asked for and has been printed.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(kind, args=arguments, prog=program)
    except SystemExit as stop:
        if not stop.code:
            raise
        # the parser draws a box: frame, title, problem, advice
        lines = [re.sub(r"[─╭╮╰╯│]|-{5,}", "", line).strip() for line in told.getvalue().splitlines()]
        problem = " ".join(line for line in lines[1:] if line)
        problem = re.sub(r"^\s*Error parsing \w+: ", "", problem)  # a section's own check has named the flag
        for advice in _ADVICE:
            problem = problem.split(advice)[0]
        raise InputError(f"{problem.strip().rstrip('.')}; {program} --help lists what there is") from None


def refused(error: Exception, code: int = 2) -> int:
    """Say on standard error, in one line, why nothing was done; the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return code
