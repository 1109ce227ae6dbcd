"""Command lines: flags from a frozen dataclass, and errors in one line that names flags where the library names settings."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from backends.base import InputError

__all__ = ["as_flags", "parse", "refused"]

T = TypeVar("T")
_ADVICE = ("Argument helptext:", "For full helptext", "Perhaps you meant:", "Similar")
_SETTING = re.compile(r"`(?P<name>[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*)(=(?P<value>[^\s`]+))?`")


def parse(kind: Callable[..., T], program: str, arguments: Sequence[str]) -> T:
    """The ``kind`` that ``arguments`` describe; ``program`` is how the command is called.

    Raises:
        InputError: a flag or value that does not exist.
        SystemExit: the arguments contain ``--help``; the help has been printed.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(kind, args=arguments, prog=program)
    except SystemExit as stop:
        if not stop.code:
            raise
        # the parser draws a box: frame, title, problem, advice
        lines = [re.sub(r"[─╭╮╰╯│]|-{5,}", "", line).strip() for line in printed.getvalue().splitlines()]
        problem = " ".join(line for line in lines[1:] if line)
        problem = re.sub(r"^\s*Error parsing \w+: ", "", problem)  # the check of a section names the flag
        for advice in _ADVICE:
            problem = problem.split(advice)[0]
        raise InputError(f"{problem.strip().rstrip('.')}; {program} --help lists all flags") from None


def as_flags(message: str) -> str:
    """``message`` with its settings in backticks written as flags.

    `` `spsa.key_env` `` becomes ``--spsa.key-env``, `` `rge.space=parameters` `` becomes ``--rge.space parameters``, and
    `` `rge.broyden=False` `` becomes ``--rge.no-broyden``. Other text in backticks stays as it is.
    """
    return _SETTING.sub(_flag, message)


def _flag(found: re.Match[str]) -> str:
    *sections, name = found["name"].replace("_", "-").split(".")
    switch = found["value"] in ("True", "False")
    flag = "--" + ".".join([*sections, f"no-{name}" if found["value"] == "False" else name])
    return flag if switch or found["value"] is None else f"{flag} {found['value']}"


def refused(error: Exception, code: int = 2) -> int:
    """Print on standard error, in one line, why the command stops; return the exit code."""
    print(f"error: {as_flags(str(error))}", file=sys.stderr)
    return code
