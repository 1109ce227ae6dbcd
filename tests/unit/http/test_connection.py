"""How a server is asked: attempts, pauses, parts, patience, a rate, threads."""

from __future__ import annotations

import email.utils
import gzip
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backends.base import NOMINAL, Chip, InputError, TargetError
from backends.http import transport as connection
from backends.http.backend import RemoteBackend, TransportSettings
from tests.helpers.http.faults import script
from tests.helpers.http.servers import METADATA, images, right, sums


def sizes(got: list[Any]) -> list[int]:
    return [request["inputs"][0]["shape"][0] for request in got]


class Clock(SimpleNamespace):
    """Time that passes only where it is slept, and every pause that was made."""

    def __init__(self) -> None:
        super().__init__(now=1000.0, pauses=[])

    def monotonic(self) -> float:
        return float(self.now)

    def time(self) -> float:
        return float(self.now) + 1e9

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(connection, "time", fake)
    return fake


def test_pauses_are_drawn_from_ever_longer_spans(clock: Clock) -> None:
    with script(METADATA, [(503, b"busy")]) as (url, got), pytest.raises(TargetError, match="in 9 attempts: HTTP 503 busy"):
        RemoteBackend(url, "m", 5.0, 9).query(images(1), NOMINAL, lambda _: None)
    spans = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert len(got) == 9
    assert all(0.0 <= pause <= span for pause, span in zip(clock.pauses, spans, strict=True))
    assert len(set(clock.pauses)) == 8


def test_whoever_forbids_another_attempt_is_told_what_was_wrong_with_the_last(clock: Clock) -> None:
    sent: list[int] = []

    def once(count: int) -> None:
        sent.append(count)
        if len(sent) > 1:
            raise ForbiddenError("no more")

    with script(METADATA, [(503, b"busy")]) as (url, got), pytest.raises(ForbiddenError, match="no more") as error:
        RemoteBackend(url, "m", 5.0, 9).query(images(1), NOMINAL, once)
    assert len(got) == 1
    assert error.value.__notes__ == ["HTTP 503 busy"]


class ForbiddenError(Exception): ...


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date", "past", "nonsense"])
def test_a_server_that_asks_for_a_pause_has_it(status: int, form: str, clock: Clock) -> None:
    said, least = {
        "seconds": ("7", 7.0),
        "date": (email.utils.formatdate(clock.time() + 9, usegmt=True), 9.0),
        "past": (email.utils.formatdate(clock.time() - 900, usegmt=True), 0.0),
        "nonsense": ("soon", 0.0),
    }[form]
    with script(METADATA, [(status, b"later", {"Retry-After": said}), sums]) as (url, got):
        assert torch.equal(RemoteBackend(url, "m").query(images(3), NOMINAL, lambda _: None), right(images(3)))
    assert len(got) == 2
    assert least <= sum(clock.pauses) <= least + 0.25


def test_a_pause_that_the_server_asks_for_is_kept_by_all_threads(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with script(METADATA, [(429, b"later", {"Retry-After": "7"}), sums]) as (url, got):
        backend = RemoteBackend(url, "m")
        pause = clock.sleep

        def meanwhile(seconds: float) -> None:
            clock.sleep = pause
            backend.query(images(2), NOMINAL, lambda _: None)
            pause(seconds)

        clock.sleep = meanwhile
        backend.query(images(1), NOMINAL, lambda _: None)
    assert clock.pauses[0] == 7.0
    assert sizes(got) == [1, 2, 1]


def test_patience_ends(clock: Clock) -> None:
    replies: list[Any] = [(503, b"", {"Retry-After": "100"})]
    with script(METADATA, replies) as (url, got):
        backend = RemoteBackend(url, "m", 5.0, 9, TransportSettings(patience=250.0))
        with pytest.raises(TargetError, match=r"in 3 attempts, .* pause of 100 s, within `remote.patience` 250 s: HTTP 503"):
            backend.query(images(1), NOMINAL, lambda _: None)
    assert len(got) == 3
    assert clock.now <= 1250.0


def test_requests_keep_their_rate(clock: Clock) -> None:
    with script(METADATA, [sums]) as (url, _):
        backend = RemoteBackend(url, "m", settings=TransportSettings(requests_per_second=4.0))
        began = clock.now
        for _ in range(9):
            backend.query(images(1), NOMINAL, lambda _: None)
    assert clock.now - began == pytest.approx(9 / 4)  # the metadata took the first turn


@pytest.mark.parametrize(
    ("more", "parts"), [({"parameters": {"max_batch_size": 4}}, [4, 4, 2]), ({"max_batch_size": 5}, [5, 5]), ({}, [10])]
)
def test_the_servers_limit_is_kept(more: dict[str, Any], parts: list[int]) -> None:
    told: list[int] = []
    with script({**METADATA, **more}, [sums]) as (url, got):
        backend = RemoteBackend(url, "m")
        assert torch.equal(backend.query(images(10), NOMINAL, told.append), right(images(10)))
    assert sizes(got) == told == parts
    assert backend.info.limit == (parts[0] if more else None)


def test_what_is_too_large_is_halved_and_that_is_remembered() -> None:
    def at_most_three(request: Any) -> tuple[int, bytes]:
        return sums(request) if request["inputs"][0]["shape"][0] <= 3 else (413, b"too large")

    told: list[int] = []
    with script(METADATA, [at_most_three]) as (url, got):
        backend = RemoteBackend(url, "m")
        for _ in range(2):
            assert torch.equal(backend.query(images(10), NOMINAL, told.append), right(images(10)))
    assert sizes(got) == told == [10, 5, 3, 2, 3, 2, 3, 3, 3, 1]


def test_one_image_that_is_too_large_ends_it() -> None:
    with (
        script(METADATA, [(413, b"too large")]) as (url, got),
        pytest.raises(TargetError, match="not take a single image: HTTP 413"),
    ):
        RemoteBackend(url, "m").query(images(3), NOMINAL, lambda _: None)
    assert sizes(got) == [3, 2, 1]


def test_silence_is_asked_again_and_then_halved() -> None:
    with script(METADATA, [None, sums, None, None, sums]) as (url, got):
        backend = RemoteBackend(url, "m", 0.3, 4)
        for _ in range(2):
            assert torch.equal(backend.query(images(4), NOMINAL, lambda _: None), right(images(4)))
    assert sizes(got) == [4, 4, 4, 4, 2, 2]


def test_nothing_hangs_beyond_its_timeout() -> None:
    began = time.monotonic()
    with script(METADATA, [None]) as (url, got), pytest.raises(TargetError, match=r"in 2 attempts: .*timed out"):
        RemoteBackend(url, "m", 0.3, 2).query(images(1), NOMINAL, lambda _: None)
    assert len(got) == 2
    assert time.monotonic() - began < 10.0


def test_threads_share_one_client() -> None:
    told: list[int] = []

    def busy_at_times(request: Any) -> tuple[int, bytes]:
        return (503, b"busy") if request["parameters"]["chip_seed"] == 3 and len(got) < 8 else sums(request)

    with script(METADATA, [busy_at_times]) as (url, got), ThreadPoolExecutor(8) as pool:
        backend = RemoteBackend(url, "m", 20.0, 9)
        asked = [images(1 + number % 5) for number in range(64)]
        answers = list(pool.map(lambda part: backend.query(part, Chip(0.1, len(part)), told.append), asked))
    assert all(torch.equal(answer, right(part)) for answer, part in zip(answers, asked, strict=True))
    assert sorted(sizes(got)) == sorted(told)


def test_a_pickled_client_opens_its_connections_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", "s3cr3t-s3cr3t")
    with script(METADATA, [sums]) as (url, got):
        backend = RemoteBackend(url, "m", settings=TransportSettings(key_env="SERVER_KEY", requests_per_second=1000.0))
        backend.query(images(2), NOMINAL, lambda _: None)
        content = pickle.dumps(backend)
        again = pickle.loads(content)
        assert torch.equal(again.query(images(2), NOMINAL, lambda _: None), right(images(2)))
    assert b"s3cr3t" not in content
    assert [request["headers"]["Authorization"] for request in got] == ["Bearer s3cr3t-s3cr3t"] * 2
    monkeypatch.delenv("SERVER_KEY")
    with pytest.raises(InputError, match="SERVER_KEY is not set or empty"):
        pickle.loads(content)


def test_compressed_answers_are_read() -> None:
    def squeezed(request: Any) -> tuple[int, bytes, dict[str, str]]:
        return 200, gzip.compress(sums(request)[1]), {"Content-Encoding": "gzip"}

    with script(METADATA, [squeezed]) as (url, _):
        assert torch.equal(RemoteBackend(url, "m", 5.0, 1).query(images(90), NOMINAL, lambda _: None), right(images(90)))


def test_what_a_server_says_cannot_steer_a_terminal() -> None:
    with script(METADATA, [(400, b"\x1b[2Jgone\x07")]) as (url, _), pytest.raises(TargetError) as error:
        RemoteBackend(url, "m").query(images(1), NOMINAL, lambda _: None)
    assert str(error.value).isprintable()
