"""The server that benchmarks ask: the address told is the one it listens at, and it lives as long as it is needed."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from experiments.benchmarks import serving


def test_the_address_told_is_that_of_the_listener_and_one_thread_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    threads: list[int] = []
    listened: list[Any] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(serving, "application", lambda backends: backends)
    monkeypatch.setattr(serving, "serve", lambda backends, listener: listened.extend((backends, listener)))
    teller = type("Teller", (), {"send": staticmethod(told.append)})()
    backend = serving.Timed((1, 2, 2), 1)
    serving._serve_backend(teller, backend)
    backends, listener = listened
    with listener:
        host, port = listener.getsockname()
    assert told == [f"http://{host}:{port}"]
    assert port > 1  # any free one
    assert (host, backends, threads) == ("127.0.0.1", [backend], [1])


def _tells(told: Connection, words: str) -> None:
    told.send(words)
    time.sleep(60)


def test_a_server_lives_as_long_as_its_context() -> None:
    with serving.served(_tells, "http://there") as address:
        assert address == "http://there"
        (process,) = serving.multiprocessing.active_children()
        assert process.daemon  # it ends with the benchmark, however that ends
    assert not process.is_alive()
