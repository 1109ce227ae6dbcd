"""The benchmark of workers: medians of steps, bytes a probe, the server it asks, and the table of toy speeds."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
import urllib.request
from http.server import ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backends.base import NOMINAL
from experiments.benchmarks import evotorch_actors, scaling, serving, workers
from tests.helpers.studies.toys import cells, headers


def test_the_cases_are_the_stated_ones() -> None:
    compute = {"target": "resnet18", "generator": "UNetXS", "batch": 4, "pairs": 8, "shape": (3, 32, 32), "workers": (1, 2)}
    far = {"target": "server", "generator": "MLP", "batch": 4, "pairs": 32, "shape": (1, 8, 8), "workers": (1, 16)}
    assert list(workers.CASES.items()) == [("compute", compute), ("remote", far)]
    for name, generator in (("peer, 121,195 parameters", "UNetS"), ("peer, 723,273 parameters", "ConvL")):
        linear = {"target": "linear", "generator": generator, "batch": 4, "pairs": 8, "shape": (3, 32, 32)}
        assert workers.PEERS[name] == linear
    assert len(workers.PEERS) == 2
    assert (workers.CLASSES, workers.OWNED, serving.SERVER_MS, scaling.STEPS) == (10, 64, 50, 15)


def test_the_owned_images_are_noise_over_the_whole_range() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand((64, 1, 5, 7), generator=rng)
    split = workers.owned((1, 5, 7))
    assert torch.allclose(split.images, 2 * images - 1)
    assert torch.equal(split.labels, torch.randint(0, 10, (64,), generator=rng))


def test_a_step_s_time_is_the_median_after_three(monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = [5.0], list[int]()

    def step(number: int) -> None:
        steps.append(number)
        now[0] += [90.0, 80.0, 70.0, 4.0, 1.0, 3.0, 10.0][number]

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert workers.step_seconds(step, 4) == 3.5
    assert steps == list(range(7))


@pytest.mark.parametrize("url", [None, "http://x"])
def test_bytes_are_shared_out_over_the_probes_of_all_steps(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def work(*given: Any) -> Any:
        made.append(given[:3])
        return SimpleNamespace(step=None, probes=16, sent=4000, put=1600)

    monkeypatch.setattr(scaling, "Work", work)
    monkeypatch.setattr(scaling, "step_seconds", lambda step, steps: 0.125 * steps)
    assert scaling._ours("compute", 3, 2, url) == {
        "case": "compute", "workers": 3, "steps_per_second": 4.0, "bytes_per_probe": 50.0, "bytes_per_probe_in_all": 70.0,
        "peer": None, "peer_steps_per_second": None, "peer_bytes_per_probe": None,
    }  # fmt: skip
    assert made == [("compute", 3, url)]


def test_the_server_is_asked_in_its_own_case_and_each_peer_with_two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Served:
        def __enter__(self) -> str:
            return "http://x"

        def __exit__(self, *_: object) -> None:
            pass

    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(scaling, "served", lambda server: Served())
    monkeypatch.setattr(scaling, "_ours", lambda *given: {"ours": given, "peer": None})
    monkeypatch.setattr(scaling, "evotorch_row", lambda *given: {"peer": given})
    rows = scaling.measure(5)
    assert [row["ours"] for row in rows] == [
        ("compute", 1, 5, None), ("compute", 2, 5, None), ("remote", 1, 5, "http://x"), ("remote", 16, 5, "http://x"),
        *((name, 2, 5) for name in workers.PEERS),
    ]  # fmt: skip
    assert [row["peer"] for row in rows] == [None] * 4 + [(name, 5) for name in workers.PEERS]
    monkeypatch.setattr(scaling, "measure", lambda steps: [steps])
    settings, rows = scaling.RESULT.compute()
    assert rows == [15]
    assert threads == [1]
    assert settings == {
        "steps": 15, "threads": 1, "cores": os.cpu_count(), "server_ms": 50, "cases": {**workers.CASES, **workers.PEERS},
    }  # fmt: skip


def test_the_targets_are_the_same_in_every_process_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    images = torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    one, other = (workers.backend_of("linear", (3, 32, 32), None).query(images, NOMINAL, lambda _: None) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one, other)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Linear(3072, 10)
    assert torch.allclose(one, layer(images.flatten(1)), atol=0.1)  # as its 8-bit codes have it
    torch.manual_seed(124)
    assert torch.equal(workers.backend_of("linear", (3, 32, 32), None).query(images, NOMINAL, lambda _: None), one)


def test_a_peer_s_loss_is_the_cross_entropy_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "peer, 121,195 parameters"
    loss = evotorch_actors.FuseLoss(name)
    data = workers.owned((3, 32, 32))
    with torch.no_grad():
        logits = loss._backend.query(loss.fuse(data.images[:4]), NOMINAL, lambda _: None)
    expected = -logits.log_softmax(1)[torch.arange(4), data.labels[:4]].mean()
    found = loss(loss.fuse.vector())
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert not found.requires_grad
    assert loss.__reduce__() == (evotorch_actors.FuseLoss, (name,))


def test_a_call_of_an_actor_is_weighed_by_its_pickle() -> None:
    sent = [100]
    actor = SimpleNamespace(work=SimpleNamespace(remote=lambda *args: ("asked", *args)))
    caller = evotorch_actors.CountedActor(actor, sent)
    assert caller.work.remote(3, "x") == ("asked", 3, "x")
    assert sent == [100 + len(pickle.dumps((3, "x")))]


def test_the_slow_server_waits_and_answers_with_the_first_ten_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(serving, "time", SimpleNamespace(sleep=slept.append))
    server = ThreadingHTTPServer(("127.0.0.1", 0), serving.SlowServer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v2/models/slow"
        with urllib.request.urlopen(url) as answer:
            about = json.loads(answer.read())
        body = json.dumps({"inputs": [{"shape": [2, 1, 3, 4], "data": list(range(24))}]}).encode()
        with urllib.request.urlopen(f"{url}/infer", body) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
            (output,) = json.loads(answer.read())["outputs"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert about == {
        "name": "slow", "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }  # fmt: skip
    assert output == {
        "name": "logits", "datatype": "FP32", "shape": [2, 10], "data": [*range(10), *range(12, 22)],
    }  # fmt: skip
    assert slept == [0.05]
    assert serving.SlowServer.protocol_version == "HTTP/1.1"
    assert serving.SlowServer.disable_nagle_algorithm is True


def row(case: str, workers: int, speed: float, peer: float | None = None) -> dict[str, Any]:
    return {
        "case": case, "workers": workers, "steps_per_second": speed, "bytes_per_probe": 71.6, "bytes_per_probe_in_all": 2345.4,
        "peer_steps_per_second": peer, "peer_bytes_per_probe": peer and 98_765.432,
    }  # fmt: skip


def test_the_table_shows_how_many_times_as_fast_as_one_worker_each_is() -> None:
    rows = [row("remote", 16, 9.0), row("compute", 1, 0.8), row("compute", 2, 1.5), row("remote", 1, 4.0)]
    rows.append(row("peer", 2, 3.0, 7.125))
    table = scaling._table(rows)
    assert headers(table)[:4] == ["case", "workers", "steps a second", "times one"]
    assert cells(table) == [
        ["remote", "16", "9.00", "2.25", "72", "2,345", "", ""], ["compute", "1", "0.80", "1.00", "72", "2,345", "", ""],
        ["compute", "2", "1.50", "1.88", "72", "2,345", "", ""], ["remote", "1", "4.00", "1.00", "72", "2,345", "", ""],
        ["peer", "2", "3.00", "", "72", "2,345", "7.12", "98,765.43"],
    ]  # fmt: skip
