"""Servers that tests start, and what the scripted ones answer."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch

METADATA: dict[str, Any] = {
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 2, 2]}],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 2]}],
}


def sums(request: Any) -> tuple[int, bytes]:
    """The right answer: two sums of each image's pixels."""
    rows = torch.tensor(request["inputs"][0]["data"]).reshape(-1, 4).sum(1, keepdim=True).repeat(1, 2)
    output = {"name": "scores", "datatype": "FP32", "shape": list(rows.shape), "data": rows.flatten().tolist()}
    return 200, json.dumps({"outputs": [output]}).encode()


def images(count: int) -> torch.Tensor:
    return torch.rand((count, 1, 2, 2), generator=torch.Generator().manual_seed(count)) * 2 - 1


def right(asked: torch.Tensor) -> torch.Tensor:
    return asked.flatten(1).sum(1, keepdim=True).repeat(1, 2)


@contextlib.contextmanager
def command(*words: str) -> Iterator[str]:
    """The address of ``python -m bbfuse.serve`` with ``words``."""
    with subprocess.Popen([sys.executable, "-m", "bbfuse.serve", *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
