"""The same run on any number of workers, number for number."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.base import InputError
from backends.kinds.remote import RemoteConfig
from bbfuse.config.checks import validate
from bbfuse.config.sections import RayConfig
from bbfuse.execution import execute
from bbfuse.fuse.generators.base import GENERATORS
from bbfuse.fuse.generators.small import mix
from tests.helpers.ray_runs import BASE, RUNS, summary_of


def test_without_workers_ray_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from bbfuse.cli.run import main; "
        f"assert main(['--chip-seed', '0', '--budget', '4000', '--json', '--out', {str(tmp_path / 'run')!r}]) == 0; "
        "assert not [name for name in sys.modules if name.split('.')[0] == 'ray']"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"workers": -1}, "`workers` must be 0 or more"),
        ({"ray": RayConfig(address="auto")}, "`ray.address` has no effect without `workers`"),
        (
            {"workers": 2, "ray": RayConfig(address="http://here")},
            "`ray.address` must be local, auto, HOST:PORT or ray://HOST:PORT",
        ),
        ({"workers": 2, "optimizer": "follow"}, "`workers` has no effect with `optimizer=follow`"),
        ({"workers": 2, "ray": RayConfig(timeout=0.0)}, "`ray.timeout` must be above 0"),
        ({"workers": 2, "ray": RayConfig(gpus=0.0)}, "`ray.gpus` must be above 0"),
        ({"workers": 2, "backend": "remote", "ray": RayConfig(address="h:1")}, "listens on this machine only"),
        (
            {"workers": 2, "backend": "remote", "remote": RemoteConfig(url="http://h:1", store="kept")},
            "`remote.store` does not go with `workers`",
        ),
    ],
)
def test_what_cannot_work_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        validate(dataclasses.replace(BASE, **changed))


@pytest.mark.ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379"])
def test_a_cluster_that_is_not_there_is_refused_and_nothing_is_left(address: str, tmp_path: Path) -> None:
    config = dataclasses.replace(BASE, workers=2, optimizer="nes", ray=RayConfig(address=address), out=tmp_path / "run")
    with pytest.raises(InputError, match=f"`ray.address` {address} cannot be reached") as error:
        execute(config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
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


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("joined")
def test_workers_know_the_objects_that_were_given(taken: list[tuple[int, int]], tmp_path: Path) -> None:
    config = dataclasses.replace(RUNS["nes"], generator=GENERATORS.adopt(functools.partial(mix)))
    alone = summary_of(config, tmp_path / "alone")
    assert summary_of(config, tmp_path / "many", workers=1) == alone
    assert taken


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_a_claim_of_gpus_decides_how_many_workers_there_are_and_one_that_cannot_be_met_is_told(
    cache: Path, taken: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A Ray that is told of one GPU has room for two halves; the third worker waits, and the run does not."""
    import ray

    from bbfuse.distributed.cluster import Cluster

    ray.shutdown()
    halves = {"workers": 3, "ray": RayConfig(gpus=0.5, timeout=120.0)}
    alone = summary_of(RUNS["nes"], tmp_path / "alone")
    ray.init("local", num_cpus=8, num_gpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    try:
        monkeypatch.setattr(Cluster, "wait", lambda self: ray.wait([worker.hello for worker in self._workers], num_returns=2))
        assert summary_of(RUNS["nes"], tmp_path / "many", **halves) == alone
        assert len({pid for pid, _ in taken}) == 2
    finally:
        ray.shutdown()
    far = dataclasses.replace(RUNS["nes"], workers=1, ray=RayConfig(gpus=64), out=tmp_path / "far")
    with pytest.raises(InputError, match=r"`ray.gpus` 64 cannot be met: Ray finds .* on this machine"):
        execute(far)
    assert not ray.is_initialized()
