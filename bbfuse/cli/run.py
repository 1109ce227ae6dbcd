"""``bbfuse run`` and ``python -m bbfuse.run``: exit code 0, 2 for bad input, 1 for a failed target."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import sys
from collections.abc import Sequence

from backends import flags
from backends.base import InputError, TargetError
from bbfuse.cli.help import full_help, short_help
from bbfuse.config import RunConfig, config_class
from bbfuse.config.schema import CHOICES

__all__ = ["main", "parse"]

_PROGRAM = "python -m bbfuse.run"
_POPULATION = "--population"


def main(arguments: Sequence[str]) -> int:
    """Execute the run that ``arguments`` describe; returns the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        config = parse(arguments)
        from bbfuse.execution import execute, forecast
        from bbfuse.progress import ProgressDisplay

        result = forecast(config) if config.plan else execute(config, display=ProgressDisplay(flags.as_flags))
        if config.json:
            print(json.dumps(result, indent=2))
        else:
            from bbfuse.cli.tables import closing_table, plan_table

            (plan_table if config.plan else closing_table)(result)
    except InputError as error:
        return flags.refused(error)
    except TargetError as error:
        return flags.refused(error, code=1)
    except KeyboardInterrupt:
        print("interrupted; continue with --resume and the run folder", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str]) -> RunConfig:
    """The configuration that ``arguments`` describe: chip 0, unless another chip, none, the population or a run to resume
    is given.

    Raises:
        InputError: a flag or value that does not exist, in one line.
        SystemExit: the arguments contain ``--help`` or ``--help-all``; the help has been printed.
    """
    kind = config_class(_choices(arguments))
    for flag, text in (("--help-all", full_help), ("--help", short_help), ("-h", short_help)):
        if flag in arguments:
            print(text(kind, _PROGRAM))
            raise SystemExit(0)
    population = _POPULATION in arguments
    config = flags.parse(kind, _PROGRAM, [argument for argument in arguments if argument != _POPULATION])
    chip_given = any(argument.split("=")[0] in ("--chip-seed", "--chip_seed") for argument in arguments)
    if population and (chip_given or config.no_chip or config.resume is not None):
        other = "--resume" if config.resume is not None else "--no-chip" if config.no_chip else "--chip-seed"
        raise InputError(f"{_POPULATION} does not go with {other}: drop one of the two")
    if population or chip_given or config.no_chip or config.resume is not None:
        return config
    return dataclasses.replace(config, chip_seed=0)


def _choices(arguments: Sequence[str]) -> dict[str, str]:
    """The components that ``arguments`` name, whose settings then are flags, too."""
    words = [part for argument in arguments for part in argument.split("=", 1)]
    return {choice: value for flag, value in itertools.pairwise(words) if (choice := flag.removeprefix("--")) in CHOICES}
