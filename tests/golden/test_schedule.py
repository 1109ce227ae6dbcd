"""Learning rates at the start, in the middle and at the end; defaults that depend on the method; what a method is if it says no
more."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from backends.memory.config import Memory
from bbfuse.objective.step import Probe, Score, Step
from bbfuse.optimizers.backprop import Backprop, BackpropConfig
from bbfuse.optimizers.base import GradientEstimator, Optimizer, Problem, adam, linear_decay
from bbfuse.optimizers.fzoo import Fzoo, FzooConfig
from bbfuse.optimizers.nes import Nes, NesConfig
from bbfuse.optimizers.pgpe import Pgpe, PgpeConfig
from bbfuse.optimizers.rge import InputRge, Rge, RgeConfig
from bbfuse.optimizers.surrogate.guided import Guided, GuidedConfig
from tests.helpers.references.descent import PROBLEM, small_fuse, step_for

INPUTS, PARAMETERS = RgeConfig(), RgeConfig(space="parameters")
FALLING: dict[str, tuple[Any, Any, float]] = {
    "rge, inputs": (Rge.create, INPUTS, 5e-3), "rge, inputs, as given": (Rge.create, RgeConfig(lr=0.07), 0.07),
    "rge, inputs, no memory": (Rge.create, RgeConfig(broyden=False), 5e-3),
    "rge, parameters": (Rge.create, PARAMETERS, 1e-3),
    "rge, parameters, as given": (Rge.create, RgeConfig(space="parameters", lr=0.07), 0.07),
    "fzoo": (Fzoo, FzooConfig(), 3e-2), "fzoo, as given": (Fzoo, FzooConfig(lr=0.07), 0.07),
    "nes": (Nes, NesConfig(), 1e-2), "nes, as given": (Nes, NesConfig(lr=0.07), 0.07),
    "pgpe": (Pgpe, PgpeConfig(), 0.2), "pgpe, as given": (Pgpe, PgpeConfig(lr=0.07), 0.07),
    "backprop": (Backprop, BackpropConfig(), 3e-3), "backprop, as given": (Backprop, BackpropConfig(lr=0.07), 0.07),
}  # fmt: skip


@pytest.mark.parametrize("name", FALLING)
def test_the_learning_rate_falls_linearly_to_a_twentieth(name: str) -> None:
    make, config, lr = FALLING[name]
    fuse = small_fuse(torch.float32)
    method: GradientEstimator = make(config, PROBLEM, fuse)
    for number, share in ((0, 1.0), (3, 0.7625), (6, 0.525), (11, 0.12916666666666668), (12, 0.05)):
        assert method.learning_rate(number, 12) == linear_decay(lr, number, 12) == pytest.approx(lr * share, rel=1e-12)
        method.update(step_for(number, fuse), 12)
        assert [group["lr"] for group in method.optimizer.param_groups] == [pytest.approx(lr * share)]


def test_for_the_population_rge_in_inputs_learns_slower_unless_told() -> None:
    population = dataclasses.replace(PROBLEM, population=True)
    rates = [
        Rge.create(config, population, small_fuse()).learning_rate(0, 9) for config in (INPUTS, PARAMETERS, RgeConfig(lr=0.07))
    ]
    assert rates == [3e-3, 1e-3, 0.07]


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (INPUTS, [0.15, -0.15]), (RgeConfig(smoothing=0.4), [0.4, -0.4]), (RgeConfig(basis="coarse"), [0.15, -0.15]),
        (PARAMETERS, [0.01, -0.01]), (RgeConfig(space="parameters", smoothing=0.4, directions=2), [0.4, -0.4, 0.4, -0.4]),
    ],
)  # fmt: skip
def test_the_size_of_rges_probes_if_not_given_is_that_of_its_space(config: RgeConfig, sizes: list[float]) -> None:
    asked: list[Any] = []

    def scorer(step: Step, probes: Sequence[Probe]) -> list[Score | None]:
        asked.extend(probes)
        return [None for _ in probes]

    step = step_for(0, small_fuse(torch.float32))
    step.scorer = scorer
    Rge.create(config, PROBLEM, step.fuse).update(step, 9)
    assert [probe.size for probe in asked] == sizes
    assert [probe.number for probe in asked] == [place // 2 for place in range(len(sizes))]


def test_guided_has_the_memory_and_the_defaults_of_rge_in_inputs() -> None:
    made = [
        Guided.create(GuidedConfig(), PROBLEM, small_fuse()),
        *(InputRge(config, PROBLEM, small_fuse()) for config in (INPUTS, RgeConfig(broyden=False))),
    ]
    memories = [method.state_dict()["memory"] for method in made]
    assert memories[2] is None
    for memory in memories[:2]:
        assert {name: value.shape for name, value in memory.items()} == {"own": (9, 3, 192), "shared": (3, 192)}
        assert not any(value.any() for value in memory.values())
    assert [method.learning_rate(0, 9) for method in made] == [5e-3] * 3


def test_a_method_that_says_no_more_asks_every_step_needs_no_surrogate_and_sends_nothing_first() -> None:
    assert (
        Optimizer.query_interval,
        Optimizer.steps,
        Optimizer.images_before_training,
        Optimizer.simulated_target,
        Optimizer.trust,
    ) == (
        1,
        0,
        0,
        None,
        None,
    )
    problem = Problem(owned=7, classes=3, population=False, seed=1)
    assert (problem.memory, problem.surrogate) == (Memory(), None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.seed = 2  # type: ignore[misc]


def test_adam_has_the_papers_settings_and_no_rate_of_its_own() -> None:
    (group,) = adam(small_fuse()).param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.0, (0.9, 0.999), 1e-8, 0)
    assert len(group["params"]) == 2
