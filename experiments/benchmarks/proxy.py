"""What the proxy adds to a request: one image sent directly and through it, in turns, and the fuse's own time in process.

The server behind it returns pixels of the image, so that the transport is measured: one client, one connection each, loopback,
one thread a process. ``added_ms`` is the median through the proxy less the medians of a direct request and of the fuse.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import torch
from rich import box
from rich.table import Table
from torch import Tensor

import bbfuse
from backends.base import NOMINAL
from backends.http.codecs.oip_binary import LENGTH, packed
from backends.http.codecs.oip_json import request_body
from bbfuse.compare.display.tables import lines
from bbfuse.compare.measured import value
from bbfuse.compare.tasks import Row
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.module import Fuse
from bbfuse.heads.affine import Affine
from bbfuse.runs.folder import RunFolder
from experiments.benchmarks.serving import Timed, answering
from experiments.benchmarks.timing import median_seconds
from experiments.study import Measurement

__all__ = ["RESULT", "measure"]

CASES = (((1, 8, 8), "MLP"), ((3, 32, 32), "UNetXS"))
CLASSES = 10
TURNS = 500
MODEL = "timed"


@contextlib.contextmanager
def _proxy(run: Path, upstream: str) -> Iterator[str]:
    """The address of the proxy in front of ``upstream``, started by its command."""
    words = [sys.executable, "-m", "bbfuse.serve", "--run", str(run), "--upstream", upstream, "--model", MODEL]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def _run(path: Path, generator: str, shape: tuple[int, int, int]) -> Path:
    """The folder of a run with an untrained fuse and head."""
    fuse, head = Fuse(generator, shape, torch.Generator().manual_seed(0)), Affine(CLASSES, 0.0)
    heads = {"reference": torch.zeros(0, CLASSES), "kept": head.state_dict(), "first": None}
    with contextlib.closing(RunFolder.create(path, RunConfig(chip_seed=0))) as folder:
        folder.write_fuse({"generator": generator, "image_shape": list(shape), "fuse": fuse.state_dict(), "heads": heads})
    return path


def _request(url: str, image: Tensor, binary: bool) -> Callable[[int], object]:
    """Sends ``image`` to the server at ``url``, over one connection."""
    connection = HTTPConnection(urlsplit(url).netloc)
    body, length = packed(request_body(image, NOMINAL, binary=binary))
    headers = {LENGTH: str(length)} if binary else {"Content-Type": "application/json"}

    def send(_: int) -> None:
        connection.request("POST", f"/v2/models/{MODEL}/infer", body, headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status}: {content[:200].decode()}")

    return send


def _through(fuse: Fuse, image: Tensor, _: int) -> Tensor:
    made: Tensor = fuse(image)
    return made


def measure(turns: int = TURNS) -> list[Row]:
    """A row for each image shape and encoding."""
    rows = []
    for shape, generator in CASES:
        image = torch.rand((1, *shape), generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0
        with tempfile.TemporaryDirectory() as home:
            run = _run(Path(home) / "run", generator, shape)
            fuse = bbfuse.load(run).fuse
            with answering(Timed(shape, 0)) as direct, _proxy(run, direct) as proxy:
                for mode, binary in (("json", False), ("binary", True)):
                    works: dict[str, Callable[[int], object]] = {
                        "direct": _request(direct, image, binary),
                        "proxy": _request(proxy, image, binary),
                        "fuse": partial(_through, fuse, image),
                    }
                    ms = {name: 1e3 * value for name, value in median_seconds(works, turns).items()}
                    rows.append({
                        "shape": "x".join(map(str, shape)), "mode": mode, "generator": generator, "direct_ms": ms["direct"],
                        "proxy_ms": ms["proxy"], "fuse_ms": ms["fuse"], "added_ms": ms["proxy"] - ms["direct"] - ms["fuse"],
                    })  # fmt: skip
    return rows


def _table(rows: list[Row]) -> Table:
    times = {"direct, ms": "direct_ms", "through the proxy": "proxy_ms", "fuse alone": "fuse_ms", "added": "added_ms"}
    return lines(rows, {
        "image": value("shape"), "encoding": value("mode"), "fuse": value("generator"),
        **{heading: value(key, ".2f") for heading, key in times.items()},
    }, box=box.SIMPLE)  # fmt: skip


RESULT = Measurement("benchmarks.proxy", {"batch": 1, "turns": TURNS, "head": "affine", "threads": 1}, lambda: measure(), _table)

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
