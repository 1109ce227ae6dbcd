"""The blocks of code of a page, and the commands in them, run as a reader would run them."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.documents.pages import ROOT

SHELL = ("", "sh")
_SCRIPT = "from bbfuse.cli.app import main; raise SystemExit(main())"
_SERVERS = re.compile(r"^(bbfuse (server|serve)|python -m (backends\.server|bbfuse\.serve))\b")


@dataclass(frozen=True)
class Block:
    """One block of a page: its language, the file that it is the text of (if it has a title), its text."""

    language: str
    title: str | None
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, without comments and prompts."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language in SHELL else []
        return [command for line in lines if (command := re.sub(r"(^|\s)#.*", "", line).strip())]


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(language, title or None, text) for language, title, text in found]


def words_of(command: str) -> list[str]:
    """The command as this interpreter runs it, in which the project need not be installed."""
    program, *rest = shlex.split(command)
    if program == "bbfuse":
        return [sys.executable, "-c", _SCRIPT, *rest]
    assert program == "python", command
    return [sys.executable, *rest]


def output_of(command: str, folder: Path) -> str:
    """What ``command`` prints when it is called in ``folder``."""
    done = subprocess.run(words_of(command), cwd=folder, env=_environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def is_server(command: str) -> bool:
    return _SERVERS.match(command) is not None


@contextmanager
def served(command: str, folder: Path) -> Iterator[str]:
    """A server's ``command`` under way; its address."""
    with subprocess.Popen(words_of(command), cwd=folder, env=_environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()
            assert address, command
            assert address[0].startswith("http://127.0.0.1:")
            yield address[0]
        finally:
            process.terminate()


class Reader:
    """Follows a page in ``folder``: writes its files, runs its Python in one namespace, and its commands where wanted."""

    def __init__(self, folder: Path, names: dict[str, Any], runs_commands: bool) -> None:
        self.folder, self.names, self._runs_commands = folder, dict(names), runs_commands
        self.done: list[str] = []
        self._stack = ExitStack()
        self._ports: dict[str, str] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def follow(self, page: Path, left_out: tuple[str, ...] = ()) -> None:
        found = blocks(page)
        for block in found:  # a file may be shown below the command that reads it
            if block.title is not None:
                (self.folder / block.title).write_text(block.text)
        for block in found:
            if block.language == "python" and block.title is None:
                exec(compile(block.text, page.name, "exec"), self.names)
            for command in block.commands if self._runs_commands else ():
                if not command.startswith(left_out):
                    self._run(command)

    def _run(self, command: str) -> None:
        command = re.sub(r"(127\.0\.0\.1:|--port )(\d{4})", self._on_a_free_port, command)
        if is_server(command):
            self._stack.enter_context(served(command, self.folder))
        else:
            output_of(command, self.folder)
        self.done.append(command)

    def _on_a_free_port(self, found: re.Match[str]) -> str:
        return found[1] + self._ports.setdefault(found[2], str(_free_port()))


def check_text(block: Block) -> None:
    """A block of data can be read."""
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "python":
        compile(block.text, block.title or "block", "exec")
    else:
        assert block.language in SHELL, block.language


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
