"""PGPE with symmetric samples (Sehnke et al. 2010) under ClipUp (Toklu et al. 2020, Algorithm 1), written out in numpy."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from bbfuse.optimizers.pgpe import ClipUp, Pgpe, PgpeConfig
from tests.helpers.references.descent import PARAMETERS, PROBLEM, START, Array, estimated, falls, follows, loss_at, named, vectors

CONFIG = PgpeConfig(lr=0.05, sigma=0.5, sigma_lr=0.9, largest_change=0.15, pairs=5)


class Speed:
    """ClipUp: steps of length ``lr`` on the normalised gradient, momentum 0.9, no faster than twice ``lr``."""

    def __init__(self) -> None:
        self.velocity = np.zeros(PARAMETERS)
        self.clipped = 0
        self.gradients: list[Array] = []

    def __call__(self, gradient: Array, lr: float) -> Array:
        self.gradients.append(gradient)
        self.velocity = 0.9 * self.velocity - lr * gradient / np.linalg.norm(gradient)
        if np.linalg.norm(self.velocity) > 2 * lr:
            self.velocity *= 2 * lr / np.linalg.norm(self.velocity)
            self.clipped += 1
        return self.velocity


def reference(
    numbers: range, steps: int, lost: dict[int, Collection[int]], digits: dict[int, int]
) -> tuple[list[Array], Array, list[float], Speed]:
    """The path, the sds at its end, every change of an sd as a share of its limit, and ClipUp."""
    theta, sigma, clip_up, path, shares = START.copy(), np.full(PARAMETERS, 0.5), Speed(), [], []
    for k in numbers:
        kept = [i for i in range(5) if not {2 * i, 2 * i + 1} & set(lost.get(k, ()))]
        if kept:
            e = [sigma * torch.randn(PARAMETERS, generator=named("probe", k, i)).double().numpy() for i in kept]
            values = [round(loss_at(theta + side * one, k), digits.get(k, 16)) for one in e for side in (1, -1)]
            assert k not in digits or 2 < len(set(values)) < len(values)
            rank = ((rankdata(values) - 1) / (len(values) - 1) - 0.5).reshape(-1, 2)
            by_theta = sum((plus - minus) / 2 * one for (plus, minus), one in zip(rank, e, strict=True)) / len(e)
            by_sigma = sum(
                (plus + minus) / 2 * (one**2 / sigma - sigma) for (plus, minus), one in zip(rank, e, strict=True)
            ) / len(e)
            theta = theta + clip_up(by_theta, falls(0.05, k, steps))
            shares += list(-0.9 * by_sigma / (0.15 * sigma))
            sigma = sigma * (1 + 0.15 * np.clip(shares[-PARAMETERS:], -1, 1))
        path.append(theta)
    return path, sigma, shares, clip_up


def test_pgpe_takes_the_papers_steps_and_adapts_its_sds_within_their_limit() -> None:
    lost: dict[int, Collection[int]] = {1: [3], 4: range(10)}
    digits = {3: 1}
    made, gradients = list[Pgpe](), list[Array]()

    def make(fuse: nn.Module) -> Pgpe:
        made.append(Pgpe(CONFIG, PROBLEM, fuse))  # type: ignore[arg-type]
        return made[-1]

    found = vectors(make, range(9), 9, resume=5, gradients=gradients, lost=lost, digits=digits)
    path, sigma, shares, clip_up = reference(range(9), 9, lost, digits)
    follows(found, path)
    estimated(gradients, clip_up.gradients)
    np.testing.assert_allclose(made[-1].state_dict()["sigma"].numpy(), sigma, rtol=1e-6)
    # both sides of every limit were met
    assert min(shares) < -1.0 < max(share for share in shares if share < 0.0)
    assert min(share for share in shares if share > 0.0) < 1.0 < max(shares)
    assert 0 < clip_up.clipped < 8
    assert made[-1].queries_per_image == 10


def parameters(*values: list[float]) -> list[Tensor]:
    return [nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in values]


def test_clip_up_normalises_over_all_parameters_together_and_holds_the_speed_below_twice_the_rate() -> None:
    first, second, idle = parameters([0.5, -0.25], [0.125], [3.0])
    optimizer = ClipUp([first, second, idle], lr=0.1, momentum=0.5)
    first.grad, second.grad = torch.tensor([0.02, 0.03]).double(), torch.tensor([0.06]).double()  # norm 0.07
    expected, velocity = np.array([0.5, -0.25, 0.125]), np.zeros(3)
    for _ in range(3):  # speeds 0.1, 0.15, 0.175: below twice the rate
        optimizer.step()
        velocity = 0.5 * velocity - 0.1 * np.array([2.0, 3.0, 6.0]) / 7.0
        expected = expected + velocity
        np.testing.assert_allclose([*first.tolist(), *second.tolist()], expected, rtol=1e-6)
    optimizer.param_groups[0]["lr"] = 0.04
    optimizer.step()  # 0.0875 + 0.04 is more than 0.08
    np.testing.assert_allclose([*first.tolist(), *second.tolist()], expected - 0.08 * np.array([2.0, 3.0, 6.0]) / 7.0, rtol=1e-6)
    assert idle.item() == 3.0


def test_a_gradient_of_zero_moves_by_momentum_alone_and_at_rest_not_at_all() -> None:
    (moved,) = parameters([0.5, -0.25])
    optimizer = ClipUp([moved], lr=0.1)
    moved.grad = torch.zeros(2).double()
    optimizer.step()
    assert moved.tolist() == [0.5, -0.25]
    moved.grad = torch.tensor([3e-5, -4e-5]).double()
    optimizer.step()
    np.testing.assert_allclose(moved.tolist(), [0.44, -0.17])
    moved.grad = torch.zeros(2).double()
    optimizer.step()  # the momentum is 0.9 if not given
    np.testing.assert_allclose(moved.tolist(), [0.44 - 0.054, -0.17 + 0.072])
    (still,) = parameters([0.7])
    still.grad = torch.zeros(1).double()
    ClipUp([still], lr=0.0).step()
    assert still.item() == 0.7


def test_groups_have_their_own_rates_and_one_without_gradients_is_passed_over() -> None:
    still, moved, other = parameters([1.5], [0.3], [0.7])
    optimizer = ClipUp([{"params": [still]}, {"params": [moved], "lr": 0.02}, {"params": [other]}], lr=0.1)
    moved.grad, other.grad = torch.tensor([-5.0]).double(), torch.tensor([0.25]).double()
    optimizer.step()
    assert [still.item(), moved.item(), other.item()] == pytest.approx([1.5, 0.32, 0.6])
