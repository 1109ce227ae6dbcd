"""A plan by hand: what is sent for what, and how many steps a budget allows."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backends.base import Chip, InputError
from backends.datasets.base import Dataset, Split
from backends.kinds.remote import RemoteConfig
from bbfuse import seeds
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.objective.eopm import EopmConfig
from bbfuse.querying.drift import DriftCheck
from bbfuse.training import planning
from bbfuse.training.evaluation import report_images
from bbfuse.training.planning import Plan, Price, Queries, ReportSize, objective_of


def split(images: int) -> Split:
    return Split(torch.zeros(images, 1, 2, 2), torch.zeros(images, dtype=torch.int64))


DATA = Dataset("some", 10, split(200), split(30), split(150))


def heads(asked_first: tuple[int, ...], images_per_chip: int = 0) -> Any:
    return SimpleNamespace(queries_before_training=asked_first, images_per_chip=images_per_chip)


def method(queries_per_image: int, **changed: Any) -> Any:
    return SimpleNamespace(
        queries_per_image=queries_per_image,
        **{"query_interval": 1, "steps": 0, "images_before_training": 0, "simulated_target": None, **changed},
    )


def plan(config: RunConfig, data: Dataset, found: Any, methods: Any, checks: DriftCheck, limit: int | None = None) -> Plan:
    chips = config.report.chips if config.chip_seed is None else 1
    images = min(config.report.images or len(data.test), len(data.test))
    size = ReportSize(images, chips, report_images(images, chips, found.images_per_chip))
    config = dataclasses.replace(config, report=dataclasses.replace(config.report, share=1.0))
    return planning.plan(config, data, objective_of(config), found, methods, checks, size, limit)


def is_nominal(config: RunConfig, step: int) -> bool:
    return objective_of(config).is_nominal(step)


def watch(times: int) -> DriftCheck:
    return DriftCheck(DATA.train.images, Chip(0.05, 3), times)


def drawn_numbers(seed: int, steps: int) -> list[float]:
    return [torch.rand((), generator=seeds.stream(seed, "term", step)).item() for step in range(steps)]


def test_a_kind_of_term_is_drawn_with_the_probability_of_its_weight() -> None:
    config = RunConfig(seed=5, eopm=EopmConfig(clean_weight=3.0, perturbed_weight=4.5))
    drawn = drawn_numbers(5, 2000)
    found = [is_nominal(config, step) for step in range(2000)]
    assert found == [number < 0.4 for number in drawn]
    assert abs(sum(found) / 2000 - 0.4) < 5 * (0.24 / 2000) ** 0.5  # error probability below 6e-7
    edge = drawn[0]  # a number that is drawn in [0, 1) lies below a probability as often as this says, if equal does not count
    assert not is_nominal(dataclasses.replace(config, eopm=EopmConfig(clean_weight=edge, perturbed_weight=1.0 - edge)), 0)
    assert not any(is_nominal(RunConfig(seed=5, chip_seed=3), step) for step in range(99))  # one chip: weight 0
    everything = EopmConfig(clean_weight=3.0, perturbed_weight=0.1, terms="all")
    assert not any(is_nominal(RunConfig(seed=5, eopm=everything), step) for step in range(99))
    share = sum(is_nominal(RunConfig(seed=5), step) for step in range(2000))
    assert share == sum(number < 1 / 6 for number in drawn)  # the population's default: 1 to 5


def test_steps_cost_by_what_they_draw() -> None:
    config = RunConfig(seed=5, eopm=EopmConfig(clean_weight=3.0, perturbed_weight=4.5))
    nominal = sum(number < 0.4 for number in drawn_numbers(5, 60)[7:60:3])
    found = Price(Queries(100, 9), Queries(40, 2)).of(objective_of(config), range(7, 60, 3))
    assert 0 < nominal < 18
    assert found == Queries(100 * (18 - nominal) + 40 * nominal, 9 * (18 - nominal) + 2 * nominal)


ONE_CHIP = RunConfig(
    budget=10_000, chip_seed=3, batch=13, backend="remote", remote=RemoteConfig(reserve=0.07),
    validation=ValidationConfig(images=40, times=3),
)  # fmt: skip


def test_one_chip_by_hand() -> None:
    made = plan(ONE_CHIP, DATA, heads((70,)), [method(6, images_before_training=35)], watch(4))
    step = Queries(6 * 13, 6)
    # 10,000 - 105 before - 6 watches of 16 - 3 validations of 30 - report of 600 - reserve of 700 - one request of 128 = 8,281
    assert made == Plan(
        steps=106, validations=3, training_limit=10_000 - 600 - 42, before_training=Queries(105, 2), step=Price(step, step),
        exact=True,
        warm_up_steps=0, warm_up_step=Price(step, step), interval=1, validation=Queries(30, 1), report=Queries(600, 8),
        drift_check=Queries(16, 2), drift_checks=4,
    )  # fmt: skip
    assert made.sent(objective_of(ONE_CHIP)) == {
        "watch": Queries(96, 12), "warm_up": Queries(105, 2), "training": Queries(106 * 78, 106 * 6),
        "validation": Queries(90, 3), "report": Queries(600, 8),
    }  # fmt: skip
    for budget, steps in ((9_985, 106), (9_984, 105)):  # 78 times 106 are left, to the last image
        assert (
            plan(
                dataclasses.replace(ONE_CHIP, budget=budget), DATA, heads((70,)), [method(6, images_before_training=35)], watch(4)
            ).steps
            == steps
        )
    bare = plan(ONE_CHIP, DATA, heads(()), [method(6)], watch(0))
    assert (bare.drift_check, bare.drift_checks, bare.sent(objective_of(ONE_CHIP))["watch"]) == (Queries(), 0, Queries())
    assert bare.steps == (8_281 + 105 + 96) // 78


POPULATION = RunConfig(
    budget=40_000, batch=260, labels="target", seed=5, eopm=EopmConfig(chips=3, perturbed_weight=2.0), warm_up=10_000,
    validation=ValidationConfig(images=20, times=2), report=ReportConfig(chips=4),
)  # fmt: skip


def test_a_population_by_hand() -> None:
    methods = [method(5, images_before_training=35), method(2)]
    made = plan(POPULATION, DATA, heads((60, 60), 60), methods, watch(0), limit=50)
    # a batch of 200, all that is owned: 128 in 3 parts and 72 in 2; a head's 60 in 2
    whole, nominal = Queries(2 * 200 * 3 + 3 * 60, 2 * 5 * 3 + 3 * 2), Queries(2 * 200, 2 * 5)
    first = Price(Queries(5 * 200 * 3 + 3 * 60, 5 * 5 * 3 + 3 * 2), Queries(5 * 200, 5 * 5))
    warm_up = Queries(200 + 20 + 60 + 60 + 35, 5 + 1 + 2 + 2 + 1)
    kept = 2 * 150 * 5 + 4 * 60
    free = 40_000 - 375 - 3 * 3_180 - 2 * (20 + 60) - kept - 128
    assert made == Plan(
        steps=3 + free // 1_380, validations=2, training_limit=40_000 - kept, before_training=warm_up, step=Price(whole, nominal),
        exact=True, warm_up_steps=3, warm_up_step=first, interval=1, validation=Queries(80, 3),
        report=Queries(kept, 2 * 5 * (3 + 1) + 4 * 2), drift_check=Queries(), drift_checks=0,
    )  # fmt: skip
    drawn = drawn_numbers(5, made.steps)
    count = [sum(number < 1 / 3 for number in part) for part in (drawn[:3], drawn[3:])]
    rest = made.steps - 3
    assert made.sent(objective_of(POPULATION))["training"] == (
        first.whole * (3 - count[0]) + first.nominal * count[0] + whole * (rest - count[1]) + nominal * count[1]
    )
    assert made.sent(objective_of(POPULATION))["validation"] == Queries(160, 6)
    everything = dataclasses.replace(POPULATION, eopm=dataclasses.replace(POPULATION.eopm, terms="all"))
    price = plan(everything, DATA, heads((60, 60), 60), methods, watch(0), limit=50).step.whole
    assert price == Queries(2 * 200 * 4 + 3 * 60, 2 * 5 * 4 + 3 * 2)


def test_the_dearest_stage_after_the_warm_up_sets_the_steps_and_a_plan_of_unlike_stages_is_not_exact() -> None:
    config = dataclasses.replace(ONE_CHIP, backend="local", remote=RemoteConfig(), warm_up=100)
    alike = [plan(config, DATA, heads(()), [method(first), method(2), method(2)], watch(0)) for first in (7, 2)]
    assert [(made.exact, made.step.whole.images, made.warm_up_steps) for made in alike] == [(True, 26, 1), (True, 26, 3)]
    for order in ((2, 3), (3, 2)):
        unlike = plan(config, DATA, heads(()), [method(7), *map(method, order)], watch(0))
        assert (unlike.exact, unlike.step.whole.images) == (False, 39)
    without = plan(dataclasses.replace(config, warm_up=0), DATA, heads(()), [method(2), method(3)], watch(0))
    assert (without.exact, without.step.whole.images, without.warm_up_steps) == (False, 39, 0)
    with pytest.raises(InputError, match="`warm_up=90` does not allow one step of the warm-up: give at least 91, or 0"):
        plan(dataclasses.replace(config, warm_up=90), DATA, heads(()), [method(7), method(2)], watch(0))
    assert plan(dataclasses.replace(config, warm_up=91), DATA, heads(()), [method(7), method(2)], watch(0)).warm_up_steps == 1


def test_a_method_that_asks_every_few_steps_has_so_many_times_the_steps_and_asks_in_the_first_one() -> None:
    made = plan(ONE_CHIP, DATA, heads(()), [method(1, query_interval=4)], watch(0))
    asking = (10_000 - 90 - 600 - 700 - 128) // 13
    assert (made.steps, made.interval) == (4 * asking, 4)
    assert made.sent(objective_of(ONE_CHIP))["training"] == Queries(13 * asking, asking)
    mixed = plan(
        dataclasses.replace(ONE_CHIP, warm_up=40),
        DATA,
        heads(()),
        [method(3, query_interval=2), method(1, query_interval=4)],
        watch(0),
    )
    assert (mixed.steps, mixed.interval) == (1 + 4 * ((10_000 - 90 - 600 - 700 - 128 - 39) // 13), 4)


def test_a_method_with_a_model_asks_one_term_at_nominal_voltage_and_calibrates_no_chip() -> None:
    made = plan(POPULATION, DATA, heads((60,), 60), [method(5), method(2, simulated_target=lambda: None)], watch(0))
    assert made.step == Price(Queries(400, 4), Queries(400, 4))


def test_a_method_that_asks_nothing_takes_its_own_number_of_steps_and_needs_only_what_all_else_costs() -> None:
    config = dataclasses.replace(ONE_CHIP, backend="local", remote=RemoteConfig(), budget=90 + 600 + 128)
    made = plan(config, DATA, heads(()), [method(0, steps=19)], watch(0))
    assert made.steps == 19
    assert made.sent(objective_of(config))["training"] == Queries()
    with pytest.raises(
        InputError, match=r"`budget=817` .* 818 images go to all but the training, 0 to a step; give at least 818"
    ):
        plan(dataclasses.replace(config, budget=817), DATA, heads(()), [method(0, steps=19)], watch(0))


@pytest.mark.parametrize("share", [0.0, 0.07, 0.3])
def test_the_budget_that_is_named_as_the_least_allows_one_step_and_one_less_does_not(share: float) -> None:
    config = dataclasses.replace(ONE_CHIP, remote=RemoteConfig(reserve=share))
    least = next(budget for budget in range(2000) if budget - int(share * budget) >= 90 + 600 + 128 + 78)
    for budget in (1, 700, least - 1):
        reserve = int(share * budget)
        retries = f", {reserve} of them for retries (`remote.reserve`)" if reserve else ""
        with pytest.raises(InputError) as error:
            plan(dataclasses.replace(config, budget=budget), DATA, heads(()), [method(6)], watch(0))
        assert str(error.value) == (
            f"`budget={budget}` does not allow one step: {818 + reserve} images go to all but the training{retries}, 78 to a "
            f"step; give at least {least}"
        )
    assert plan(dataclasses.replace(config, budget=least), DATA, heads(()), [method(6)], watch(0)).steps == 1


@pytest.mark.parametrize(("chip_seed", "head"), [(None, 60), (3, 0)])
def test_the_least_budget_with_a_share_for_the_report_is_enough(chip_seed: int | None, head: int) -> None:
    for step in (1, 6):
        config = RunConfig(budget=50, batch=13, chip_seed=chip_seed, validation=ValidationConfig(images=40, times=2))

        def planned(budget: int, config: RunConfig = config, step: int = step) -> Plan:
            config = dataclasses.replace(config, budget=budget)
            size = planning.report_size(config, len(DATA.test), head)
            return planning.plan(config, DATA, objective_of(config), heads((), head), [method(step)], watch(0), size)

        with pytest.raises(InputError) as error:
            planned(50)
        least = int(str(error.value).split()[-1])
        assert planned(least).steps >= 1
