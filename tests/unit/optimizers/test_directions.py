"""Bases of directions against scipy's cosines and blocks written out, and the Jacobians' memory by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dct, dctn, idctn
from torch import Tensor

from backends.base import InputError
from bbfuse.optimizers.base import Problem
from bbfuse.optimizers.directions import BASES, Directions
from bbfuse.optimizers.jacobian_memory import JacobianMemory

Shape = tuple[int, int, int]


def images_of(shape: Shape, count: int = 3) -> Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("shape", "block", "waves"),
    [
        ((2, 8, 12), 2, (2, 3)), ((3, 24, 48), 3, (6, 12)),
        ((1, 48, 24), 3, (12, 6)), ((1, 4, 6), 2, (2, 2)), ((2, 32, 16), 2, (8, 4)),
        ((1, 22, 30), 2, (5, 7)), ((1, 32, 40), 4, (8, 10)),
    ],
)  # fmt: skip
def test_each_basis_has_its_dimensions_and_is_orthonormal(shape: Shape, block: int, waves: tuple[int, int]) -> None:
    channels, height, width = shape
    pixels = channels * height * width
    expected = {
        "pixels": pixels, "coordinates": pixels,
        "coarse": pixels // block**2, "dct": channels * waves[0] * waves[1],
    }  # fmt: skip
    images = images_of(shape)
    for kind in BASES:
        directions = Directions(kind, shape)
        assert directions.dimensions == expected[kind]
        coordinates = images_of((1, 1, directions.dimensions)).view(3, -1)
        made = directions.synthesise(coordinates)
        assert made.shape == images.shape
        torch.testing.assert_close(directions.analyse(made), coordinates, rtol=1e-4, atol=1e-5)
        # the adjoint: <synthesise(c), x> = <c, analyse(x)>
        torch.testing.assert_close(
            (made * images).sum((1, 2, 3)), (coordinates * directions.analyse(images)).sum(1), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("shape", [(2, 8, 12), (3, 24, 48), (1, 48, 24)])
def test_low_frequencies_are_scipys_slowest_cosines(shape: Shape) -> None:
    _, height, width = shape
    rows, columns = max(2, height // 4), max(2, width // 4)
    directions, images = Directions("dct", shape), images_of(shape)
    expected = dctn(images.double().numpy(), axes=(2, 3), norm="ortho")[:, :, :rows, :columns]
    np.testing.assert_allclose(directions.analyse(images), expected.reshape(3, -1), atol=1e-5)
    spectrum = np.zeros((3, *shape))
    spectrum[:, :, :rows, :columns] = expected
    found = directions.synthesise(torch.from_numpy(expected.reshape(3, -1)).float())
    np.testing.assert_allclose(found, idctn(spectrum, axes=(2, 3), norm="ortho"), atol=1e-5)


@pytest.mark.parametrize(("shape", "block"), [((2, 8, 12), 2), ((3, 24, 48), 3), ((1, 48, 24), 3)])
def test_coarse_coordinates_are_sums_over_blocks_divided_by_their_side(shape: Shape, block: int) -> None:
    channels, height, width = shape
    directions, images = Directions("coarse", shape), images_of(shape)
    found = directions.analyse(images).view(3, channels, height // block, width // block)
    for row, column in ((0, 0), (1, 2), (height // block - 1, width // block - 1)):
        piece = images[:, :, row * block : (row + 1) * block, column * block : (column + 1) * block]
        torch.testing.assert_close(found[:, :, row, column], piece.sum((2, 3)) / block, rtol=1e-5, atol=1e-5)
    one = torch.zeros(1, directions.dimensions)
    one[0, directions.dimensions - 2] = 3.0  # the last row of blocks, its last but one
    expected = torch.zeros(1, *shape)
    expected[0, -1, -block:, -2 * block : -block] = 3.0 / block
    torch.testing.assert_close(directions.synthesise(one), expected)


@pytest.mark.parametrize("shape", [(1, 9, 8), (1, 8, 9), (1, 24, 47), (1, 25, 48)])
def test_coarse_blocks_must_fit_both_sides_and_no_other_basis_minds(shape: Shape) -> None:
    block = 2 if shape[1] < 10 else 3
    with pytest.raises(InputError) as told:
        Directions("coarse", shape)
    assert str(told.value) == f"`rge.basis=coarse` needs sides divisible by {block}, got {shape[1]}x{shape[2]}"
    for kind in ("pixels", "dct", "coordinates"):
        assert Directions(kind, shape).draw(2, torch.Generator()).shape == (2, *shape)


@pytest.mark.parametrize("kind", ["pixels", "coarse", "dct"])
def test_a_direction_has_fair_signs_as_coefficients_and_is_one_a_pixel_in_root_mean_square(kind: str) -> None:
    directions = Directions(kind, (2, 8, 12))
    drawn = directions.draw(7, torch.Generator().manual_seed(3))
    signs = torch.randint(0, 2, (7, directions.dimensions), generator=torch.Generator().manual_seed(3)) * 2.0 - 1.0
    torch.testing.assert_close(drawn.square().mean((1, 2, 3)), torch.ones(7), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(directions.analyse(drawn), signs * math.sqrt(192 / directions.dimensions), rtol=1e-5, atol=1e-5)


def test_a_coordinate_is_one_pixel_by_a_fair_choice_and_a_fair_sign() -> None:
    drawn = Directions("coordinates", (2, 3, 5)).draw(3000, torch.Generator().manual_seed(3)).flatten(1)
    rng = torch.Generator().manual_seed(3)
    places, signs = torch.randint(0, 30, (3000, 1), generator=rng), torch.randint(0, 2, (3000, 1), generator=rng) * 2.0 - 1.0
    assert torch.equal(drawn.nonzero()[:, 1:], places)
    assert torch.equal(drawn.sum(1, keepdim=True), signs)
    # each of 60 outcomes 50 times, sd 7: a false alarm, 6 sd away, has probability 60 * 2e-9
    counts = torch.bincount(2 * places[:, 0] + (signs[:, 0] > 0), minlength=60)
    assert (counts - 50).abs().max() < 42


def test_scipys_cosines_are_the_orthonormal_ones_of_the_docstring() -> None:
    rows = dct(np.eye(12), axis=0, norm="ortho")
    np.testing.assert_allclose(rows[3], np.cos(math.pi / 12 * (np.arange(12) + 0.5) * 3) * math.sqrt(2 / 12))


def test_the_memory_learns_what_a_pair_told_and_shares_three_tenths_of_the_mean() -> None:
    """Two images of three move along axes of their own; the third knows what is shared. Then one of them along another axis."""
    memory = JacobianMemory(Problem(3, 2, False, 0), 4)
    moved = torch.tensor([[0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.25, 0.0]])
    change = torch.tensor([[[1.0, 3.0], [0.5, -2.0]], [[2.0, 5.0], [1.5, -4.0]]])  # of two terms, means (1.5, 4), (1, -3)
    memory.correct(torch.tensor([2, 0]), moved, change)
    first = np.zeros((3, 2, 4))  # U = y d^T / |d|^2
    first[2, :, 0], first[0, :, 2] = [3.0, 8.0], [4.0, -12.0]
    shared = 0.3 * first.sum(0) / 2
    expected = first + np.array([[[0.0]], [[1.0]], [[0.0]]]) * shared
    one, other = torch.tensor([[[1.0, 0.0]] * 3] * 2), torch.tensor([[[0.0, 0.5]] * 3] * 2)  # summed over two terms
    for sensitivity, row, scale in ((one, 0, 2.0), (other, 1, 1.0)):
        found = memory.pull_back(torch.arange(3), sensitivity)
        torch.testing.assert_close(found, torch.from_numpy(scale * expected[:, row]).float())
    step = torch.tensor([[0.2, 0.1, 0.0, 0.3]])
    memory.correct(torch.tensor([1]), step, torch.tensor([[[0.7, -0.4]]]))
    missing = np.array([0.7, -0.4]) - expected[1] @ step[0].double().numpy()
    update = np.outer(missing, step[0]) / 0.14
    np.testing.assert_allclose(memory.state_dict()["shared"], shared + 0.3 * update, rtol=1e-5)
    np.testing.assert_allclose(memory.pull_back(torch.tensor([1]), one[:, :1])[0], 2.0 * (expected[1] + update)[0], rtol=1e-5)
    np.testing.assert_allclose(
        memory.pull_back(torch.tensor([2]), one[:, :1])[0], 2.0 * (expected[2] + 0.3 * update)[0], rtol=1e-5
    )


def test_an_image_that_did_not_move_teaches_nothing() -> None:
    memory = JacobianMemory(Problem(2, 3, False, 0), 5)
    memory.correct(torch.tensor([1]), torch.zeros(1, 5), torch.tensor([[[0.5, 0.25, -3.0]]]))
    assert not any(value.any() for value in memory.state_dict().values())


def test_the_state_of_a_loaded_memory_is_its_own() -> None:
    memory, other = (JacobianMemory(Problem(2, 3, False, 0), 5) for _ in range(2))
    memory.correct(torch.tensor([1]), torch.ones(1, 5), torch.tensor([[[0.5, 0.25, -3.0]]]))
    kept = {name: value.clone() for name, value in memory.state_dict().items()}
    other.load_state_dict(memory.state_dict())
    memory.correct(torch.tensor([0, 1]), torch.ones(2, 5), torch.ones(1, 2, 3))
    for name, value in other.state_dict().items():
        assert torch.equal(value, kept[name])
        assert not torch.equal(value, memory.state_dict()[name])


def test_a_memory_takes_two_gibibytes_at_most() -> None:
    with torch.device("meta"):  # nothing is stored
        assert JacobianMemory(Problem(1 << 9, 1 << 6, False, 0), 1 << 14).state_dict()["own"].numel() == 1 << 29
        with pytest.raises(InputError) as told:
            JacobianMemory(Problem((1 << 29) + 1, 1, False, 0), 1)
        with pytest.raises(InputError) as further:
            JacobianMemory(Problem(1150, 64, False, 0), 1 << 14)
    assert "takes 2.0 GiB" in str(told.value)
    assert str(further.value) == (
        "one Jacobian for each of 1150 images takes 4.5 GiB, more than 2: "
        "choose `rge.basis=coarse`, fewer `images`, or `rge.broyden=False`"
    )
