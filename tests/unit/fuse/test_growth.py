"""The order of training: which stages there are, when the next one is due, what it is made of, and what is kept of it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import pytest
import torch

from backends.base import InputError
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import OPTIMIZERS, Problem
from bbfuse.optimizers.cma import Cma, CmaConfig
from bbfuse.optimizers.spsa import Spsa, SpsaConfig
from bbfuse.training.stages import Stage, Stages, no_longer_improves, stages
from tests.helpers.references.points import drawn, named

SHAPE = (3, 8, 8)
IMAGES = drawn(1, 6, *SHAPE).clamp(-1.0, 1.0)
PROBLEM = Problem(owned=6, classes=3, population=False, seed=31)
SETTINGS = SpsaConfig(c=0.017)
CONFIG = RunConfig(optimizer="spsa", spsa=SETTINGS, generator="Filters", chip_seed=0)
GROWING = dataclasses.replace(CONFIG, grow="Filter")


def begun(config: RunConfig, images: torch.Tensor = IMAGES) -> Stages:
    return Stages(config, PROBLEM, SHAPE, images)


def seed_of(stage: int) -> int:
    return named(PROBLEM.seed, "stage", stage).initial_seed()


def test_which_stages_there_are() -> None:
    warm_up = Stage("Mix", "cma", CmaConfig(subspace=100, sigma=0.05, population=None))
    filters, one = Stage("Filters", "spsa", SETTINGS), Stage("Filter", "spsa", SETTINGS)
    assert stages(CONFIG) == [filters]
    assert stages(GROWING) == [one, filters]
    assert stages(dataclasses.replace(CONFIG, warm_up=1)) == [warm_up, filters]
    assert stages(dataclasses.replace(GROWING, warm_up=700)) == [warm_up, one, filters]
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.optimizer = "rge"  # type: ignore[misc]
    with pytest.raises(InputError, match=r"^`grow` must be one of Conv1d, .*, UNetXS, or module:attribute, got Filtre$"):
        stages(dataclasses.replace(CONFIG, grow="Filtre"))


@pytest.mark.parametrize(
    ("losses", "window", "stopped"),
    [
        ([50.0, 50.0, 49.0, 49.0], 2, False),  # 2 % below
        ([50.0, 50.0, 49.0, 49.001], 2, True),
        ([30.0, 70.0, 97.0, 0.9], 2, False),
        ([30.0, 70.0, 98.0, 0.1], 2, True),
        ([1.0, 1.0, 50.0, 50.0, 49.0, 48.9], 2, False),  # the last two windows count
        ([99.0, 99.0, 50.0, 50.0, 50.0, 50.0], 2, True),
        ([50.0, 50.0, 50.0], 2, False),  # in mid window
        ([50.0, 50.0], 2, False),  # one window
        ([50.0, 49.5], 1, True),
        ([50.0], 1, False),
        ([50.0, 50.0, 50.0, 50.0, 50.0], 1, True),
        ([], 0, False),
        ([50.0, 50.0], 0, False),
        ([60.0, 50.0, 40.0, 60.0, 50.0, 37.0], 3, False),
        ([60.0, 50.0, 40.0, 60.0, 50.0, 37.1], 3, True),
    ],
)
def test_it_stops_paying_where_the_mean_is_not_two_percent_lower(losses: list[float], window: int, stopped: bool) -> None:
    assert no_longer_improves(losses, window) == stopped


def grown(config: RunConfig, losses: Sequence[float | None], warm_up: int = 0) -> list[tuple[int, str]]:
    """The steps before which a run with these losses goes on, and what its fuse is from then on."""
    order, found = begun(config), []
    for step, loss in enumerate(losses):
        before = order.grown_at_step
        if order.advance(step, len(losses), warm_up):
            found.append((step, order.fuse.name))
            assert order.begun == step
            assert order.state_dict()["losses"] == []
            assert before is None
        assert order.grown_at_step == (found[-1][0] if found and order.fuse.name.endswith("Filters") else None)
        order.observe(loss)
    return found


FALLING = [0.9**k for k in range(200)]


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        (FALLING[:100], 50),  # at the latest after half
        (FALLING[:101], 51),
        (FALLING[:7], 4),
        ([1.0] * 100, 20),  # two tenths that are alike
        ([1.0] * 109, 20),
        ([1.0] * 60, 12),
        ([1.0] * 9, 5),  # no tenth at all
        ([1.0] * 10, 2),
        ([0.9 ** min(k, 21) for k in range(100)], 40),  # the third tenth is 1.1 % above the fourth
        ([0.9 ** min(k, 22) for k in range(100)], 50),  # it is 3.5 % above it
        ([0.5], 1_000),
    ],
)
def test_it_grows_when_the_smaller_fuse_stops_paying_at_the_latest_after_half(losses: list[float], step: int) -> None:
    assert grown(GROWING, losses) == ([(step, "Filter+Filters")] if step < len(losses) else [])


def test_a_warm_up_has_its_steps_and_what_follows_shares_those_that_are_left() -> None:
    three = dataclasses.replace(GROWING, warm_up=900)
    assert grown(three, FALLING[:73], warm_up=13) == [(13, "Mix+Filter"), (43, "Mix+Filter+Filters")]
    assert grown(three, [1.0] * 73, warm_up=13) == [(13, "Mix+Filter"), (25, "Mix+Filter+Filters")]
    assert grown(dataclasses.replace(CONFIG, warm_up=900), [1.0] * 73, warm_up=13) == [(13, "Mix+Filters")]
    assert grown(CONFIG, [1.0] * 73) == []


def test_steps_without_a_loss_count_as_steps_and_say_nothing_of_what_pays() -> None:
    assert grown(GROWING, [None] * 60) == [(30, "Filter+Filters")]
    assert grown(GROWING, [None if step % 2 else 1.0 for step in range(60)]) == [
        (23, "Filter+Filters")
    ]  # 12 losses of two tenths


def test_losses_are_noted_as_long_as_there_is_a_stage_to_come() -> None:
    order = begun(GROWING)
    for loss in (2.5, None, 0.0):
        order.observe(loss)
    assert order.state_dict()["losses"] == [2.5, 0.0]
    last = begun(CONFIG)
    last.observe(2.5)
    assert last.state_dict()["losses"] == []
    assert not last.advance(5, 8, 0)


def test_each_stage_draws_from_streams_of_its_own() -> None:
    order = begun(dataclasses.replace(GROWING, warm_up=900))
    mix = Fuse("Mix", SHAPE, named(PROBLEM.seed, "fuse"))
    assert order.seed == PROBLEM.seed
    assert isinstance(order.optimizer, Cma)
    assert order.optimizer.queries_per_image == 11  # 4 + 3 ln 12
    assert torch.equal(order.fuse.vector(), mix.vector())
    assert order.advance(13, 73, 13)
    assert order.seed == seed_of(1)
    mix.grow("Filter", named(seed_of(1), "fuse"))
    assert torch.equal(order.fuse.vector(), mix.vector())
    assert isinstance(order.optimizer, Spsa)
    assert order.advance(43, 73, 13)
    assert order.seed == seed_of(2)
    mix.grow("Filters", named(seed_of(2), "fuse"))
    assert torch.equal(order.fuse.vector(), mix.vector())
    assert order.fuse.vector()[12 + 228 :].any()
    assert not order.advance(72, 73, 13)


def test_the_method_of_a_stage_is_given_its_settings_its_seed_and_the_rest_of_the_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    class Recording(Spsa):
        def __init__(self, config: SpsaConfig, problem: Problem, fuse: Fuse) -> None:
            made.append((config, problem, len(fuse.vector())))
            super().__init__(config, problem, fuse)

    monkeypatch.setitem(OPTIMIZERS._found, "spsa", Recording)
    order = begun(GROWING)
    assert order.advance(30, 60, 0)
    assert made == [(SETTINGS, PROBLEM, 228), (SETTINGS, dataclasses.replace(PROBLEM, seed=seed_of(1)), 228 + 883)]
    optimized = sum(p.numel() for group in order.optimizer.optimizer.param_groups for p in group["params"])  # type: ignore[attr-defined]
    assert optimized == 228 + 883


def test_what_is_added_is_calibrated_with_the_owned_images() -> None:
    order = begun(dataclasses.replace(GROWING, generator="ConvS"))
    twin = Fuse("Filter", SHAPE, named(PROBLEM.seed, "fuse"))
    assert order.advance(30, 60, 0)
    twin.grow("ConvS", named(seed_of(1), "fuse"))
    twin.calibrate(IMAGES)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in order.fuse.state_dict().items())
    alone, first = begun(dataclasses.replace(CONFIG, generator="ConvS")), Fuse("ConvS", SHAPE, named(PROBLEM.seed, "fuse"))
    first.calibrate(IMAGES)
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in alone.fuse.state_dict().items())


def test_it_begins_with_a_fuse_that_was_trained_before() -> None:
    trained = Fuse("ConvS", SHAPE, torch.Generator().manual_seed(1))
    trained.calibrate(IMAGES[:2])
    start = {name: value + 1 for name, value in trained.state_dict().items()}
    order = Stages(dataclasses.replace(CONFIG, generator="ConvS"), PROBLEM, SHAPE, IMAGES, start)
    assert all(torch.equal(value, start[name]) for name, value in order.fuse.state_dict().items())


def test_to_plan_with_there_is_a_method_for_each_stage_and_nothing_has_grown() -> None:
    order = begun(dataclasses.replace(GROWING, warm_up=900))
    before = order.fuse.vector().clone()
    methods = order.optimizers()
    assert [type(method) for method in methods] == [Cma, Spsa, Spsa]
    assert methods[0] is order.optimizer
    assert [sum(p.numel() for p in m.optimizer.param_groups[0]["params"]) for m in methods[1:]] == [240, 1123]  # type: ignore[attr-defined]
    assert order.fuse.name == "Mix"
    assert torch.equal(order.fuse.vector(), before)
    assert len(begun(CONFIG).optimizers()) == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"grow": "Filters"}, r"not from Filters to Filters \(883 to 883 parameters\): choose another"),
        ({"grow": "UNetXS"}, r"a fuse grows from small to large, not from UNetXS to Filters \(23635 to 883 parameters\)"),
        ({"grow": None, "warm_up": 5, "generator": "Mix"}, r"not from Mix to Mix \(12 to 12 parameters\)"),
        ({"warm_up": 5, "generator": "Filter"}, r"not from Filter to Filter \(228 to 228 parameters\)"),
        ({"generator": "Filtre"}, "^`generator` must be one of .*, got Filtre, did you mean Filter\\?$"),
    ],
)
def test_a_fuse_grows_from_small_to_large(changed: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        begun(dataclasses.replace(GROWING, **changed)).optimizers()  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [5, 18, 45, 60])
def test_restored_it_stands_where_it_stood(steps: int) -> None:
    config = dataclasses.replace(GROWING, warm_up=900)
    first, second = begun(config), begun(config)
    for step in range(steps):
        first.advance(step, 73, 13)
        first.fuse.assign(first.fuse.vector() + 0.01)
        first.observe(0.9**step)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for order in (first, second):
        assert order.begun == (0 if steps < 13 else 13 if steps < 43 else 43)
        assert order.fuse.name == ("Mix" if steps < 13 else "Mix+Filter" if steps < 43 else "Mix+Filter+Filters")
    assert torch.equal(first.fuse.vector(), second.fuse.vector())
    assert second.seed == first.seed
    assert second.state_dict()["losses"] == first.state_dict()["losses"]
    assert len(second.state_dict()["losses"]) == (steps if steps < 13 else steps - 13 if steps < 43 else 0)
    assert [first.advance(step, 73, 13) for step in range(steps, 73)] == [
        second.advance(step, 73, 13) for step in range(steps, 73)
    ]
    assert type(second.optimizer) is type(first.optimizer)
