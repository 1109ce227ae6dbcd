"""Probes: which images they send, directions by name, and what is made once a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bbfuse.objective.step import Probe, Score, Step
from bbfuse.optimizers.directions import Directions
from bbfuse.optimizers.probes import (
    ParameterProbe,
    drawn,
    losses_of,
    losses_of_pairs,
    normal,
    ranked_pairs,
    signs,
    simultaneous_perturbation,
)
from bbfuse.optimizers.rge import InputProbe
from tests.helpers.references.descent import (
    BATCH,
    IMAGES,
    PARAMETERS,
    SHAPE,
    START,
    fair_signs,
    inputs,
    mixed,
    named,
    owned_in,
    small_fuse,
    step_for,
)


def step_of(number: int = 4, **extra: Any) -> Step:
    return step_for(number, small_fuse(), **extra)


def never() -> Tensor:
    raise AssertionError("it was to be prepared earlier")


def told(losses: Sequence[float | None]) -> Step:
    """A step whose probes have these losses."""
    step = step_of()

    def scorer(step: Step, probes: Sequence[Probe]) -> list[Score | None]:
        assert len(probes) == len(losses)
        return [None if loss is None else Score(loss, torch.zeros(BATCH), ()) for loss in losses]

    step.scorer = scorer
    return step


def test_directions_are_drawn_by_the_runs_seed_the_step_and_their_number() -> None:
    for number, place in ((4, 0), (4, 3), (7, 3)):
        step = step_of(number)
        assert signs(step, place).tolist() == fair_signs(named("probe", number, place), PARAMETERS).tolist()
        assert torch.equal(normal(step, place), torch.randn(PARAMETERS, generator=named("probe", number, place)))


def test_a_direction_is_drawn_once_a_step_and_each_kind_for_itself() -> None:
    step = step_of()
    assert drawn(step, signs, 2) is drawn(step, signs, 2)
    assert torch.equal(drawn(step, signs, 2), signs(step, 2))
    assert torch.equal(drawn(step, normal, 2), normal(step, 2))
    assert torch.equal(drawn(step, signs, 1), signs(step, 1))


def test_a_moved_probe_sends_what_the_fuse_makes_elsewhere() -> None:
    step = step_of()
    u, scale = normal(step, 3).double().numpy(), np.array([0.4, 1.3, 0.7, 2.1, 0.9, 1.6])
    for size, given in ((0.3, None), (-0.2, scale)):
        found = ParameterProbe(normal, 3, size, None if given is None else torch.from_numpy(given)).images(step)
        theta = START + size * u * (1.0 if given is None else given)
        expected = np.clip(mixed(theta, IMAGES[owned_in(4)]), -1.0, 1.0)
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(step.fuse.vector(), START)


def test_a_shifted_probe_sends_what_the_fuse_makes_moved_clipped_and_as_the_target_sees_it() -> None:
    directions = Directions("pixels", SHAPE)
    u = fair_signs(named("probe", 4, 5), BATCH, 192).reshape(BATCH, *SHAPE)
    for coarse in (False, True):
        step = step_of(coarse=coarse)
        found = InputProbe(directions, 5, -0.37).images(step)
        moved = np.clip(inputs(START, 4) - 0.37 * u, -1.0, 1.0)
        assert not found.requires_grad
        np.testing.assert_allclose(found, np.round(moved * 3) / 3 if coarse else moved, atol=1e-6)


def test_ahead_makes_what_will_be_needed_beside_the_score() -> None:
    step = step_of()
    ParameterProbe(signs, 3, 0.1).prepare(step)
    assert torch.equal(step.once((signs, 3), never), signs(step, 3))
    probe = InputProbe(Directions("pixels", SHAPE), 0, 0.1)
    probe.prepare(step)
    assert torch.equal(step.once(probe, never), probe.images(step))


def test_what_a_probe_tells_of_itself() -> None:
    """Only one in the inputs needs what every image earned. Two of the same numbers are two."""
    moved, shifted = (
        (ParameterProbe(signs, 3, 0.1), ParameterProbe(signs, 3, 0.1)),
        [InputProbe(Directions("pixels", SHAPE), 0, 0.1)] * 1,
    )
    assert moved[0].per_image is False
    assert shifted[0].per_image is True
    assert moved[0] != moved[1]
    assert shifted[0] != dataclasses.replace(shifted[0])
    for probe in (moved[0], shifted[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            probe.size = 0.2  # type: ignore[misc]


def test_lost_probes_have_no_loss_and_their_pairs_none() -> None:
    losses = [0.5, None, 0.7, 0.9, None, 0.4, None, None]
    assert losses_of(told(losses), [ParameterProbe(signs, 0, 0.1)] * 8) == losses
    assert losses_of_pairs(told(losses), signs, 4, 0.1) == [None, (0.7, 0.9), None, None]


def test_a_simultaneous_perturbation_divides_by_the_direction() -> None:
    def direction(step: Step, number: int) -> Tensor:
        return torch.tensor([0.5, -0.25, 4.0]) * (number + 3.0)

    found = simultaneous_perturbation(told([1.7, 0.5, None, 0.4, 0.3, 0.9]), direction, 3, 0.15)
    # slopes of 4 and -2, along multiples 3 and 5
    torch.testing.assert_close(found, (4.0 / 3.0 - 2.0 / 5.0) / 2.0 / torch.tensor([0.5, -0.25, 4.0]))
    assert simultaneous_perturbation(told([None, 0.5, 0.4, None]), direction, 2, 0.15) is None


def test_ranked_pairs_are_ranked_together_without_those_that_lost_a_side() -> None:
    step = told([0.7, 0.5, None, 0.1, 0.9, 0.6])
    found = ranked_pairs(step, signs, 3, 0.1)
    assert found is not None
    torch.testing.assert_close(found[0], torch.tensor([[1 / 6, -1 / 2], [1 / 2, -1 / 6]]))
    assert torch.equal(found[1], torch.stack([signs(step, 0), signs(step, 2)]))
    assert ranked_pairs(told([None, 0.5]), signs, 1, 0.1) is None


def test_pairs_are_probed_on_both_sides_with_their_scale() -> None:
    asked: list[ParameterProbe] = []

    def scorer(step: Step, probes: Sequence[Any]) -> list[Score | None]:
        asked.extend(probes)
        return [None for _ in probes]

    step, scale = step_of(), torch.rand(PARAMETERS)
    step.scorer = scorer
    ranked_pairs(step, normal, 2, 0.3, scale)
    assert [(probe.number, probe.size) for probe in asked] == [(0, 0.3), (0, -0.3), (1, 0.3), (1, -0.3)]
    assert all(probe.scale is scale and probe.direction is normal for probe in asked)
