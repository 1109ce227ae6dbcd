"""Optimizers of nevergrad: the same points, losses and fuse as the library driven directly."""

from __future__ import annotations

import warnings
from typing import Any

import nevergrad as ng
import numpy as np
import pytest
import torch

from backends.base import InputError
from bbfuse.optimizers.base import Problem
from bbfuse.optimizers.nevergrad import Nevergrad, NevergradConfig
from tests.helpers.references.points import PARAMETERS, loss_at, named, small_fuse, step_for

SIGMA, LOW = 0.06, 3_000_000_077
SEED = 5 * 2**32 + LOW
"""More than the 32 bits that the library takes; the lowest count."""
LOST = [[], [0, 4], "all", [2], []]


class Reference:
    """The library about ``theta_0``, in the whole space or in that of ``theta_0 + P z``."""

    def __init__(self, name: str, subspace: int | None, points: int) -> None:
        self.theta = self.start = small_fuse().vector().double().numpy()
        self.basis = np.eye(PARAMETERS)
        if subspace is not None:
            self.basis = torch.randn(PARAMETERS, subspace, generator=named(SEED, "subspace")).double().numpy() / subspace**0.5
        space = ng.p.Array(init=np.zeros(self.basis.shape[1])).set_mutation(sigma=SIGMA)
        space.random_state = np.random.RandomState(LOW)
        self.optimizer = ng.optimizers.registry[name](space, budget=None, num_workers=points)
        self.count = points
        self.points: Any = []
        self.told: list[float] = []

    def step(self, number: int, lost: list[int]) -> None:
        asked = [self.optimizer.ask() for _ in range(self.count)]
        self.points = np.stack([one.value for one in asked])
        losses = [loss_at(self.start + self.basis @ point, number) for point in self.points]
        known = [loss for place, loss in enumerate(losses) if place not in lost]
        self.told = [(max(known) if known else 0.0) if place in lost else loss for place, loss in enumerate(losses)]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for one, loss in zip(asked, self.told, strict=True):
                self.optimizer.tell(one, loss)
        if known:
            self.theta = self.start + self.basis @ self.optimizer.provide_recommendation().value


@pytest.mark.parametrize(
    ("name", "subspace", "workers", "points"),
    [("DiagonalCMA", None, None, 13), ("DiagonalCMA", 5, None, 8), ("TBPSA", 4, 9, 9), ("OnePlusOne", None, 1, 1)],
)
def test_it_asks_tells_and_moves_as_the_library_does(
    name: str, subspace: int | None, workers: int | None, points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse, reference = small_fuse(), Reference(name, subspace, points)
    method = Nevergrad(NevergradConfig(name, SIGMA, workers, subspace), Problem(7, 3, False, SEED), fuse)
    asked: list[Any] = []
    ask = Nevergrad.ask
    monkeypatch.setattr(Nevergrad, "ask", lambda self: asked.append(ask(self)) or asked[-1])
    assert method.queries_per_image == points
    for number, which in enumerate(LOST):
        lost = list(range(points)) if which == "all" else [place for place in which if int(place) < points - 1]
        before = fuse.vector()
        method.update(step_for(number, fuse, SEED, lost), len(LOST))
        reference.step(number, lost)
        np.testing.assert_allclose(np.stack(asked[-1]), reference.points, rtol=1e-5, atol=1e-7)
        assert method.state_dict()["told"][-1] == pytest.approx(reference.told, rel=1e-5)
        np.testing.assert_allclose(fuse.vector().numpy(), reference.theta, rtol=1e-5, atol=1e-6)
        if which == "all":
            assert torch.equal(fuse.vector(), before)


def test_restored_it_goes_on_as_the_library_does() -> None:
    fuse, reference = small_fuse(), Reference("DiagonalCMA", 5, 8)
    config, problem = NevergradConfig("DiagonalCMA", SIGMA, None, 5), Problem(7, 3, False, SEED)
    first = Nevergrad(config, problem, fuse)
    for number in range(3):
        first.update(step_for(number, fuse, SEED), 6)
        reference.step(number, [])
    second = Nevergrad(config, problem, fuse)
    second.load_state_dict(first.state_dict())
    for number in range(3, 6):
        second.update(step_for(number, fuse, SEED), 6)
        reference.step(number, [])
        np.testing.assert_allclose(fuse.vector().numpy(), reference.theta, rtol=1e-5, atol=1e-6)
    assert len(second.state_dict()["told"]) == 6


def test_a_name_that_the_library_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"^`nevergrad.name` must be one of nevergrad's registry, .*, got DiagonalCMB$"):
        Nevergrad(NevergradConfig("DiagonalCMB"), Problem(7, 3, False, 0), small_fuse())


def test_what_takes_one_point_at_a_time_is_refused_from_two_workers_on() -> None:
    one_at_a_time = next(
        name for name in ("SQP", "Powell", "Cobyla", "NelderMead") if ng.optimizers.registry[name].no_parallelization
    )
    problem = Problem(7, 3, False, 0)
    assert Nevergrad(NevergradConfig(one_at_a_time, workers=1), problem, small_fuse()).queries_per_image == 1
    assert Nevergrad(NevergradConfig("TBPSA", workers=2), problem, small_fuse()).queries_per_image == 2
    with pytest.raises(InputError, match=r"takes one point at a time: give `nevergrad.workers=1`"):
        Nevergrad(NevergradConfig(one_at_a_time, workers=2), problem, small_fuse())


def test_a_loss_for_each_point_is_told_or_none() -> None:
    method = Nevergrad(NevergradConfig("DiagonalCMA", SIGMA, 4), Problem(7, 3, False, SEED), small_fuse())
    points = method.ask()
    with pytest.raises(ValueError, match="shorter"):
        method.tell(points, [0.3, 0.2, 0.1])
