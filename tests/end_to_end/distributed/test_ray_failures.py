"""A run on workers that die, fall silent or have a faulty network has the same numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from backends.base import TargetError
from backends.kinds.remote import RemoteConfig
from backends.server.subprocess_server import OwnServer
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import RayConfig
from bbfuse.execution import execute
from tests.helpers.http.faults import faulty
from tests.helpers.ray_runs import RUNS, at_reply, summary_of


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
