"""Shared pieces: a cache of its own for the session, a server, and a small smooth target for exact statements."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn

from backends.base import Access, Backend, Chip
from backends.datasets.base import Dataset
from backends.datasets.loading import load
from backends.http.backend import RemoteBackend
from backends.server.subprocess_server import OwnServer
from backends.simulated import SimulatedBackend
from backends.targets.fit import fitted
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from bbfuse.objective.eopm import Term
from bbfuse.objective.step import Step
from bbfuse.querying.ledger import Ledger
from tests.helpers.targets import CHIP, SMALL, LinearBackend, StepMaker

torch.set_num_threads(1)  # as runs do
os.environ.setdefault("RAY_worker_niceness", "0")  # by default workers wait for all else that a busy machine does
settings.register_profile("fixed", derandomize=True, deadline=None)  # the same examples everywhere, however slow the machine
settings.load_profile("fixed")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BBFUSE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="session")
def network(cache: Path) -> nn.Module:
    return fitted("digits", load("digits"))


@pytest.fixture(scope="session")
def server(network: nn.Module) -> Iterator[OwnServer]:
    own = OwnServer("digits", "digits")
    yield own
    own.close()


@pytest.fixture(params=["local", "whitebox", "remote"])
def backend(request: pytest.FixtureRequest, network: nn.Module) -> Iterator[Backend]:
    if request.param == "remote":
        opened: Backend = RemoteBackend(request.getfixturevalue("server").url, "digits", timeout=30.0, attempts=2)
    else:
        access = Access.GRADIENTS if request.param == "whitebox" else Access.LOGITS
        opened = SimulatedBackend("digits", network, (1, 8, 8), 10, access=access)
    yield opened
    opened.close()


@pytest.fixture
def linear(digits: Dataset) -> LinearBackend:
    return LinearBackend(digits)


@pytest.fixture(scope="session")
def smooth() -> SimulatedBackend:
    """A smooth white-box target for 4x4 images and 3 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))
    return SimulatedBackend("smooth", net, SMALL, 3, access=Access.GRADIENTS)


@pytest.fixture
def step_of(smooth: SimulatedBackend) -> StepMaker:
    """Steps of the same eight images, some pixels on the edge of the range, before the same fuse."""

    def make(number: int = 0, head: Head | None = None, chips: tuple[Chip, ...] = (CHIP,)) -> Step:
        rng = torch.Generator().manual_seed(5)
        images = (torch.rand((8, *SMALL), generator=rng) * 2.4 - 1.2).clamp(-1, 1)
        fuse = Fuse("MLP", SMALL, rng)
        with torch.no_grad():
            for p in fuse.parameters():
                p += 0.05 * torch.randn(p.shape, generator=rng)
        labels = torch.randint(0, 3, (8,), generator=rng)
        weights = torch.rand(8, generator=rng) + 0.5
        ledger = Ledger(smooth, 10**9)
        terms = [Term(chip, head or Head(), 1.0 + place) for place, chip in enumerate(chips)]
        return Step(
            number=number, seed=0, fuse=fuse, index=torch.arange(8), images=images, labels=labels, weights=weights, terms=terms,
            query=ledger.query, query_with_gradient=ledger.query_with_gradient,
        )  # fmt: skip

    return make
