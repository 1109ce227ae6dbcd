"""RGE in parameters and in inputs, in every basis, each with and without Broyden's memory, against the equations in numpy.

The reference of the memory works with Jacobians by all pixels, and projects what moved the inputs onto the basis.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

from bbfuse.optimizers.rge import InputRge, ParameterRge, Rge, RgeConfig
from tests.helpers.references.descent import (
    BATCH,
    CLASSES,
    OWNED,
    PARAMETERS,
    PIXELS,
    PROBLEM,
    SHAPE,
    START,
    TERMS,
    Adam,
    Array,
    carried_back,
    drawn,
    estimated,
    fair_signs,
    falls,
    follows,
    inputs,
    logits,
    loss_at,
    losses,
    named,
    owned_in,
    sensitivities,
    small_fuse,
    vectors,
)

LOST: dict[int, Collection[int]] = {1: [2], 3: range(4), 4: [1]}
BASES = {"pixels": 192, "coarse": 2 * 4 * 6, "dct": 2 * 2 * 3, "coordinates": 192}
MU = 0.11


def waves(images: Array) -> Array:
    """Their part in the slowest quarter of the cosines of each side."""
    kept = np.zeros_like(images)
    kept[:, :, :2, :3] = dctn(images, axes=(2, 3), norm="ortho")[:, :, :2, :3]
    found: Array = idctn(kept, axes=(2, 3), norm="ortho")
    return found


def blocks(images: Array) -> Array:
    """Their means over blocks of two by two."""
    means: Array = images.reshape(-1, 2, 4, 2, 6, 2).mean((3, 5))
    return means.repeat(2, 2).repeat(2, 3)


PROJECTIONS: dict[str, Callable[[Array], Array]] = {
    "pixels": np.asarray,
    "coordinates": np.asarray,
    "coarse": blocks,
    "dct": waves,
}


def directions(basis: str, number: int, pair: int) -> Array:
    """As `Directions` says: fair signs of the coefficients, 1 a pixel in root mean square; or one pixel, 1 in it."""
    rng, u = named("probe", number, pair), np.zeros((BATCH, *SHAPE))
    if basis == "coordinates":
        chosen = torch.randint(0, PIXELS, (BATCH, 1), generator=rng).numpy()[:, 0]
        u.reshape(BATCH, -1)[np.arange(BATCH), chosen] = fair_signs(rng, BATCH, 1)[:, 0]
        return u
    signs = fair_signs(rng, BATCH, BASES[basis])
    if basis == "dct":
        u[:, :, :2, :3] = signs.reshape(BATCH, 2, 2, 3) * np.sqrt(PIXELS / 12)
        return np.asarray(idctn(u, axes=(2, 3), norm="ortho"))
    return signs.reshape(BATCH, *SHAPE) if basis == "pixels" else signs.reshape(BATCH, 2, 4, 6).repeat(2, 2).repeat(2, 3)


def ends(z: Array, u: Array, coarse: bool) -> tuple[Array, Array]:
    above, below = np.clip(z + MU * u, -1, 1), np.clip(z - MU * u, -1, 1)
    return (np.round(above * 3) / 3, np.round(below * 3) / 3) if coarse else (above, below)


def reference(
    basis: str, broyden: bool, numbers: range, steps: int, coarse: bool, lost: dict[int, Collection[int]], prior: Any = 0.0
) -> tuple[list[Array], list[Array]]:
    theta, adam, path, still = START.copy(), Adam(), [], 0
    own, shared = np.zeros((OWNED, CLASSES, PIXELS)), np.zeros((CLASSES, PIXELS)) + prior
    for k in numbers:
        z, index, found = inputs(theta, k), owned_in(k), []
        for pair in range(2):
            if {2 * pair, 2 * pair + 1} & set(lost.get(k, ())):
                continue
            above, below = ends(z, directions(basis, k, pair), coarse)
            d = above - below
            still += int((d[directions(basis, k, pair) != 0] == 0).sum())
            square = np.maximum((d**2).sum((1, 2, 3)), 1e-12)
            if broyden:
                moved = PROJECTIONS[basis](d).reshape(BATCH, PIXELS)
                length = np.maximum((moved**2).sum(1), 1e-12)
                y = np.mean([logits(above, chip) - logits(below, chip) for chip, _ in TERMS], 0)
                missing = y - ((own[index] + shared) @ moved[:, :, None])[:, :, 0]
                update = missing[:, :, None] * moved[:, None, :] / length[:, None, None]
                own[index] += update - 0.3 * update.mean(0)
                shared += 0.3 * update.mean(0)
                s = np.sum([sensitivities(above, k), sensitivities(below, k)], (0, 1)) / 2
                found.append((s[:, None, :] @ (own[index] + shared))[:, 0])
            else:
                change = (losses(above, k) - losses(below, k))[:, None, None, None]
                by_pixel = np.divide(change, d, out=np.zeros_like(d), where=d != 0)
                of_basis = BASES[basis] * change * d / square[:, None, None, None]
                found.append((by_pixel if basis == "pixels" else of_basis).reshape(BATCH, PIXELS))
        if found:
            theta = theta + adam(carried_back(np.mean(found, 0), theta, k), falls(0.04, k, steps))
        path.append(theta)
    assert (still > 0) == coarse  # rounding kept some of the pixels that a probe was to move
    return path, adam.gradients


@pytest.mark.parametrize("coarse", [False, True], ids=["", "rounded"])
@pytest.mark.parametrize("broyden", [False, True], ids=["plain", "broyden"])
@pytest.mark.parametrize("basis", BASES)
def test_rge_in_inputs_takes_the_equations_steps(basis: Any, broyden: bool, coarse: bool) -> None:
    """Single precision where the memory is, which holds float32 numbers. A target that rounds leaves some pixels in place."""
    config = RgeConfig(lr=0.04, smoothing=MU, directions=2, basis=basis, broyden=broyden)
    expected, estimates = reference(basis, broyden, range(6), 7, coarse, LOST)
    gradients: list[Array] = []
    seen = {"coarse": dict.fromkeys(range(6), True)} if coarse else {}
    dtype = torch.float32 if broyden or coarse else torch.float64
    found = vectors(lambda fuse: InputRge(config, PROBLEM, fuse), range(6), 7, 3, dtype, gradients, lost=LOST, **seen)
    tolerance = 2e-4 if dtype == torch.float32 else 1e-6
    follows(found, expected, tolerance)
    estimated(gradients, estimates, tolerance)
    assert (found[3] == found[2]).all()


class WithPrior(InputRge):
    """Someone knows a Jacobian beforehand."""

    jacobian = drawn(31, CLASSES, PIXELS).float() / 20.0

    def _explained(self, above: Tensor, below: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
        assert plus.shape == minus.shape == (2, BATCH, CLASSES)
        return (above - below).flatten(1) @ self.jacobian.T

    def _carried(self, z: Tensor, sensitivity: Tensor) -> Tensor:
        return (sensitivity.sum(0) @ self.jacobian).view(z.shape)


def test_a_prior_is_corrected_as_a_memory_that_began_with_it() -> None:
    config = RgeConfig(lr=0.04, smoothing=MU, directions=2)
    prior = WithPrior.jacobian.double().numpy()
    expected, estimates = reference("pixels", True, range(4), 7, False, LOST, prior)
    gradients: list[Array] = []
    follows(
        vectors(lambda fuse: WithPrior(config, PROBLEM, fuse), range(4), 7, 2, torch.float32, gradients, lost=LOST),
        expected,
        2e-4,
    )
    estimated(gradients, estimates, 2e-4)


def test_rge_in_parameters_takes_the_equations_steps() -> None:
    theta, adam, expected = START.copy(), Adam(), []
    for k in range(6):
        found = []
        for pair in range(2):
            u = fair_signs(named("probe", k, pair), PARAMETERS)
            if not {2 * pair, 2 * pair + 1} & set(LOST.get(k, ())):
                found.append((loss_at(theta + 0.06 * u, k) - loss_at(theta - 0.06 * u, k)) / 0.12 * u)
        if found:
            theta = theta + adam(np.mean(found, 0), falls(0.04, k, 7))
        expected.append(theta)
    config = RgeConfig(space="parameters", lr=0.04, smoothing=0.06, directions=2)
    gradients: list[Array] = []
    follows(vectors(lambda fuse: ParameterRge(config, PROBLEM, fuse), range(6), 7, 3, gradients=gradients, lost=LOST), expected)
    estimated(gradients, adam.gradients)


@pytest.mark.parametrize("space", ["inputs", "parameters"])
def test_every_pair_sends_each_image_twice(space: Any) -> None:
    made = Rge.create(RgeConfig(space=space, directions=3), PROBLEM, small_fuse())
    assert type(made) is {"inputs": InputRge, "parameters": ParameterRge}[space]
    assert made.queries_per_image == 6
