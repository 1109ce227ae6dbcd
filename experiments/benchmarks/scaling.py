"""Steps a second on workers of Ray and what travels, beside EvoTorch's actors on the same loss in the same run.

`compute`: a ResNet18 for 32x32 answers in the worker, some ten milliseconds of one core a probe. `remote`: a server on loopback
that takes 50 ms for a request, any number of them at once. Steps are those of `nes` with 16 or 64 probes, the fuse alone.

`peer`: the loss of a large fuse before a small linear target, 16 probes a step, two workers; EvoTorch's SNES with two actors, in
its mode that sends distributions and not points. Bytes are those of the pickles: of a probe's own messages (`bytes_per_probe`),
and of all that travels to a node and back in a step, the fuse too, over its probes (`..._in_all`); EvoTorch's likewise.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from backends.base import NOMINAL, Backend
from backends.datasets.base import Split
from backends.http.backend import RemoteBackend
from backends.simulated import SimulatedBackend
from backends.targets.networks import build
from bbfuse.config.schema import RayConfig, RemoteConfig, RunConfig
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from bbfuse.optimizers.base import Problem
from bbfuse.optimizers.nes import Nes
from bbfuse.optimizers.settings import NesConfig
from bbfuse.querying.ledger import Ledger
from bbfuse.seeds import stream
from bbfuse.training.objective import Step, Term
from experiments.benchmarks.serving import served
from experiments.study import command

__all__ = ["CASES", "PEERS", "SERVER_MS", "Work", "measure", "owned"]

CLASSES, OWNED = 10, 64
SERVER_MS = 50
CASES = {
    "compute": {"target": "resnet18", "generator": "UNetXS", "batch": 4, "pairs": 8, "shape": (3, 32, 32), "workers": (1, 2)},
    "remote": {"target": "server", "generator": "MLP", "batch": 4, "pairs": 32, "shape": (1, 8, 8), "workers": (1, 16)},
}  # fmt: skip
PEERS: dict[str, dict[str, Any]] = {
    "peer, 121,195 parameters": {"target": "linear", "generator": "UNetS", "batch": 4, "pairs": 8, "shape": (3, 32, 32)},
    "peer, 723,273 parameters": {"target": "linear", "generator": "ConvL", "batch": 4, "pairs": 8, "shape": (3, 32, 32)},
}  # fmt: skip


def owned(shape: tuple[int, int, int]) -> Split:
    """Images of noise and their labels."""
    rng = torch.Generator().manual_seed(0)
    return Split(torch.rand((OWNED, *shape), generator=rng) * 2.0 - 1.0, torch.randint(0, CLASSES, (OWNED,), generator=rng))


def _backend(target: str, shape: tuple[int, int, int], url: str | None) -> Backend:
    """The target of a case, the same in every process."""
    if url is not None:
        return RemoteBackend(url, "slow")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if target == "linear":
            return SimulatedBackend(target, nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, CLASSES)), shape, CLASSES)
        return SimulatedBackend(target, build(target, shape, CLASSES).eval(), shape, CLASSES)


def opened_by(config: RunConfig, stack: ExitStack) -> tuple[Backend, Tensor]:
    """What a worker has; the case's name travels as the data set's."""
    case = {**CASES, **PEERS}[config.data]
    backend = _backend(case["target"], case["shape"], config.remote.url)
    stack.callback(backend.close)
    return backend, owned(case["shape"]).images


class Work:
    """Steps of `nes` on ``workers``, in this process for 0; what travels is added up in ``bytes``."""

    def __init__(self, name: str, workers: int, url: str | None, stack: ExitStack) -> None:
        case: dict[str, Any] = {**CASES, **PEERS}[name]
        config = RunConfig(data=name, workers=workers, ray=RayConfig(cpus=1.0 if url is None else 0.1))
        if url is not None:
            config = dataclasses.replace(config, backend="remote", remote=RemoteConfig(url=url))
        backend = _backend(case["target"], case["shape"], url)
        stack.callback(backend.close)
        self._data, self._batch = owned(case["shape"]), case["batch"]
        self._ledger = Ledger(backend, 10**12)
        self._ledger.ask(self._data.images[:1], NOMINAL)
        self._fuse = Fuse(case["generator"], case["shape"], stream(0, "fuse"))
        self._fuse.calibrate(self._data.images)
        self.parameters = len(self._fuse.vector())
        self.ask(case["pairs"])
        self.sent = self.put = 0
        self.cluster = self._metered(config)
        stack.callback(self.cluster.close)
        self.cluster.wait()

    def ask(self, pairs: int) -> None:
        """That many pairs of probes a step from now on."""
        self.probes = 2 * pairs
        self._method = Nes(NesConfig(pairs=pairs), Problem(OWNED, CLASSES, False, 0), self._fuse)

    def _metered(self, config: RunConfig) -> Any:
        from bbfuse.distributed.cluster import Cluster

        work = self

        class Metered(Cluster):
            """Adds up what goes out and comes back."""

            def _scene(self, step: Any, probes: Any) -> Any:
                scene = super()._scene(step, probes)
                work.put += len(pickle.dumps(scene))
                return scene

            def _take(self, hand: Any, number: int, reply: Any, on_way: Any) -> None:
                work.sent += len(pickle.dumps((number, on_way.grants[number].images))) + len(pickle.dumps(reply.plain()))
                super()._take(hand, number, reply, on_way)

        return Metered(config, self._ledger, self._data.images, opened_by)

    def step(self, number: int) -> None:
        """One update."""
        index = torch.randint(0, OWNED, (self._batch,), generator=stream(0, "batch", number))
        self._method.update(
            Step(
                number, 0, self._fuse, index, self._data.images[index], self._data.labels[index], torch.ones(self._batch),
                [Term(NOMINAL, Head(), 1.0)], self._ledger.ask, self._ledger.ask_with_tape, scorer=self.cluster, hard=False,
            ),
            10**6,
        )  # fmt: skip


def _seconds(step: Callable[[int], object], steps: int) -> float:
    """Median time of a step; the first three are a warm-up."""
    seconds = []
    for number in range(steps + 3):
        began = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[3:])


def _ours(name: str, workers: int, steps: int, url: str | None = None) -> dict[str, Any]:
    with ExitStack() as stack:
        work = Work(name, workers, url, stack)
        seconds = _seconds(work.step, steps)
        probes = (steps + 3) * work.probes
        return {
            "case": name, "workers": workers, "steps_per_second": 1.0 / seconds, "bytes_per_probe": work.sent / probes,
            "bytes_per_probe_in_all": (work.sent + work.put) / probes, "peer": None, "peer_steps_per_second": None,
            "peer_bytes_per_probe": None,
        }  # fmt: skip


class _Loss:
    """EvoTorch's fitness: the loss of the fuse with these parameters on one batch."""

    def __init__(self, name: str) -> None:
        self._name, case = name, PEERS[name]
        torch.set_num_threads(1)
        self._backend = _backend(case["target"], case["shape"], None)
        data = owned(case["shape"])
        self.fuse = Fuse(case["generator"], case["shape"], stream(0, "fuse"))
        self.fuse.calibrate(data.images)
        self._images, self._labels = data.images[: case["batch"]], data.labels[: case["batch"]]

    def __reduce__(self) -> tuple[Any, ...]:  # an actor makes its own
        return _Loss, (self._name,)

    def __call__(self, vector: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self._backend.query(self.fuse.at(vector, self._images), NOMINAL, lambda _: None)
            return nn.functional.cross_entropy(logits, self._labels)


def _evotorch(name: str, steps: int) -> dict[str, Any]:
    """SNES with two actors; each task's arguments and results are pickled to see how large they are."""
    import evotorch.core
    import ray
    from evotorch import Problem as Search
    from evotorch.algorithms import SNES

    loss, probes, sent = _Loss(name), 2 * int(PEERS[name]["pairs"]), [0]

    class Pool(evotorch.core.ActorPool):  # type: ignore[misc]
        """Adds up what goes out and comes back."""

        def map_unordered(self, fn: Any, values: Any) -> Any:
            def submit(actor: Any, value: Any) -> Any:
                return fn(_Caller(actor, sent), value)

            for result in super().map_unordered(submit, values):
                sent[0] += len(pickle.dumps(result))
                yield result

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20)
    kept = evotorch.core.ActorPool
    evotorch.core.ActorPool = Pool
    try:
        problem = Search("min", loss, initial_bounds=(-0.01, 0.01), solution_length=len(loss.fuse.vector()), num_actors=2)
        search = SNES(problem, stdev_init=0.02, popsize=probes, distributed=True)
        seconds = _seconds(lambda _: search.step(), steps)
        return {
            "peer": "EvoTorch SNES", "peer_steps_per_second": 1.0 / seconds,
            "peer_bytes_per_probe": sent[0] / (probes * (steps + 3)),
        }  # fmt: skip
    finally:
        evotorch.core.ActorPool = kept
        ray.shutdown()


class _Caller:
    """An actor whose calls are measured."""

    def __init__(self, actor: Any, sent: list[int]) -> None:
        self._actor, self._sent = actor, sent

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._actor, name)

        class Method:
            """One of its methods."""

            @staticmethod
            def remote(*args: Any) -> Any:
                """Call it."""
                self._sent[0] += len(pickle.dumps(args))
                return method.remote(*args)

        return Method


def measure(steps: int) -> list[dict[str, Any]]:
    """A record for each case and number of workers, and for each peer."""
    torch.set_num_threads(1)
    rows = []
    with served(_serve) as url:
        for name, case in CASES.items():
            for workers in case["workers"]:  # type: ignore[attr-defined]
                rows.append(_ours(name, workers, steps, url if case["target"] == "server" else None))
    return rows + [{**_ours(name, 2, steps), **_evotorch(name, steps)} for name in PEERS]


class _Slow(BaseHTTPRequestHandler):
    """Answers with the first ten pixels of each image, 50 ms after the request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Metadata."""
        self._reply({
            "name": "slow", "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}],
        })  # fmt: skip

    def do_POST(self) -> None:
        """An inference."""
        (given,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        time.sleep(SERVER_MS / 1000)
        logits = torch.tensor(given["data"]).view(given["shape"][0], -1)[:, :CLASSES]
        self._reply({"outputs": [
            {"name": "logits", "datatype": "FP32", "shape": list(logits.shape), "data": logits.flatten().tolist()}
        ]})  # fmt: skip

    def _reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not a word."""


def _serve(told: Connection) -> None:
    torch.set_num_threads(1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    server.daemon_threads = True
    told.send(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("benchmarks.scaling", _compute, _table, arguments)


STEPS = 15


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    config = {"steps": STEPS, "threads": 1, "cores": os.cpu_count(), "server_ms": SERVER_MS, "cases": {**CASES, **PEERS}}
    return config, measure(STEPS)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("case", "workers", "steps a second", "times one", "bytes a probe", "in all", "EvoTorch: steps", "bytes")
    one = {row["case"]: row["steps_per_second"] for row in rows if row["workers"] == 1}
    for row in rows:
        times = f"{row['steps_per_second'] / one[row['case']]:.2f}" if row["case"] in one else ""
        peer = (row["peer_steps_per_second"], row["peer_bytes_per_probe"])
        table.add_row(
            row["case"], str(row["workers"]), f"{row['steps_per_second']:.2f}", times, f"{row['bytes_per_probe']:,.0f}",
            f"{row['bytes_per_probe_in_all']:,.0f}", *("" if value is None else f"{value:,.2f}" for value in peer),
        )  # fmt: skip
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
