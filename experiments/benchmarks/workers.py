"""Steps of `nes` on workers of Ray, with the bytes that travel: the cases that the benchmarks of workers measure."""

from __future__ import annotations

import pickle
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import NOMINAL, Backend
from backends.datasets.base import Split
from backends.http.backend import RemoteBackend
from backends.kinds.remote import RemoteConfig
from backends.simulated import SimulatedBackend
from backends.targets.networks import build
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import RayConfig
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from bbfuse.objective.eopm import Term
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import Problem
from bbfuse.optimizers.nes import Nes, NesConfig
from bbfuse.querying.ledger import Ledger
from bbfuse.seeds import stream

__all__ = ["CASES", "PEERS", "Work", "backend_of", "opened_by", "owned", "step_seconds"]

CLASSES, OWNED = 10, 64
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


def backend_of(target: str, shape: tuple[int, int, int], url: str | None) -> Backend:
    """The target of a case, the same in every process; behind the server at ``url`` if given."""
    if url is not None:
        return RemoteBackend(url, "slow")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if target == "linear":
            return SimulatedBackend(target, nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, CLASSES)), shape, CLASSES)
        return SimulatedBackend(target, build(target, shape, CLASSES).eval(), shape, CLASSES)


def opened_by(config: RunConfig, stack: ExitStack) -> tuple[Backend, Tensor]:
    """The backend and images of a worker; ``config.data`` is the name of the case."""
    case = {**CASES, **PEERS}[config.data]
    backend = backend_of(case["target"], case["shape"], config.remote.url)
    stack.callback(backend.close)
    return backend, owned(case["shape"]).images


class Work:
    """Steps of `nes` on ``workers``, in this process for 0; ``sent`` and ``put`` are the bytes of messages and shared data."""

    def __init__(self, name: str, workers: int, url: str | None, stack: ExitStack) -> None:
        case: dict[str, Any] = {**CASES, **PEERS}[name]
        config = RunConfig(data=name, workers=workers, ray=RayConfig(cpus=1.0 if url is None else 0.1))
        if url is not None:
            config = config.replaced(backend="remote", remote=RemoteConfig(url=url))
        backend = backend_of(case["target"], case["shape"], url)
        stack.callback(backend.close)
        self._data, self._batch = owned(case["shape"]), case["batch"]
        self._ledger = Ledger(backend, 10**12)
        self._ledger.query(self._data.images[:1], NOMINAL)
        self._fuse = Fuse(case["generator"], case["shape"], stream(0, "fuse"))
        self._fuse.calibrate(self._data.images)
        self.parameters = len(self._fuse.vector())
        self.use(case["pairs"])
        self.sent = self.put = 0
        self.cluster = self._metered(config)
        stack.callback(self.cluster.close)
        self.cluster.wait()

    def use(self, pairs: int) -> None:
        """Take so many pairs of probes a step from now on."""
        self.probes = 2 * pairs
        self._method = Nes(NesConfig(pairs=pairs), Problem(OWNED, CLASSES, False, 0), self._fuse)

    def _metered(self, config: RunConfig) -> Any:
        from bbfuse.distributed.cluster import Cluster

        work = self

        class Metered(Cluster):
            """Counts the bytes that are sent and received."""

            def _message(self, step: Any, probes: Any) -> Any:
                message = super()._message(step, probes)
                work.put += len(pickle.dumps(message))
                return message

            def _take(self, hand: Any, number: int, reply: Any, in_flight: Any) -> None:
                work.sent += len(pickle.dumps((number, in_flight.reservations[number].images))) + len(pickle.dumps(reply.plain()))
                super()._take(hand, number, reply, in_flight)

        return Metered(config, self._ledger, self._data.images, opened_by)

    def step(self, number: int) -> None:
        """One update."""
        index = torch.randint(0, OWNED, (self._batch,), generator=stream(0, "batch", number))
        self._method.update(
            Step(
                number=number, seed=0, fuse=self._fuse, index=index, images=self._data.images[index],
                labels=self._data.labels[index], weights=torch.ones(self._batch), terms=[Term(NOMINAL, Head(), 1.0)],
                query=self._ledger.query, query_with_gradient=self._ledger.query_with_gradient, scorer=self.cluster, hard=False,
            ),
            10**6,
        )  # fmt: skip


def step_seconds(step: Callable[[int], object], steps: int) -> float:
    """Median time of a step; the first three are a warm-up."""
    seconds = []
    for number in range(steps + 3):
        began = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[3:])
