"""``bbfuse bench ask`` and ``bbfuse bench tell``: a run on a device without an API, over files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backends import flags
from backends.base import NOMINAL, InputError, TargetError
from backends.kinds.bench import UNNAMED
from bbfuse.cli.run import parse
from bbfuse.session.bench import Query
from bbfuse.session.files import QueryFiles, read_responses
from bbfuse.session.session import Session

__all__ = ["main"]

_USAGE = """usage: bbfuse bench ask FOLDER [flags]
       bbfuse bench tell FOLDER RESPONSES

ask   begins a run in FOLDER with the flags of bbfuse run, or continues it without flags. Queries without a response are in
      FOLDER/queries: a .npz file each (images, bit_error_rate, chip_seed), or a folder of PNG images each with
      --bench.format png. At the end of the run it prints the results.
tell  reads responses: a CSV file with the columns query, index of the image and one number for each class, in any order;
      or a .npz file with an array (n, classes) for each query. Responses that were told before are ignored."""


def main(arguments: Sequence[str]) -> int:
    """Execute ``arguments``; returns the exit code."""
    try:
        return _main(arguments)
    except InputError as error:
        return flags.refused(error)
    except TargetError as error:
        return flags.refused(error, code=1)


def _main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    command, *rest = arguments
    if command == "ask" and rest and not rest[0].startswith("-"):
        _ask(Path(rest[0]), rest[1:])
    elif command == "tell" and len(rest) == 2:
        _tell(Path(rest[0]), Path(rest[1]))
    elif command == "ask" and rest:
        parse(rest)  # prints the help
    else:
        raise InputError(f"the command must be ask FOLDER [flags] or tell FOLDER RESPONSES, got {' '.join(arguments)}")
    return 0


def _ask(folder: Path, settings: Sequence[str]) -> None:
    session = _begun(folder, settings)
    queries = session.pending
    files = _files(session)
    files.write(queries)
    for query in queries:
        print(f"{query.id}  {len(query)} images, {_described(query)}: {files.path(query)}")
    if queries:
        print(f"{_counted(queries)} without a response; write the responses to a file (query, index, {session.classes} numbers), "
              f"then: bbfuse bench tell {folder} FILE")  # fmt: skip
        return
    from bbfuse.cli.tables import closing_table

    assert session.summary is not None
    closing_table(session.summary)
    print(f"the run has ended: {folder}/summary.json, {folder}/report.html")


def _tell(folder: Path, responses: Path) -> None:
    session = Session.load(folder)
    found = read_responses(responses, session.classes)
    before = session.pending
    session.tell_all(found)
    left = [query for query in before if query.id not in found]
    _files(session).write(left)
    told = f"{_counted([query for query in before if query.id in found])} told"
    print(f"{told}, {_counted(left)} without a response: {', '.join(query.id for query in left[:3])}"
          if left else f"{told}; next: bbfuse bench ask {folder}")  # fmt: skip


def _begun(folder: Path, settings: Sequence[str]) -> Session:
    if (folder / "config.json").exists():
        if settings:
            raise InputError(f"{folder} holds a run, whose settings are fixed: drop {' '.join(settings)}, or give another folder")
        return Session.load(folder)
    config = parse(["--backend", "bench", "--target", UNNAMED, "--out", str(folder), *settings])
    if config.backend != "bench" or config.resume is not None or config.plan or config.json or config.out != folder:
        raise InputError("bbfuse bench takes neither `backend`, `out`, `resume`, `plan` nor `json`: drop it")
    return Session.begin(config)


def _files(session: Session) -> QueryFiles:
    return QueryFiles(session.folder / "queries", session.form, session.format == "png")


def _described(query: Query) -> str:
    if query.chip.bit_error_rate == NOMINAL.bit_error_rate:
        return "nominal voltage"
    return f"chip {query.chip.seed} at {100 * query.chip.bit_error_rate:g} % bit errors"


def _counted(queries: Sequence[Query]) -> str:
    return f"{len(queries)} {'query' if len(queries) == 1 else 'queries'}"
