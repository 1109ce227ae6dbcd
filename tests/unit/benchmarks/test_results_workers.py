"""Pieces of benchmarks that need others' libraries or processes, with stand-ins: peers, requests, and what travels to workers."""

from __future__ import annotations

import json
import pickle
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import bbfuse
from bbfuse.fuse.module import Fuse
from experiments.benchmarks import overhead, proxy, remote, workers


def test_the_settings_say_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (overhead, proxy, remote):
        monkeypatch.setattr(module, "measure", lambda *given: [given])
    assert overhead.RESULT.compute() == ({"parameters": (113_187, 723_273), "steps": 5, "threads": 1}, [()])
    assert proxy.RESULT.compute() == ({"batch": 1, "turns": 500, "head": "affine", "threads": 1}, [()])
    assert remote.RESULT.compute() == ({"batch": 128, "repeats": 40, "requests_at_once": 1, "threads": 1}, [(40,)])


def test_pycma_is_asked_for_a_population_and_told_different_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Strategy:
        def __init__(self, start: Any, sigma: float, options: dict[str, Any]) -> None:
            told.append((start.tolist(), sigma, options))

        def ask(self) -> list[int]:
            return [4, 5, 6, 7, 8]

        def tell(self, points: list[int], losses: list[float]) -> None:
            told.append((points, losses))

    monkeypatch.setattr(overhead.cma, "CMAEvolutionStrategy", Strategy)
    step = overhead._pycma(5, 3)
    step(0)
    step(1)
    assert told == [
        ([0.0] * 3, 0.1, {"popsize": 5, "verbose": -9, "CMA_diagonal": True}), ([4, 5, 6, 7, 8], [1, 2, 3, 4, 5]),
        ([4, 5, 6, 7, 8], [6, 0, 1, 2, 3]),
    ]  # fmt: skip


def test_evotorch_has_the_settings_of_our_method(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    evotorch, algorithms = ModuleType("evotorch"), ModuleType("evotorch.algorithms")
    evotorch.Problem = lambda *given, **more: said.append((given, more)) or "problem"  # type: ignore[attr-defined]
    algorithms.PGPE = lambda *given, **more: said.append((given, more)) or SimpleNamespace(step=lambda: "moved")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "evotorch", evotorch)
    monkeypatch.setitem(sys.modules, "evotorch.algorithms", algorithms)
    assert overhead._pgpe(6)(3) == "moved"
    ((kind, loss), problem), (given, settings) = said
    points = torch.tensor([[3.0, 1.0], [4.0, 2.0]])
    assert (kind, loss(points).tolist()) == ("min", [3.0, 4.0])
    assert problem == {"vectorized": True, "solution_length": 6, "initial_bounds": (-1, 1)}
    assert given == ("problem",)
    assert settings.pop("center_init").tolist() == [0.0] * 6
    assert settings == {"popsize": 16, "center_learning_rate": 0.1, "stdev_learning_rate": 0.1, "stdev_init": 0.02}


def test_the_proxy_s_run_is_a_fuse_and_a_head_as_they_were_drawn(tmp_path: Path) -> None:
    run = proxy._run(tmp_path / "run", "MLP", (1, 8, 8))
    loaded = bbfuse.load(run)
    drawn = Fuse("MLP", (1, 8, 8), torch.Generator().manual_seed(0))
    assert torch.equal(loaded.fuse.vector(), drawn.vector())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(proxy._through(loaded.fuse, images, 5), loaded.fuse(images))


@pytest.mark.parametrize("binary", [False, True])
def test_a_request_is_sent_in_json_or_in_binary_and_a_refusal_is_told(binary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    status = [200]

    class Connection:
        def __init__(self, place: str) -> None:
            assert place == "host:8"

        def request(self, *given: Any) -> None:
            sent.append(given)

        def getresponse(self) -> Any:
            return SimpleNamespace(status=status[0], read=lambda: b"x" * 300)

    monkeypatch.setattr(proxy, "HTTPConnection", Connection)
    ask = proxy._request("http://host:8/more", torch.tensor([[[[0.25, -0.5]]]]), binary)
    ask(0)
    ((verb, path, body, headers),) = sent
    assert (verb, path) == ("POST", "/v2/models/timed/infer")
    if binary:
        (length,) = headers.values()
        assert torch.frombuffer(bytearray(body[int(length) :]), dtype=torch.float32).tolist() == [0.25, -0.5]
    else:
        assert headers == {"Content-Type": "application/json"}
        assert json.loads(body)["inputs"][0]["data"] == [0.25, -0.5]
    status[0] = 503
    with pytest.raises(RuntimeError, match=r"HTTP 503: x{200}$"):
        ask(1)


class Hand:
    """Stands for the workers: a message for each step, and a reply to each probe."""

    def __init__(self, config: Any, ledger: Any, images: torch.Tensor, opened_by: Any) -> None:
        self.config, self.images, self.opened_by = config, images, opened_by
        self.taken: list[int] = []
        self.state = "made"

    def _message(self, step: Any, probes: Any) -> Any:
        return {"step": step.number, "probes": len(probes)}

    def _take(self, hand: Any, number: int, reply: Any, in_flight: Any) -> None:
        self.taken.append(number)

    def wait(self) -> None:
        self.state = "ready"

    def close(self) -> None:
        self.state = "closed"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("bbfuse.distributed.cluster")
    module.Cluster = Hand  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bbfuse.distributed.cluster", module)
    small = {"target": "linear", "generator": "ConvS", "batch": 3, "pairs": 5, "shape": (3, 32, 32)}
    monkeypatch.setitem(workers.PEERS, "toy", small)


@pytest.mark.usefixtures("stub")
def test_what_travels_is_added_up_by_its_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        work = workers.Work("toy", 3, None, stack)
        assert (work.probes, work.sent, work.put, work.parameters) == (10, 0, 0, 113_187)
        hand = work.cluster
        assert (hand.config.data, hand.config.workers, hand.config.ray.cpus, hand.state) == ("toy", 3, 1.0, "ready")
        assert hand.opened_by is workers.opened_by
        assert torch.equal(hand.images, workers.owned((3, 32, 32)).images)
        hand._message(SimpleNamespace(number=4), [1, 2])
        assert work.put == len(pickle.dumps({"step": 4, "probes": 2}))
        reply = SimpleNamespace(plain=lambda: ("loss", 0.25))
        way = SimpleNamespace(reservations={7: SimpleNamespace(images=21)})
        hand._take(None, 7, reply, way)
        hand._take(None, 7, reply, way)
        assert work.sent == 2 * (len(pickle.dumps((7, 21))) + len(pickle.dumps(("loss", 0.25))))
        assert hand.taken == [7, 7]
        asked: list[Any] = []
        work.use(6)
        assert work.probes == 12
        monkeypatch.setattr(work._method, "update", lambda *given: asked.append(given))
        work.step(2)
        work.step(3)
    assert hand.state == "closed"
    (step, budget), (other, _) = asked
    assert (step.number, budget, step.scorer) == (2, 10**6, hand)
    assert step.images.shape == (3, 3, 32, 32)
    data = workers.owned((3, 32, 32))
    assert torch.equal(step.images, data.images[step.index])
    assert torch.equal(step.labels, data.labels[step.index])
    assert step.weights.tolist() == [1.0] * 3
    assert not torch.equal(step.index, other.index)
    (term,) = step.terms
    assert term.weight == 1.0


@pytest.mark.usefixtures("stub")
def test_a_worker_opens_the_case_s_target_and_images() -> None:
    with ExitStack() as stack:
        backend, images = workers.opened_by(SimpleNamespace(data="toy", remote=SimpleNamespace(url=None)), stack)  # type: ignore[arg-type]
        assert (backend.info.image_shape, backend.info.classes) == ((3, 32, 32), 10)
        assert torch.equal(images, workers.owned((3, 32, 32)).images)
