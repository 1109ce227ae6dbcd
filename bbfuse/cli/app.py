"""The console script ``bbfuse``: one command with subcommands."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from backends import flags
from backends.base import InputError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "run": ("bbfuse.cli.run:main", "train a fuse and a head for a target, and report the recovered accuracy"),
    "plan": ("bbfuse.cli.app:plan", "print what a run would send and cost; sends nothing"),
    "bench": ("bbfuse.session.command:main", "train for a device without an API: queries and responses are files"),
    "export": ("bbfuse.deploy.onnx:main", "write a trained fuse and head as ONNX files with a model card"),
    "serve": ("bbfuse.deploy.serving:main", "put a trained fuse and head in front of a server, as a proxy"),
    "fit-target": ("backends.targets.fit:main", "fit a target, also one that tolerates bit errors, and write it to a file"),
    "server": ("backends.server.command:main", "serve targets on simulated low-voltage memory over HTTP"),
}
"""Name; function that takes the arguments and returns the exit code; description."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the subcommand that ``arguments`` begin with; returns the exit code.

    Without ``arguments``, as the console script, modules are also found in the working directory, as ``python -m`` does.
    """
    if arguments is None:
        if not sys.flags.safe_path:
            sys.path.insert(0, str(Path.cwd()))
        arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] not in COMMANDS:
        return flags.refused(InputError(f"the command must be one of {', '.join(COMMANDS)}, got {arguments[0]}"))
    module, _, function = COMMANDS[arguments[0]][0].partition(":")
    code: int | None = getattr(importlib.import_module(module), function)(list(arguments[1:]))
    return code or 0


def plan(arguments: Sequence[str]) -> int:
    """``bbfuse plan``: as ``bbfuse run --plan``."""
    from bbfuse.cli.run import main as run

    return run([*arguments, "--plan"])


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: bbfuse COMMAND [flags]", "", *lines, "", "bbfuse COMMAND --help lists the flags of a command."])
