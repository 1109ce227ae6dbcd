"""Images per second of a target in this process, behind HTTP in JSON and behind HTTP with binary tensors, in turns in one run.

The target sleeps so long for each batch of 128 images and answers with the first ten pixels of each; the server is
`backends.server.app` in a process of its own on loopback, the client `backends.http.backend`, one request at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from backends.base import NOMINAL, Backend
from backends.http.backend import DiscoveryOverrides, RemoteBackend
from experiments.benchmarks.serving import Timed, answering
from experiments.benchmarks.timing import median_seconds
from experiments.study import command

__all__ = ["measure"]

SHAPES = ((1, 8, 8), (3, 32, 32))
TARGET_MS = (0, 20)
BATCH = 128
REPEATS = 40
CLASSES = 10


def measure(repeats: int) -> list[dict[str, Any]]:
    """A record for each shape, target and mode, the modes taking turns."""
    torch.set_num_threads(1)
    rows = []
    for shape in SHAPES:
        images = torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
        for milliseconds in TARGET_MS:
            with answering(Timed(shape, milliseconds)) as url:
                modes: dict[str, Backend] = {
                    "local": Timed(shape, milliseconds),
                    "json": RemoteBackend(url, "timed", overrides=DiscoveryOverrides("oip")),
                    "binary": RemoteBackend(url, "timed", overrides=DiscoveryOverrides("oip-binary")),
                }
                due = modes["local"].query(images, NOMINAL, lambda _: None)
                for mode, backend in modes.items():
                    if not torch.equal(backend.query(images, NOMINAL, lambda _: None), due):
                        raise RuntimeError(f"{mode} answers with other numbers than the target")
                seconds = median_seconds({mode: _asked(backend, images) for mode, backend in modes.items()}, repeats)
                for mode, backend in modes.items():
                    backend.close()
                    row = {"shape": "x".join(map(str, shape)), "target_ms": milliseconds, "mode": mode}
                    rows.append({**row, "images_per_second": BATCH / seconds[mode]})
    return rows


def _asked(backend: Backend, images: Tensor) -> Callable[[int], Tensor]:
    return lambda _: backend.query(images, NOMINAL, lambda _: None)


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("benchmarks.remote", _compute, _table, arguments)


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    return {"batch": BATCH, "repeats": REPEATS, "requests_at_once": 1, "threads": 1}, measure(REPEATS)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("shape", "target, ms", "mode", "images a second", "of local", "times JSON")
    speeds = {(row["shape"], row["target_ms"], row["mode"]): row["images_per_second"] for row in rows}
    for (shape, milliseconds, mode), speed in speeds.items():
        of = partial(_ratio, speed, speeds, shape, milliseconds)
        table.add_row(shape, str(milliseconds), mode, f"{speed:,.0f}", of("local", "{:.0%}"), of("json", "{:.1f}"))
    return table


def _ratio(speed: float, speeds: dict[Any, float], shape: str, milliseconds: int, mode: str, form: str) -> str:
    return form.format(speed / speeds[shape, milliseconds, mode])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
