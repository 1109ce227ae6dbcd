"""The reference server, open and with a key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from backends.server.app import application
from backends.server.limits import Limits
from backends.simulated import SimulatedBackend
from tests.helpers.http.reference_server import KEY, Broken, Served


@pytest.fixture(scope="module")
def backends(network: nn.Module) -> list[Any]:
    return [SimulatedBackend("digits", network, (1, 8, 8), 10), *map(Broken, ("nan", "failing", "buggy"))]


@pytest.fixture(scope="module")
def served(backends: list[Any]) -> Iterator[Served]:
    server = Served(application(backends, limits=Limits(body_bytes=1 << 20, batch_size=64)))
    yield server
    server.close()


@pytest.fixture(scope="module")
def locked(backends: list[Any]) -> Iterator[Served]:
    server = Served(application(backends[:1], key=KEY))
    yield server
    server.close()
