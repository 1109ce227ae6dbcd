"""The same run on any number of workers: number for number, whoever answers first and whoever dies."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import InputError, TargetError
from backends.kinds.remote import RemoteConfig
from backends.server.subprocess_server import OwnServer
from bbfuse.config.checks import validate
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import RayConfig, ReportConfig, ValidationConfig
from bbfuse.execution import execute
from bbfuse.optimizers.cma import CmaConfig
from bbfuse.optimizers.nes import NesConfig
from bbfuse.optimizers.pgpe import PgpeConfig
from bbfuse.optimizers.rge import RgeConfig
from tests.helpers.faults import faulty

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
    with pytest.raises(InputError, match=f"--ray.address {address} cannot be reached") as error:
        execute(config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


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


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize(("name", "sign"), [("nes", signal.SIGKILL), ("rge", signal.SIGKILL), ("nes", signal.SIGSTOP)])
def test_a_worker_that_dies_or_falls_silent_in_mid_step_changes_nothing(
    name: str, sign: signal.Signals, taken: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = summary_of(RUNS[name], tmp_path / "alone")
    hit: list[Any] = []

    def strike(cluster: Any) -> None:
        worker = cluster._workers[0]
        hit.append((cluster, worker.pid))
        os.kill(worker.pid, sign)
        if sign == signal.SIGSTOP:  # not before: to get ready takes longer
            cluster._config = dataclasses.replace(cluster._config, ray=RayConfig(timeout=5.0))

    at_reply(30, strike, monkeypatch)
    try:
        assert summary_of(RUNS[name], tmp_path / "struck", workers=2) == alone
    finally:
        for _, pid in hit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    ((cluster, struck),) = hit
    assert struck not in {pid for pid, _ in taken[-16:]}  # others went on
    assert 0 < cluster._ledger.lost <= 2 * 16  # what it had been granted: two probes of sixteen images at most


class DriverKilledError(Exception): ...


def dying(_: Any) -> None:
    raise DriverKilledError


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("joined", "taken")
@pytest.mark.parametrize("backend", ["local", "remote"])
def test_a_run_whose_driver_dies_goes_on_with_any_number_of_workers(
    backend: str, server: OwnServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A target that costs is not asked again for what it had answered: the run that is resumed in this process takes the answers
    that workers had brought, and the other way round."""
    config = dataclasses.replace(RUNS["nes"], budget=5_000)
    if backend == "remote":
        config = dataclasses.replace(config, backend="remote", remote=RemoteConfig(url=server.url, watch=0))
    alone = summary_of(config, tmp_path / "alone")
    with monkeypatch.context() as patch:
        at_reply(40, dying, patch)
        with pytest.raises(DriverKilledError):
            summary_of(config, tmp_path / "cut", workers=2)
    answered = (tmp_path / "cut" / "answers.jsonl").read_text().count('"answer"') if backend == "remote" else None
    for workers in (0, 3):
        copied = tmp_path / f"resumed{workers}"
        shutil.copytree(tmp_path / "cut", copied)
        resumed = execute(RunConfig(resume=copied, workers=workers))
        assert {name: value for name, value in resumed.items() if name != "seconds"} == alone
    assert answered is None or answered > 0  # since the last checkpoint


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("joined", "taken")
def test_workers_in_a_faulty_network_bring_the_same_numbers_and_every_image_is_counted(server: OwnServer, tmp_path: Path) -> None:
    config = dataclasses.replace(
        RUNS["nes"], backend="remote", budget=6_000, batch=8, remote=RemoteConfig(timeout=0.5, attempts=8, reserve=0.3, watch=0)
    )
    ended = {}
    with faulty(server.url, 0.1) as proxy:
        for workers, url in ((0, server.url), (2, proxy.url)):
            remote = dataclasses.replace(config.remote, url=url)
            summary = summary_of(config, tmp_path / str(workers), workers=workers, remote=remote)
            del summary["config"]
            ended[workers] = summary, summary.pop("queries")
    assert ended[2][0] == ended[0][0]
    spent, clean = ended[2][1], ended[0][1]
    assert (spent["images"], spent["requests"]) == (proxy.seen["images"], proxy.seen["requests"])
    assert clean["images"] < spent["images"] <= config.budget
    assert sum(proxy.injected.values()) > 10


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("joined")
def test_what_a_server_said_last_is_why_a_run_has_failed(
    server: OwnServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with faulty(server.url, 0.0) as proxy:
        at_reply(10, lambda _: setattr(proxy, "fault", lambda: "503"), monkeypatch)
        remote = RemoteConfig(url=proxy.url, attempts=2, watch=0)
        with pytest.raises(TargetError, match="workers got no response in 2 attempts: HTTP 503 busy"):
            summary_of(RUNS["nes"], tmp_path / "run", workers=2, backend="remote", remote=remote)


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
    with pytest.raises(InputError, match=r"--ray.gpus 64 cannot be met: Ray finds .* on this machine"):
        execute(far)
    assert not ray.is_initialized()


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_on_three_nodes_of_which_one_is_lost_in_mid_run_it_is_the_same_run(
    taken: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray
    from ray.cluster_utils import Cluster as Nodes

    ray.shutdown()  # that of the other tests: a run would stay with it
    alone = summary_of(RUNS["nes"], tmp_path / "alone")
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args=node)
    try:
        second, _ = (nodes.add_node(**node) for _ in range(2))
        lost: list[Any] = []

        def lose(cluster: Any) -> None:
            lost.append(cluster)
            nodes.remove_node(second, allow_graceful=False)
            deadline = time.monotonic() + 30.0
            while all(alive(worker.pid) for worker in cluster._workers):  # its worker finds out by itself
                assert time.monotonic() < deadline
                time.sleep(0.05)

        at_reply(30, lose, monkeypatch)
        many = summary_of(RUNS["nes"], tmp_path / "many", workers=3, ray=RayConfig(address=nodes.address))
        assert 0 < lost[0]._ledger.lost <= 2 * 16
        assert many == alone
        assert len({pid for pid, _ in taken[:30]}) == 3
        assert len({pid for pid, _ in taken[-8:]}) == 2
    finally:
        ray.shutdown()
        nodes.shutdown()
