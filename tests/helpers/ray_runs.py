"""Runs to distribute, their summaries, and an action on the workers in the middle of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.execution import execute
from bbfuse.optimizers.cma import CmaConfig
from bbfuse.optimizers.nes import NesConfig
from bbfuse.optimizers.pgpe import PgpeConfig
from bbfuse.optimizers.rge import RgeConfig

BASE = RunConfig(budget=6_000, chip_seed=3, validation=ValidationConfig(images=20, times=2), report=ReportConfig(images=100))
RUNS: dict[str, RunConfig] = {
    "nes": dataclasses.replace(BASE, optimizer="nes", nes=NesConfig(pairs=4)),
    "pgpe, no head": dataclasses.replace(BASE, optimizer="pgpe", head="none", sampling="uniform", pgpe=PgpeConfig(pairs=3)),
    "rge": dataclasses.replace(BASE, rge=RgeConfig(directions=3)),
    "cma": dataclasses.replace(BASE, optimizer="cma", cma=CmaConfig(subspace=20)),
    "guided, population": dataclasses.replace(
        BASE, chip_seed=None, budget=7_000, optimizer="guided", report=ReportConfig(chips=2, images=100)
    ),
}


def summary_of(config: RunConfig, folder: Path, **changed: Any) -> dict[str, Any]:
    summary = execute(dataclasses.replace(config, out=folder, **changed))
    return {name: value for name, value in summary.items() if name != "seconds"}


def at_reply(count: int, act: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once so many replies have been taken, ``act`` on the workers of a step in its middle."""
    from bbfuse.distributed.cluster import Cluster

    collect, take, left = Cluster._collect, Cluster._take, [count]

    def taking(self: Cluster, *args: Any) -> None:
        left[0] -= 1
        take(self, *args)

    def collecting(self: Cluster, in_flight: Any) -> None:
        if left[0] <= 0 and all(worker.calls for worker in self._workers):
            left[0] = 10**9
            act(self)
        collect(self, in_flight)

    monkeypatch.setattr(Cluster, "_take", taking)
    monkeypatch.setattr(Cluster, "_collect", collecting)
