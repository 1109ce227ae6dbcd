"""The reference server as a child process, for runs that name no server."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict

from backends.base import InputError
from backends.memory.config import Memory

__all__ = ["OwnServer"]


class OwnServer:
    """``python -m backends.server`` as a child process on a free loopback port; it ends with this process in any case."""

    def __init__(
        self, target: str, data: str, threads: int = 1, memory: Memory | None = None, pixels: str = "float32",
        trust: bool = False,
    ) -> None:  # fmt: skip
        """Start it and wait until it serves.

        Raises:
            InputError: it did not start; the message has the reason.
        """
        command = [sys.executable, "-m", "backends.server", "--target", target, "--data", data]
        command += ["--threads", str(threads), "--pixels", pixels, "--stop-with-stdin"]
        command += ["--trust"] if trust else []
        for name, value in asdict(memory or Memory()).items():
            command += [] if value is None else [f"--memory.{name}", str(value)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            self.close()
            raise InputError(f"the server for `backend=remote` did not start: {lines[-1] if lines else 'no reason given'}")

    def close(self) -> None:
        """Stop it; may be called twice."""
        if self._errors.closed:
            return
        self._process.terminate()
        self._process.communicate()
        self._errors.close()
