"""CMA-ES: the same points, losses and fuse as pycma driven directly."""

from __future__ import annotations

from typing import Any

import cma
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bbfuse.optimizers.base import Problem
from bbfuse.optimizers.cma import Cma, CmaConfig
from tests.helpers.references.points import PARAMETERS, loss_at, named, small_fuse, step_for

SEED, SIGMA = 12, 0.07


class Reference:
    """pycma about ``theta_0``, in the whole space or in that of ``theta_0 + P z``, ``P`` normal of variance 1/m."""

    def __init__(self, subspace: int | None, points: int) -> None:
        self.theta = self.start = small_fuse().vector().double().numpy()
        self.basis = np.eye(PARAMETERS)
        if subspace is not None and subspace < PARAMETERS:
            self.basis = torch.randn(PARAMETERS, subspace, generator=named(SEED, "subspace")).double().numpy() / subspace**0.5
        rng = np.random.default_rng(SEED)
        options = {"popsize": points, "verbose": -9, "seed": np.nan, "CMA_diagonal": subspace is None}
        options["randn"] = lambda *shape: rng.standard_normal(shape)
        self.strategy = cma.CMAEvolutionStrategy(np.zeros(self.basis.shape[1]), SIGMA, options)
        self.points: list[NDArray[np.float64]] = []
        self.told: list[float] = []

    def step(self, number: int, lost: list[int]) -> None:
        self.points = self.strategy.ask()
        losses = [loss_at(self.at(point), number) for point in self.points]
        known = [loss for place, loss in enumerate(losses) if place not in lost]
        worst = max(known) if known else 0.0
        self.told = [worst if place in lost else loss for place, loss in enumerate(losses)]
        self.strategy.tell(self.points, self.told)
        if known:
            self.theta = self.at(self.strategy.mean)

    def at(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.start + self.basis @ point


LOST = [[], [0, 4], [], "all", [2], []]
"""Which scores are lost in each step."""


def compared(config: CmaConfig, points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = small_fuse()
    method, reference = Cma(config, Problem(7, 3, False, SEED), fuse), Reference(config.subspace, points)
    asked: list[Any] = []
    ask = Cma.ask
    monkeypatch.setattr(Cma, "ask", lambda self: asked.append(ask(self)) or asked[-1])
    assert method.queries_per_image == points
    for number, which in enumerate(LOST):
        lost = list(range(points)) if which == "all" else [int(place) for place in which]
        before = fuse.vector()
        method.update(step_for(number, fuse, SEED, lost), len(LOST))
        reference.step(number, lost)
        np.testing.assert_allclose(asked[-1], reference.points, rtol=1e-6, atol=1e-9)
        assert method.state_dict()["told"][-1] == pytest.approx(reference.told, rel=1e-5)
        np.testing.assert_allclose(fuse.vector().numpy(), reference.theta, rtol=1e-5, atol=1e-6)
        assert torch.equal(fuse.vector(), before) == (which == "all")
    assert len(method.state_dict()["told"]) == len(LOST)
    np.testing.assert_array_equal(method.state_dict()["origin"].numpy(), reference.start.astype(np.float32))


@pytest.mark.parametrize(("subspace", "points"), [(None, 13), (5, 8), (25, 13), (PARAMETERS, 13), (100, 13)])
def test_it_asks_tells_and_moves_as_pycma_does(subspace: int | None, points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``points`` is 4 + 3 ln(dimensions), rounded down; a subspace as large as the space is the space."""
    compared(CmaConfig(subspace, SIGMA), points, monkeypatch)


def test_it_asks_for_as_many_points_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    compared(CmaConfig(5, SIGMA, population=11), 11, monkeypatch)


def test_restored_it_goes_on_as_pycma_does_whatever_fuse_it_was_made_for() -> None:
    fuse, reference = small_fuse(), Reference(5, 8)
    first = Cma(CmaConfig(5, SIGMA), Problem(7, 3, False, SEED), fuse)
    for number in range(3):
        first.update(step_for(number, fuse, SEED), 6)
        reference.step(number, [])
    second = Cma(CmaConfig(5, SIGMA), Problem(7, 3, False, SEED), fuse)
    second.load_state_dict(first.state_dict())
    for number in range(3, 6):
        second.update(step_for(number, fuse, SEED), 6)
        reference.step(number, [])
        np.testing.assert_allclose(fuse.vector().numpy(), reference.theta, rtol=1e-5, atol=1e-6)
    assert len(second.state_dict()["told"]) == 6
    assert len(first.state_dict()["told"]) == 3


def test_pycma_is_as_silent_as_it_can_be_and_leaves_the_global_numbers_alone(capfd: pytest.CaptureFixture[str]) -> None:
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    fuse = small_fuse()
    method = Cma(CmaConfig(5, SIGMA), Problem(7, 3, False, SEED), fuse)
    method.update(step_for(0, fuse, SEED), 6)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert method._strategy.opts["verbose"] == -9  # pycma: maximally quiet
    assert capfd.readouterr() == ("", "")
