"""What searchers share: a random subspace, the points in it, and what a score is asked for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.ask_and_tell import AskAndTell, PointProbe, Space, Subspace
from tests.helpers.references.points import drawn, named, small_fuse, step_for


def test_the_basis_is_normal_with_variance_one_in_m() -> None:
    """With 400 x 60 numbers the mean square is within 6 standard errors, 6 sqrt(2 / 24000), of 1/m: error probability 2e-9."""
    basis = Subspace(400, 60, 9).basis
    torch.testing.assert_close(basis, torch.randn(400, 60, generator=named(9, "subspace")) * (1.0 / 60) ** 0.5)
    assert basis.square().mean().item() * 60 == pytest.approx(1.0, abs=6 * (2 / 24_000) ** 0.5)
    assert not torch.equal(basis, Subspace(400, 60, 10).basis)


def test_one_basis_is_held_at_a_time() -> None:
    first = Subspace(7, 3, 5).basis
    assert Subspace(7, 3, 5).basis is first
    other = Subspace(7, 3, 6).basis
    assert Subspace(7, 3, 6).basis is other
    assert Subspace(7, 3, 5).basis is not first
    assert torch.equal(Subspace(7, 3, 5).basis, first)


def test_a_point_is_the_origin_and_its_coordinates_times_the_basis() -> None:
    origin, coordinates, subspace = drawn(1, 7), drawn(2, 4, 3), Subspace(7, 3, 5)
    fuse = small_fuse()
    step = step_for(0, fuse)
    for number in range(4):
        by_hand = [
            origin[row].item()
            + sum(subspace.basis[row, column].item() * coordinates[number, column].item() for column in range(3))
            for row in range(7)
        ]
        for point in (
            Space(origin, coordinates, subspace).point(number),
            Space(origin, coordinates, subspace).point(number, step),
        ):
            torch.testing.assert_close(point, torch.tensor(by_hand))
    whole = drawn(3, 4, 7)
    assert torch.equal(Space(origin, whole, None).point(2), origin + whole[2])


def test_the_points_of_a_step_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    points = Space._points
    monkeypatch.setattr(Space, "_points", lambda self: calls.append(self) or points(self))
    space, other = (Space(drawn(1, 26), drawn(number, 4, 3), Subspace(26, 3, 5)) for number in (2, 3))
    step = step_for(0, small_fuse())
    for number in range(4):
        PointProbe(space, number).images(step)
    assert calls == [space]
    PointProbe(other, 1).images(step)
    assert calls == [space, other]


def test_what_a_point_makes_of_the_images_is_what_the_fuse_would_make_there() -> None:
    fuse = small_fuse()
    before, step = fuse.vector(), step_for(0, fuse)
    space = Space(before, 0.1 * drawn(4, 3, 26), None)
    made = PointProbe(space, 2).images(step)
    assert torch.equal(fuse.vector(), before)
    fuse.assign(before + 0.1 * drawn(4, 3, 26)[2])
    torch.testing.assert_close(made, fuse(step.images))


def test_a_point_is_asked_for_its_loss_alone() -> None:
    assert PointProbe.per_image is False


@pytest.mark.parametrize("subspace", [Subspace(7, 3, 5), None], ids=["subspace", "whole"])
def test_what_describes_a_point_does_not_change_and_is_equal_to_itself_alone(subspace: Subspace | None) -> None:
    space = Space(drawn(1, 7), drawn(2, 4, 3), subspace)
    found = PointProbe(space, 1)
    for thing, name in ((space, "origin"), (found, "number"), (Subspace(7, 3, 5), "seed")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, 2)
    assert found != PointProbe(space, 1)
    assert (space == Space(space.origin, space.coordinates, subspace)) is False
    assert Subspace(7, 3, 5) == Subspace(7, 3, 5)


@pytest.mark.parametrize(
    ("subspace", "points", "dimensions", "asked"),
    [
        (None, None, 26, 13),  # 4 + 3 * 3.258
        (2, None, 2, 6),  # 4 + 3 * 0.693
        (3, None, 3, 7),  # 4 + 3 * 1.0986
        (25, None, 25, 13),
        (26, None, 26, 13),
        (27, None, 26, 13),
        (25, 3, 25, 3),
        (None, 1, 26, 1),
    ],
)
def test_dimensions_and_points_a_step(subspace: int | None, points: int | None, dimensions: int, asked: int) -> None:
    searcher = AskAndTell(small_fuse(), subspace, 0, points)
    assert (searcher.dimensions, searcher.queries_per_image) == (dimensions, asked)


def test_a_hundred_dimensions_take_seventeen_points() -> None:
    assert AskAndTell(Fuse("Filters", (1, 8, 8), torch.Generator()), 100, 0, None).queries_per_image == 17  # 4 + 3 * 4.605
