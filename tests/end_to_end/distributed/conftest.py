"""A Ray for the runs of a module, and what its workers replied."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """For every reply the process that sent it and its bytes; all workers are ready before the first probe."""
    from bbfuse.distributed.cluster import Cluster

    seen: list[tuple[int, int]] = []
    take, call = Cluster._take, Cluster.__call__

    def taking(self: Cluster, worker: Any, number: int, reply: Any, in_flight: Any) -> None:
        seen.append((worker.pid, len(pickle.dumps((number, reply.plain())))))
        take(self, worker, number, reply, in_flight)

    def calling(self: Cluster, step: Any, probes: Any) -> Any:
        if not seen:
            self.wait()
        return call(self, step, probes)

    monkeypatch.setattr(Cluster, "_take", taking)
    monkeypatch.setattr(Cluster, "__call__", calling)
    yield seen
    seen.clear()


@pytest.fixture(scope="module")
def joined(cache: Path) -> Iterator[None]:
    """A Ray for all runs of a module, which those of users start for themselves."""
    import ray

    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    yield
    ray.shutdown()
