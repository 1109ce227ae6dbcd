"""Queries by hand, when a run validates and checks the drift, and the size of its report."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig
from bbfuse.training import planning
from bbfuse.training.planning import Plan, Price, Queries

NOTHING = Price(Queries(), Queries())


def timetable(steps: int, validations: int = 0, watches: int = 0) -> Plan:
    queries = Queries()
    return Plan(steps, validations, 0, queries, NOTHING, True, 0, NOTHING, 1, queries, queries, queries, watches)


@pytest.mark.parametrize("limit", [None, 1, 50, 64, 100, 127, 128, 129, 1000])
def test_a_question_is_cut_into_requests_of_128_and_these_at_a_server_s_limit(limit: int | None) -> None:
    for images in (0, 1, 49, 50, 51, 127, 128, 129, 255, 256, 300):
        requests, left = 0, images
        while left:
            part = min(left, 128)
            left -= part
            while part > 0:
                part -= limit or 128
                requests += 1
        assert Queries.of(images, limit) == Queries(images, requests)
    assert Queries() == Queries(0, 0)


def test_queries_add_up_and_repeat() -> None:
    assert Queries(30, 4) + Queries(7, 2) == Queries(37, 6)
    assert Queries(30, 4) * 3 == Queries(90, 12)


@pytest.mark.parametrize(
    ("steps", "validations", "expected"),
    [
        (100, 0, []),
        (100, 1, [100]),
        (100, 2, [0, 100]),
        (100, 3, [0, 50, 100]),
        (100, 6, [0, 6, 12, 25, 50, 100]),  # halves are rounded to even
        (7, 4, [0, 2, 4, 7]),
        (3, 8, [0, 1, 2, 3]),
    ],
)
def test_validations_are_at_the_end_at_a_half_a_quarter_and_so_on_and_at_the_beginning(
    steps: int, validations: int, expected: list[int]
) -> None:
    made = timetable(steps, validations=validations)
    assert [step for step in range(steps + 2) if made.validates(step)] == expected


@pytest.mark.parametrize(
    ("steps", "watches", "expected"),
    [(100, 0, []), (100, 1, [100]), (100, 3, [33, 67, 100]), (9, 4, [2, 4, 7, 9]), (1, 4, [1]), (3, 5, [1, 2, 3])],
)
def test_watches_are_evenly_spread_and_end_after_the_last_step(steps: int, watches: int, expected: list[int]) -> None:
    made = timetable(steps, watches=watches)
    assert [step for step in range(steps + 2) if made.checks_drift(step)] == expected


def test_what_is_planned_cannot_be_changed() -> None:
    for made, name in ((Queries(3, 2), "images"), (NOTHING, "whole"), (timetable(9), "steps")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, name, 5)


@pytest.mark.parametrize(
    ("budget", "changed", "per_chip", "size"),
    [
        (30_000, {}, 50, (360, 10)),  # 2 * 360 * 11 + 500 = 8,420, less than a third
        (25_260, {}, 50, (360, 10)), (25_257, {}, 50, (359, 10)),  # a third is 8,420; 8,419
        (8_000, {}, 50, (110, 9)),  # 10 chips would have (2,666 - 500) / 22 = 98 images, 9 have (2,666 - 450) / 20 = 110
        (8_100, {}, 50, (100, 10)), (2_000, {}, 50, (154, 1)), (30, {}, 50, (10, 1)), (8_000, {"chips": 12}, 50, (79, 12)),
        (8_000, {"images": 77}, 50, (77, 10)), (8_000, {"images": 900}, 50, (360, 10)), (30, {"share": 1.0}, 50, (360, 10)),
        (8_000, {"share": 0.5}, 0, (181, 10)),
    ],
)  # fmt: skip
def test_the_report_takes_a_third_of_the_budget_at_most(
    budget: int, changed: dict[str, Any], per_chip: int, size: tuple[int, int]
) -> None:
    found = planning.report_size(RunConfig(budget=budget, report=ReportConfig(**changed)), 360, per_chip)
    assert (found.images, found.chips) == size
    whole = min(changed.get("images", 360), 360)
    chips = changed.get("chips", 10)
    assert found.whole == 2 * whole * (1 + chips) + chips * per_chip
