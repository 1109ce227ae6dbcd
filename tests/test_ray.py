"""The same run on any number of workers: number for number, whoever answers first and whoever dies."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.interface import InputError
from backends.remote import OwnServer
from bbfuse.config import RayConfig, RemoteConfig, ReportConfig, RunConfig, ValidationConfig, validate
from bbfuse.methods import CmaConfig, NesConfig, PgpeConfig, RgeConfig
from bbfuse.run import execute

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


def test_without_workers_ray_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from bbfuse.run import main; "
        f"assert main(['--chip-seed', '0', '--budget', '4000', '--json', '--out', {str(tmp_path / 'run')!r}]) == 0; "
        "assert not [name for name in sys.modules if name.split('.')[0] == 'ray']"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"workers": -1}, "--workers must be 0 or more"),
        ({"ray": RayConfig(address="auto")}, "--ray.address has no effect without --workers"),
        (
            {"workers": 2, "ray": RayConfig(address="http://here")},
            "--ray.address must be local, auto, HOST:PORT or ray://HOST:PORT",
        ),
        ({"workers": 2, "optimizer": "follow"}, "--workers has no effect with --optimizer follow"),
        ({"workers": 2, "ray": RayConfig(timeout=0.0)}, "--ray.timeout must be above 0"),
        ({"workers": 2, "backend": "remote", "ray": RayConfig(address="h:1")}, "listens on this machine alone"),
        (
            {"workers": 2, "backend": "remote", "remote": RemoteConfig(url="http://h:1", store="kept")},
            "--remote.store does not go with --workers",
        ),
    ],
)
def test_what_cannot_work_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        validate(dataclasses.replace(BASE, **changed))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """For every reply the process that sent it and its bytes; all workers are ready before the first probe."""
    from bbfuse.cluster import Cluster

    seen: list[tuple[int, int]] = []
    take, call = Cluster._take, Cluster.__call__

    def taking(self: Cluster, hand: Any, number: int, reply: Any, on_way: Any) -> None:
        seen.append((hand.pid, len(pickle.dumps((number, reply)))))
        take(self, hand, number, reply, on_way)

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


@pytest.mark.ray
@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize(
    ("name", "workers"),
    [("nes", 1), ("nes", 2), ("nes", 5), ("pgpe, no head", 2), ("rge", 3), ("cma", 3), ("guided, population", 2)],
)
def test_on_any_number_of_workers_it_is_the_same_run(
    name: str, workers: int, taken: list[tuple[int, int]], tmp_path: Path
) -> None:
    config = RUNS[name]
    alone = summary_of(config, tmp_path / "alone")
    assert not taken
    assert summary_of(config, tmp_path / "many", workers=workers) == alone
    assert len({pid for pid, _ in taken}) == workers
    assert os.getpid() not in {pid for pid, _ in taken}
    if name == "pgpe, no head":
        assert max(size for _, size in taken) < 100
