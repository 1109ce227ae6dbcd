"""The run folder: the settings of a run and everything that it writes.

``config.json`` (settings), ``versions.json`` (the library versions it was computed with, one entry for each change),
``events.jsonl`` (one line per step, flushed), ``checkpoint`` (written, synced, renamed),
``answers.jsonl`` (remote: responses since the checkpoint), ``start.pt`` (warm start from another run), ``fuse.pt``
(the trained fuse and heads), ``training.csv`` (steps and validations), ``summary.json``, ``report.html``.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from backends.base import InputError, one_line
from backends.files import write_text, write_torch
from backends.registry import executes_code
from bbfuse.config.schema import RunConfig
from bbfuse.config.serialization import from_dict, to_dict

__all__ = ["RunFolder", "events", "settings", "trained_parts"]


_COMPONENTS = ("backend", "optimizer", "head", "generator", "grow")
"""Settings whose components are looked up whenever a run folder is read."""


class RunFolder:
    """The files of a run. Nothing outside ``path`` is written."""

    def __init__(self, path: Path, created: Sequence[Path] = ()) -> None:
        """``created``: the folders that were made for it, the innermost first."""
        self.path = path
        self._created = created
        self._events = (path / "events.jsonl").open("ab")

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunFolder:
        """A new run in ``path``, which must not exist or be empty.

        Raises:
            InputError: it is not empty, or cannot be written.
        """
        created = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise InputError(f"`out` {path} is not empty: choose another folder, or continue it with `resume={path}`")
            write_text(path / "config.json", _json(to_dict(config)))
            return cls(path, created)
        except OSError as error:
            raise InputError(f"`out` {path} cannot be written: {error.strerror or error}") from error

    @classmethod
    def open(cls, path: Path, trust: bool = False) -> tuple[RunFolder, RunConfig]:
        """The run in ``path``, to be resumed.

        Raises:
            InputError: there is none, its settings cannot be read, or they name own code and ``trust`` is false.
        """
        config = settings(path, "`resume`", trust, ("target", "data"))
        try:
            return cls(path), config
        except OSError as error:
            raise InputError(f"`resume` {path} cannot be written: {error.strerror or error}") from error

    def event(self, record: dict[str, Any]) -> None:
        """Append a line to ``events.jsonl``."""
        self._events.write((json.dumps(record) + "\n").encode())
        self._events.flush()

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; if killed, the old or the new one is left."""
        self._events.flush()
        write_torch(self.path / "checkpoint", {**state, "events": self._events.tell()}, sync=True)

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, if one was written; events after it are dropped, since their steps are repeated.

        Raises:
            InputError: there is one that cannot be read.
        """
        state = _loaded(self.path / "checkpoint")
        self._events.truncate(state["events"] if state else 0)
        return state

    def write_fuse(self, fuse: dict[str, Any]) -> None:
        """The trained fuse and heads, as `Trainer.trained` returns them."""
        write_torch(self.path / "fuse.pt", fuse)

    def write_start(self, start: dict[str, Any]) -> None:
        """The warm start from another run, as `bbfuse.runs.warm_start` returns it."""
        write_torch(self.path / "start.pt", start)

    def start(self) -> dict[str, Any] | None:
        """What `write_start` wrote, ``None`` if nothing.

        Raises:
            InputError: it cannot be read.
        """
        return _loaded(self.path / "start.pt")

    def versions(self) -> list[dict[str, str]]:
        """The library versions that the run was computed with, the newest last; empty if it has
        not begun."""
        path = self.path / "versions.json"
        found: list[dict[str, str]] = json.loads(path.read_text()) if path.exists() else []
        return found

    def write_versions(self, found: list[dict[str, str]]) -> None:
        """Replace what `versions` returns."""
        write_text(self.path / "versions.json", json.dumps(found, indent=2) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """``summary.json``, complete or not at all."""
        write_text(self.path / "summary.json", _json(summary))

    def write_training(self) -> None:
        """``training.csv``: steps and validations with images sent, training loss and validation accuracy."""
        columns = ("step", "images", "loss", "validation")
        rows = [line for line in events(self.path) if "loss" in line or "validation" in line]
        lines = [",".join("" if line.get(name) is None else str(line[name]) for name in columns) for line in rows]
        write_text(self.path / "training.csv", "\n".join([",".join(columns), *lines]) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run; ``None`` before its end."""
        path = self.path / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None

    def discard(self) -> None:
        """Remove the files of a run that could not begin, and the folders that were made for it."""
        self._events.close()
        if self._created:
            shutil.rmtree(self.path)
            with contextlib.suppress(OSError):  # another run may have begun beside it
                for folder in self._created[1:]:
                    folder.rmdir()
        else:
            for name in ("config.json", "versions.json", "events.jsonl", "answers.jsonl", "start.pt", "responses.pt"):
                (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files."""
        self._events.close()


def settings(path: Path, flag: str, trust: bool = False, also: Sequence[str] = ()) -> RunConfig:
    """The settings of the run in ``path``, which the user gave as ``flag``.

    Components that it names as ``module:attribute`` or ``FILE.py:attribute`` are code, imported only with ``trust``; ``also``:
    further settings whose components will be looked up.

    Raises:
        InputError: there is none, they cannot be read, or they name own code and ``trust`` is false.
    """
    try:
        plain = json.loads((path / "config.json").read_text())
        for setting in (*_COMPONENTS, *also):
            _check_trust(f"{flag} {path}", setting, plain.get(setting), trust)
        return from_dict(plain)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise InputError(f"{flag} {path} holds no run that can be read: {error}") from error


def _check_trust(where: object, setting: str, name: object, trust: bool) -> None:
    if not trust and executes_code(str(name)):
        raise InputError(
            f"{where} names code of its own, `{setting}={name}`, which would be executed: set `trust` if you trust it"
        )


def trained_parts(path: Path, flag: str, trust: bool = False) -> dict[str, Any]:
    """The content of ``fuse.pt`` of the run in ``path``, which the user gave as ``flag``; see `Trainer.trained`.

    Raises:
        InputError: there is none, it cannot be read, or it names own code (see `settings`) and ``trust`` is false.
    """
    if not (path / "fuse.pt").is_file():
        raise InputError(f"{flag} {path} holds no fuse.pt: give the folder of a run that has ended")
    try:
        saved = _loaded(path / "fuse.pt")
        assert saved is not None
        found = {name: saved[name] for name in ("generator", "image_shape", "fuse", "heads")}
        _check_trust(path / "fuse.pt", "generator", found["generator"], trust)
        return {**found, "answers": saved.get("answers"), "kept_parts": saved.get("kept_parts")}
    except (InputError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, InputError) else f"{path / 'fuse.pt'} lacks {error}"
        raise InputError(f"{flag} {reason}") from error


def events(path: Path) -> list[dict[str, Any]]:
    """All complete lines of ``events.jsonl`` in the run folder ``path``; an incomplete last line is left out."""
    lines = (path / "events.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


_READ_ERRORS = (
    OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, struct.error, pickle.UnpicklingError,
)  # fmt: skip
"""What torch may raise for a file that is incomplete or has other content."""


def _loaded(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] | None = torch.load(path, weights_only=True) if path.exists() else None
        return state
    except _READ_ERRORS as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
