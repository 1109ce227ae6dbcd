"""A target behind HTTP: client for the Open Inference Protocol v2, and a server of our own for those who have none."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

import requests
from torch import Tensor

from backends.interface import Access, BackendInfo, Chip, InputError, Sending, TargetError
from backends.memory.scheme import Memory
from backends.wire import request_body, tensor_of

__all__ = ["OwnServer", "RemoteBackend"]

_WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE = 8.0


class RemoteBackend:
    """Strict access by construction: what comes back is what the server sends."""

    def __init__(self, url: str, model: str, timeout: float, attempts: int) -> None:
        """Ask the server for the model's metadata.

        Raises:
            InputError: nobody answers at ``url``, or not with the metadata of an image classifier called ``model``.
        """
        self._model_url = f"{url.rstrip('/')}/v2/models/{model}"
        self._timeout = timeout
        self._attempts = attempts
        self._session = requests.Session()
        try:
            response = self._session.get(self._model_url, timeout=timeout)
        except (requests.RequestException, ValueError) as error:
            raise InputError(f"--remote.url {url} cannot be reached: {_reason(error)}") from error
        try:
            if response.status_code != 200:
                raise InputError(_problem(response))
            metadata = response.json()
            channels, height, width, classes = _shapes(metadata)
            self._input = str(metadata["inputs"][0].get("name", "images"))
            eight_bits = metadata["inputs"][0].get("datatype") == "UINT8"
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InputError(f"--remote.url {url} does not describe an image classifier called {model}: {error}") from error
        self.info = BackendInfo(model, Access.LOGITS, (channels, height, width), classes, eight_bits)

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.interface.Backend`; busy servers and broken connections are asked again, after ever longer pauses."""
        body = request_body(images, chip, self._input, self.info.eight_bits)
        for attempt in range(1, self._attempts + 1):
            sending(len(images))
            try:
                response = self._session.post(f"{self._model_url}/infer", json=body, timeout=self._timeout)
            except requests.RequestException as error:
                problem = _reason(error)
            else:
                if response.status_code == 200:
                    return self._logits(response)
                problem = _problem(response)
                if response.status_code not in _WORTH_RETRYING:
                    raise TargetError(f"{self._model_url} refused a request: {problem}")
            if attempt < self._attempts:
                time.sleep(min(_LONGEST_PAUSE, 0.25 * 2 ** (attempt - 1)))
        raise TargetError(f"{self._model_url} gave no answer in {self._attempts} attempts: {problem}")

    def _logits(self, response: requests.Response) -> Tensor:
        try:
            body = response.json()
            return tensor_of(body.get("outputs") if isinstance(body, dict) else None, "outputs")
        except ValueError as error:  # InputError and broken JSON
            raise TargetError(f"{self._model_url} answered with something else than logits: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class OwnServer:
    """``python -m backends.server`` as a child process on a free loopback port; it ends with this process, however that ends."""

    def __init__(self, target: str, data: str, threads: int = 1, memory: Memory | None = None, pixels: str = "float32") -> None:
        """Start it and wait until it serves.

        Raises:
            InputError: it did not come up; its own words are in the message.
        """
        command = [sys.executable, "-m", "backends.server", "--target", target, "--data", data]
        command += ["--threads", str(threads), "--pixels", pixels, "--stop-with-stdin"]
        for name, value in asdict(memory or Memory()).items():
            command += [] if value is None else [f"--memory.{name}", str(value)]
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self._process.wait()
            self._words.seek(0)
            words = self._words.read().strip().splitlines()
            self.close()
            raise InputError(f"the server for --backend remote did not start: {words[-1] if words else 'no reason given'}")

    def close(self) -> None:
        """Stop it; may be called twice."""
        if self._words.closed:
            return
        self._process.terminate()
        self._process.communicate()
        self._words.close()


def _shapes(metadata: dict[str, Any]) -> tuple[int, int, int, int]:
    if (datatype := metadata["inputs"][0].get("datatype", "FP32")) not in ("FP32", "UINT8"):
        raise ValueError(f"its input is {datatype}, neither FP32 nor UINT8")
    _, channels, height, width = metadata["inputs"][0]["shape"]
    _, classes = metadata["outputs"][0]["shape"]
    return int(channels), int(height), int(width), int(classes)


def _problem(response: requests.Response) -> str:
    """What the server says of its refusal: the protocol's ``error``, FastAPI's ``detail`` or plain text."""
    try:
        body = response.json()
        words = body.get("error") or body.get("detail") or body
    except (ValueError, AttributeError):
        words = response.text
    return f"HTTP {response.status_code} {' '.join(str(words).split())[:200]}"


def _reason(error: Exception) -> str:
    """The innermost cause, which is the one that says something."""
    cause: BaseException = error
    while (deeper := getattr(cause, "reason", None) or cause.__cause__ or (cause.args[0] if cause.args else None)) and isinstance(
        deeper, BaseException
    ):
        cause = deeper
    return " ".join(str(cause).split())[:200] or type(error).__name__
