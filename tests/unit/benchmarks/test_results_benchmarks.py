"""Benchmarks of methods, proxies and servers with toy clocks: what is done in a turn, and what is made of its times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backends.base import NOMINAL
from experiments.benchmarks import overhead, proxy, remote
from tests.helpers.studies.toys import cells, headers


def test_the_settings_are_the_stated_ones() -> None:
    assert (overhead.SIZES, overhead.STEPS, overhead.PAIRS, overhead.SUBSPACE) == ((113_187, 723_273), 5, 8, 100)
    assert [(name, settings) for name, _, settings, *_ in overhead.CASES] == [
        ("spsa", {}), ("spsa-gc, 5 pairs", {}), ("rge, parameters", {"space": "parameters"}), ("fzoo, 8 probes", {}),
        ("nes, 8 pairs", {"pairs": 8}), ("pgpe, 8 pairs", {"pairs": 8}),
        ("cma, diagonal, 20 points", {"subspace": None, "population": 20}), ("cma, subspace of 100", {"subspace": 100}),
        ("nevergrad DiagonalCMA", {}),
    ]  # fmt: skip
    makers = {name: maker for name, *_, maker in overhead.CASES if maker is not None}
    partials = {name: getattr(maker, "args", None) for name, maker in makers.items()}
    assert partials == {
        "spsa": ("SPSA", 1, 2), "pgpe, 8 pairs": None, "cma, diagonal, 20 points": (20,),
        "nevergrad DiagonalCMA": ("DiagonalCMA", None, None),
    }  # fmt: skip
    assert (proxy.CASES, proxy.CLASSES, proxy.TURNS) == ((((1, 8, 8), "MLP"), ((3, 32, 32), "UNetXS")), 10, 500)
    assert (remote.SHAPES, remote.TARGET_MS, remote.BATCH) == (((1, 8, 8), (3, 32, 32)), (0, 20), 128)
    assert (remote.REPEATS, remote.CLASSES) == (40, 10)


@pytest.mark.parametrize(("workers", "points", "asked"), [(1, 2, 2), (None, None, 4 + 11), (3, 7, 6)])
def test_a_peer_is_asked_for_so_many_points_a_step(
    workers: int | None, points: int | None, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, float]] = []

    class Peer:
        def __init__(self, space: Any, budget: Any, num_workers: int) -> None:
            assert space.dimension == 50
            assert (budget, num_workers) == (None, workers or 15)  # 4 + 3 log 50
            self.last = 0

        def ask(self) -> int:
            self.last += 1
            return self.last

        def tell(self, point: int, loss: float) -> None:
            told.append((point, loss))

        def provide_recommendation(self) -> None:
            told.append((0, 0.0))

    monkeypatch.setitem(overhead.ng.optimizers.registry, "Toy", Peer)
    overhead._nevergrad("Toy", workers, points, 50)(0)
    assert told == [*((n, float(n % 7)) for n in range(1, asked + 1)), (0, 0.0)]


def test_a_bare_fuse_gives_images_back_and_uses_its_vector() -> None:
    fuse = overhead._Bare(7)
    images = torch.rand(2, 1, 1, 1)
    vector = torch.arange(3.0, 10.0).requires_grad_()
    fuse.weights.data += 5.0
    assert torch.equal(fuse.at(vector, images), images)
    assert torch.equal(fuse(images), images)
    assert (len(fuse.vector()), fuse.image_shape) == (7, (1, 1, 1))


def test_a_step_of_a_method_asks_for_different_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = overhead._Free.scores

    def scores(self: Any, probes: Any) -> Any:
        found = real(self, probes)
        asked.append((self.number, [score.loss for score in found]))
        return found

    monkeypatch.setattr(overhead._Free, "scores", scores)
    step = overhead._ours("nes", {"pairs": 2}, 30)
    step(0)
    step(0)
    assert [number for number, _ in asked] == [0, 1]
    assert [loss for _, losses in asked for loss in losses] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 1.0]


def test_rows_are_milliseconds_and_mebibytes_beside_the_peer_s(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []

    def maker(who: str) -> Any:
        return lambda *given: lambda turn: steps.append((who, given, turn))

    def median(works: Any, repeats: int) -> dict[str, float]:
        assert repeats == 5
        return {who: {"ours": 0.0125, "peer": 0.25}[who] for who in works}

    def peak(work: Any) -> float:
        work()
        return {"ours": 3.5, "peer": 7.25}[steps[-1][0]] * 1024 * 1024

    monkeypatch.setattr(overhead, "SIZES", (11, 13))
    monkeypatch.setattr(overhead, "CASES", [("a", "m", {"x": 3}, "P", maker("peer")), ("b", "n", {}, "", None)])
    monkeypatch.setattr(overhead, "_ours", maker("ours"))
    monkeypatch.setattr(overhead, "median_seconds", median)
    monkeypatch.setattr(overhead, "peak_bytes", peak)
    rows = overhead.measure()
    ours = {"ms_per_step": 12.5, "peak_mib": 3.5}
    none = {"peer": None, "peer_ms_per_step": None, "peer_peak_mib": None}
    peer = {"peer": "P", "peer_ms_per_step": 250.0, "peer_peak_mib": 7.25}
    assert rows == [
        {"method": name, "parameters": size, **ours, **more} for size in (11, 13) for name, more in (("a", peer), ("b", none))
    ]
    assert steps[:4] == [*(("ours", ("m", {"x": 3}, 11), turn) for turn in (0, 1)), *(("peer", (11,), turn) for turn in (0, 1))]
    table = overhead._table([{**rows[0], "parameters": 113_187}, rows[1]])
    assert headers(table) == ["method", "parameters", "ms", "MiB", "peer", "its ms", "its MiB"]
    assert cells(table) == [["a", "113,187", "12.5", "4", "P", "250.0", "7"], ["b", "11", "12.5", "4", "", "", ""]]


@contextlib.contextmanager
def _at(*given: Any) -> Iterator[str]:
    yield f"http://{len(given)}"


def test_a_proxy_adds_what_is_left_of_its_time_without_the_target_s_and_the_fuse_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def median(works: Any, turns: int) -> dict[str, float]:
        works["fuse"](3)
        asked.append((works["direct"], works["proxy"], turns))
        return {"direct": 0.002, "proxy": 0.0075, "fuse": 0.001}

    monkeypatch.setattr(proxy, "_run", lambda path, generator, shape: (generator, shape))
    monkeypatch.setattr(proxy.bbfuse, "load", lambda run: SimpleNamespace(fuse=lambda image: asked.append((run, image))))
    monkeypatch.setattr(proxy, "answering", lambda timed: _at(timed))
    monkeypatch.setattr(proxy, "_proxy", lambda run, direct: _at(run, direct))
    monkeypatch.setattr(proxy, "_request", lambda url, image, binary: (url, tuple(image.shape), binary))
    monkeypatch.setattr(proxy, "median_seconds", median)
    rows = proxy.measure(7)
    named = [(shape, generator, mode) for shape, generator in proxy.CASES for mode in ("json", "binary")]
    assert rows == [
        {"shape": "x".join(map(str, shape)), "mode": mode, "generator": generator, "direct_ms": 2.0, "proxy_ms": 7.5,
         "fuse_ms": 1.0, "added_ms": pytest.approx(4.5)}
        for shape, generator, mode in named
    ]  # fmt: skip
    for (run, image), said, (shape, generator, mode) in zip(asked[::2], asked[1::2], named, strict=True):
        assert run == (generator, shape)
        drawn = torch.rand((1, *shape), generator=torch.Generator().manual_seed(1))
        assert torch.allclose(image, 2 * drawn - 1)
        assert said == (("http://1", (1, *shape), mode == "binary"), ("http://2", (1, *shape), mode == "binary"), 7)


class Opened:
    """A backend by name that answers with its images, or others."""

    def __init__(self, *given: Any, overrides: Any = None, off: float = 0.0) -> None:
        self.given, self.overrides, self.off = given, overrides, off
        self.closed = 0

    def query(self, images: torch.Tensor, chip: Any, sending: Any) -> torch.Tensor:
        assert chip == NOMINAL
        return images + self.off

    def close(self) -> None:
        self.closed += 1


def test_the_images_a_second_are_those_of_a_batch_of_128(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Opened] = []

    def made(*given: Any, **more: Any) -> Opened:
        opened.append(Opened(*given, **more))
        return opened[-1]

    def median(works: Any, repeats: int) -> dict[str, float]:
        assert repeats == 3
        batch = works["local"](0)
        drawn = torch.rand(batch.shape, generator=torch.Generator().manual_seed(0))
        assert len(batch) == 128
        assert torch.allclose(batch, 2 * drawn - 1)
        return {"local": 0.5, "json": 4.0, "binary": 2.0}

    monkeypatch.setattr(remote, "Timed", made)
    monkeypatch.setattr(remote, "RemoteBackend", made)
    monkeypatch.setattr(remote, "answering", lambda timed: _at(timed))
    monkeypatch.setattr(remote, "median_seconds", median)
    rows = remote.measure(3)
    order = [(shape, ms, mode) for shape in ("1x8x8", "3x32x32") for ms in (0, 20) for mode in ("local", "json", "binary")]
    assert [(row["shape"], row["target_ms"], row["mode"]) for row in rows] == order
    assert [row["images_per_second"] for row in rows] == [256.0, 32.0, 64.0] * 4
    assert [one.closed for one in opened] == [0, 1, 1, 1] * 4
    assert opened[4].given == ((1, 8, 8), 20)
    monkeypatch.setattr(remote, "RemoteBackend", lambda *given, **more: Opened(off=0.25))
    with pytest.raises(RuntimeError, match="json gives other numbers"):
        remote.measure(3)
