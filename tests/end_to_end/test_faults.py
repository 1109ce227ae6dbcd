"""A network that spoils a tenth of all requests changes no number of a run, only what it costs; and nothing hangs."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from backends.kinds.remote import RemoteConfig
from backends.server.subprocess_server import OwnServer
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig
from bbfuse.execution import execute
from tests.helpers.http.faults import FAULTS, FaultyProxy, faulty

SMALL = RunConfig(
    backend="remote", chip_seed=1, head="none", budget=5_000, batch=8, report=ReportConfig(images=100),
    remote=RemoteConfig(timeout=0.5, attempts=8, reserve=0.3),
)  # fmt: skip


def run(config: RunConfig, url: str, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], float]:
    """Summary without what differs, events without their counts, seconds."""
    began = time.monotonic()
    summary = execute(dataclasses.replace(config, remote=dataclasses.replace(config.remote, url=url), out=folder))
    seconds = time.monotonic() - began
    for name in ("seconds", "config"):
        del summary[name]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    for event in events:
        del event["images"]
    return summary, events, seconds


def holds(config: RunConfig, upstream: str, proxy: FaultyProxy, folder: Path) -> float:
    """That a run through ``proxy`` is that without it, and every image that reached it was charged; its seconds."""
    straight, straight_events, _ = run(config, upstream, folder / "straight")
    spoilt, events, seconds = run(config, proxy.url, folder / "spoilt")
    spent, clean = spoilt.pop("queries"), straight.pop("queries")
    assert spoilt == straight
    assert events == straight_events
    assert (spent["images"], spent["requests"]) == (proxy.seen["images"], proxy.seen["requests"])
    assert clean["images"] < spent["images"] <= config.budget
    assert proxy.injected.keys() == set(FAULTS)
    return seconds


@pytest.mark.parametrize("protocol", [pytest.param("oip", marks=pytest.mark.slow), "oip-binary"])
def test_a_run_through_a_faulty_network_has_the_same_numbers(
    protocol: Any, server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses are left out; the next test waits for them."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    config = dataclasses.replace(SMALL, remote=dataclasses.replace(SMALL.remote, protocol=protocol))
    with faulty(server.url, 0.1) as proxy:
        assert holds(config, server.url, proxy, tmp_path) < 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_with_its_pauses_and_more_to_ask(seed: int, server: OwnServer, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, budget=9_000, head=None, remote=dataclasses.replace(SMALL.remote, patience=60.0))
    with faulty(server.url, 0.1, seed) as proxy:
        assert holds(config, server.url, proxy, tmp_path) < 8.0 * sum(proxy.injected.values())
