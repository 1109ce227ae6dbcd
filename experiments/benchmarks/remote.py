"""Images a second of a target in this process, behind HTTP in JSON and behind HTTP with binary tensors, in turns in one run.

The target sleeps for a given time for each batch of 128 images and returns the first ten pixels of each; the server is
`backends.server.app` in a process of its own on loopback, the client `backends.http.backend`, one request at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from rich.table import Table
from torch import Tensor

from backends.base import NOMINAL, Backend
from backends.http.backend import DiscoveryOverrides, RemoteBackend
from bbfuse.compare.display.tables import lines
from bbfuse.compare.measured import value
from bbfuse.compare.tasks import Row
from experiments.benchmarks.serving import Timed, answering
from experiments.benchmarks.timing import median_seconds
from experiments.study import Measurement

__all__ = ["RESULT", "measure"]

SHAPES = ((1, 8, 8), (3, 32, 32))
TARGET_MS = (0, 20)
BATCH = 128
REPEATS = 40
CLASSES = 10


def measure(repeats: int) -> list[Row]:
    """A row for each shape, target and mode, the modes in turns."""
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
                expected = modes["local"].query(images, NOMINAL, lambda _: None)
                for mode, backend in modes.items():
                    if not torch.equal(backend.query(images, NOMINAL, lambda _: None), expected):
                        raise RuntimeError(f"{mode} gives other numbers than the target")
                seconds = median_seconds({mode: _query(backend, images) for mode, backend in modes.items()}, repeats)
                for mode, backend in modes.items():
                    backend.close()
                    row = {"shape": "x".join(map(str, shape)), "target_ms": milliseconds, "mode": mode}
                    rows.append({**row, "images_per_second": BATCH / seconds[mode]})
    return rows


def _query(backend: Backend, images: Tensor) -> Callable[[int], Tensor]:
    return lambda _: backend.query(images, NOMINAL, lambda _: None)


def _table(rows: list[Row]) -> Table:
    speeds = {(row["shape"], row["target_ms"], row["mode"]): row["images_per_second"] for row in rows}

    def ratio(mode: str, form: str) -> Callable[[Row], str]:
        return lambda row: f"{row['images_per_second'] / speeds[row['shape'], row['target_ms'], mode]:{form}}"

    return lines(rows, {
        "shape": value("shape"), "target, ms": value("target_ms"), "mode": value("mode"),
        "images a second": value("images_per_second", ",.0f"),
        "of local": ratio("local", ".0%"), "times JSON": ratio("json", ".1f"),
    })  # fmt: skip


RESULT = Measurement(
    "benchmarks.remote",
    {"batch": BATCH, "repeats": REPEATS, "requests_at_once": 1, "threads": 1},
    lambda: measure(REPEATS),
    _table,
)

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
