"""Result files: ``NAME.json`` holds flat rows, the settings they were computed from, and the commit and machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bbfuse.compare.tasks import Row
from bbfuse.execution import SCHEMA
from bbfuse.runs.versions import versions

__all__ = ["ResultFiles", "as_json", "text_of"]


@dataclass(frozen=True)
class ResultFiles:
    """A folder of result files and their figures."""

    folder: Path

    def path(self, name: str, suffix: str = ".json") -> Path:
        """The file of the result ``name``."""
        return self.folder / f"{name}{suffix}"

    def read(self, name: str) -> dict[str, Any]:
        """The whole result: ``schema``, ``config``, ``commit``, ``machine`` and ``rows``."""
        found: dict[str, Any] = json.loads(self.path(name).read_text())
        return found

    def rows(self, name: str) -> list[Row]:
        """The rows of the result ``name``."""
        rows: list[Row] = self.read(name)["rows"]
        return rows

    def write(self, name: str, config: Any, rows: list[Row]) -> None:
        """Write a result that was computed from ``config`` on this machine."""
        self.path(name).write_text(as_json(config, rows, self.folder))


def as_json(config: Any, rows: list[Row], repository: Path) -> str:
    """The text of a result file; ``repository`` is a folder of the repository whose commit is recorded."""
    return text_of({"schema": SCHEMA, "config": config, "commit": _commit(repository), "machine": _machine(), "rows": rows})


def text_of(result: dict[str, Any]) -> str:
    """``result`` as it is written."""
    return json.dumps(result, indent=1) + "\n"


def _machine() -> dict[str, Any]:
    return {"processor": platform.machine(), "cores": os.cpu_count(), **versions()}


def _commit(repository: Path) -> str | None:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=repository, capture_output=True, text=True)
    return done.stdout.strip() or None
