"""The simulated step against a schedule worked out by hand, the lines through what was measured, and the rows."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments import saturation
from experiments.saturation import Costs, Simulated
from tests.helpers.studies.drawn import cells, committed, figures_of, headers, points, shown_as_a_program

COSTS = Costs(1000, step=8.0, probe=0.5, compute=3.0)


@pytest.mark.parametrize(
    ("workers", "probes", "cores", "answer", "milliseconds"),
    [
        (1, 6, None, 7.0, 8.0 + 0.25 + 6 * 10.0 + 0.25),  # the probes follow one another, half a probe's time before and after
        (1, 1, None, 7.0, 8.0 + 0.25 + 10.0 + 0.25),
        # handed out at 8.25, 8.5, 8.75, 9: the first two of both are answered at 18.25 and 18.5, the others at 28.25, 28.5
        (2, 4, None, 7.0, 28.5 + 0.25),
        # one core: computed at 11.25, 14.25, answered at 18.25, 21.25; both begin their second then
        (2, 4, 1, 7.0, 31.25 + 0.25),
        (3, 3, None, 90.0, 8.75 + 93.0 + 0.25),
        # with nothing to wait for two workers take turns on one core: four probes one after the other
        (2, 4, 1, 0.0, 8.25 + 4 * 3.0 + 0.25),
        # five probes of two workers: two, two and one; the fifth is handed to the first that is free
        (2, 5, None, 7.0, 38.25 + 0.25),
    ],
)
def test_a_step_takes_what_its_schedule_takes(
    workers: int, probes: int, cores: int | None, answer: float, milliseconds: float
) -> None:
    step = saturation.simulated(COSTS, answer, workers, probes, cores)
    assert step.milliseconds == pytest.approx(milliseconds)
    assert step.busy == pytest.approx((8.0 + 0.5 * probes) / milliseconds)


def test_the_driver_never_waits_where_there_are_workers_enough() -> None:
    many = saturation.simulated(COSTS, 7.0, workers=1000, probes=4000)
    assert (many.milliseconds, many.busy) == (pytest.approx(8.0 + 4000 * 0.5), pytest.approx(1.0))


def test_costs_and_steps_stay_what_they_are() -> None:
    assert all(vars(kind)["__dataclass_params__"].frozen for kind in (Costs, Simulated))


def test_four_workers_on_one_core_are_as_one() -> None:
    one_core = saturation.simulated(COSTS, 0.0, workers=4, probes=40, cores=1)
    assert one_core.milliseconds == pytest.approx(8.0 + 0.5 + 40 * 3.0)
    for cores in (2, 5):  # no more than there are workers
        assert saturation.simulated(COSTS, 7.0, 2, 40, cores) == saturation.simulated(COSTS, 7.0, 2, 40)


@pytest.mark.parametrize("answer", [0.0, 7.0, 90.0])
def test_no_step_is_shorter_than_the_drivers_work_or_its_workers(answer: float) -> None:
    for workers in (1, 2, 5, 16, 61):
        for probes in (1, 7, 64, 500):
            step = saturation.simulated(COSTS, answer, workers, probes)
            assert step.milliseconds >= 8.0 + probes * 0.5 - 1e-9
            assert step.milliseconds >= 8.0 + -(-probes // workers) * (3.0 + answer)
            assert 0.0 < step.busy <= 1.0 + 1e-9


def test_the_driver_saturates_where_its_time_for_the_probes_is_that_of_the_workers() -> None:
    # w workers have four probes each: 8 + 4 w 0.5 = 4 (3 + 7)
    assert saturation.saturation(COSTS, 7.0) == pytest.approx((40 - 8) / 2)
    assert saturation.saturation(COSTS, 0.0) == pytest.approx(2.0)
    assert saturation.saturation(dataclasses.replace(COSTS, step=11.5), 0.0) == 1.0  # a quarter of one


def test_a_probe_computes_what_is_left_of_a_step_on_one_worker() -> None:
    for answer in (0.0, 7.0):
        alone = saturation.simulated(COSTS, answer, 1, 6)
        assert saturation.computing(alone.milliseconds, 6, 8.0, 0.5, answer) == pytest.approx(3.0)
    assert saturation.computing(20.0, 4, 8.0, 0.5, 7.0) == 0.0
    assert saturation.computing(40.9, 4, 8.0, 0.5, 7.0) == pytest.approx(1.1)


def measured_points() -> list[dict[str, Any]]:
    """Driver: 3 + 0.25 p at 100 parameters, -4 + 0.5 p at 500 (a step of its own costs nothing there)."""
    return [
        {"parameters": 500, "probes": 64, "driver_ms": 28.0, "step_ms": 700.0},
        {"parameters": 100, "probes": 16, "driver_ms": 7.0, "step_ms": 51.25},
        {"parameters": 500, "probes": 16, "driver_ms": 4.0, "step_ms": 80.5},
        {"parameters": 100, "probes": 64, "driver_ms": 19.0, "step_ms": 99.0},
    ]


def test_costs_are_on_straight_lines_through_what_was_measured() -> None:
    found = measured_points()
    small, large = saturation.costs_of(found, 100), saturation.costs_of(found, 500)
    assert dataclasses.astuple(small) == pytest.approx((100, 3.0, 0.25, 3.0))  # (51.25 - 3 - 0.25) / 16
    assert dataclasses.astuple(large) == pytest.approx((500, 0.0, 0.5, 5.0))
    assert dataclasses.astuple(saturation.costs_of(found, 200)) == pytest.approx((200, 2.25, 0.3125, 3.5))
    assert dataclasses.astuple(saturation.costs_of(found, 700)) == pytest.approx((700, 0.0, 0.625, 6.0))


def test_rows_are_of_a_cluster_with_four_probes_a_worker_and_behind_them_of_what_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaling = [
        {"case": "remote", "workers": 16, "steps_per_second": 4.0}, {"case": "remote", "workers": 1, "steps_per_second": 0.25},
        {"case": "peer, 121,195 parameters", "workers": 1, "steps_per_second": 12.5},
        {"case": "peer, 121,195 parameters", "workers": 2, "steps_per_second": 16.0},
    ]  # fmt: skip
    seen: list[tuple[Any, ...]] = []

    def simulated(costs: Costs, answer: float, workers: int, probes: int, cores: int | None) -> Simulated:
        seen.append((costs, answer, workers, probes, cores))
        return Simulated(50.0 * workers, 0.3)

    monkeypatch.setattr(saturation, "simulated", simulated)
    monkeypatch.setattr(saturation, "rows_of", lambda name: scaling if name == "scaling" else [])
    found = measured_points()
    rows = saturation.rows_from(found)
    workers = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    cluster = [(size, answer, count) for size in (100, 500) for answer in (10, 50, 500) for count in workers]
    assert [(row["parameters"], row["answer_ms"], row["workers"]) for row in rows[:66]] == cluster
    assert all(row["probes"] == 4 * row["workers"] and row["case"] == "cluster" for row in rows[:66])
    assert [call[0] for call in seen[:66]] == [saturation.costs_of(found, size) for size, _, _ in cluster]
    assert {call[4] for call in seen[:66]} == {None}
    assert [row["saturates_at"] for row in rows[:66]] == [
        saturation.saturation(saturation.costs_of(found, size), answer) for size, answer, _ in cluster
    ]
    assert {(row["measured"], row["relative_error"]) for row in rows[:66]} == {(None, None)}
    checks, calls = rows[66:], seen[66:]
    assert [(row["answer_ms"], row["workers"], row["probes"], row["measured"]) for row in checks] == [
        (50, 16, 64, 4.0), (50, 1, 64, 0.25), (0, 1, 16, 12.5), (0, 2, 16, 16.0)
    ]  # fmt: skip
    assert [row["parameters"] for row in checks] == [8320, 8320, 121_195, 121_195]
    assert [row["steps_per_second"] for row in checks] == pytest.approx([1.25, 20.0, 20.0, 10.0])
    assert [row["relative_error"] for row in checks] == pytest.approx([1.25 / 4 - 1, 79.0, 0.6, -0.375])
    assert all(row["driver_busy"] == 0.3 for row in rows)
    assert {call[4] for call in calls} == {2}
    plain = saturation.costs_of(found, 8320)
    assert calls[0][0] == plain  # no measured step on one worker yet
    assert calls[1][0].compute == pytest.approx((4000 - plain.step - plain.probe) / 64 - 50)
    large = saturation.costs_of(found, 121_195)
    assert calls[2][0].compute == calls[3][0].compute == pytest.approx(max(0.0, (80 - large.step - large.probe) / 16))


def test_what_is_measured_is_the_median_of_the_steps_after_the_first_three(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"thread": 0.0, "whole": 0.0}

    class Work:
        def __init__(self, name: str, workers: int, url: str | None, stack: ExitStack) -> None:
            assert (workers, url) == (1, None)
            self.parameters = 7 * len(name)

        def use(self, pairs: int) -> None:
            self.probes = 2 * pairs

        def step(self, number: int) -> None:
            slow = 1.0 if number < 3 else 0.001 * (1 + (number % 5) ** 2)
            clock["thread"] += slow * self.probes
            clock["whole"] += 3 * slow * self.probes + (0.5 if number == 17 else 0)

    monkeypatch.setattr(saturation, "Work", Work)
    monkeypatch.setattr(saturation, "PEERS", {"one": 0, "another": 0})
    monkeypatch.setattr(
        saturation, "time", SimpleNamespace(thread_time=lambda: clock["thread"], perf_counter=lambda: clock["whole"])
    )
    found = saturation.measured()
    # fifteen steps: 3 to 17 have three times each of 1, 2, 5, 10 and 17 ms a probe
    assert [(point["parameters"], point["probes"]) for point in found] == [(21, 16), (21, 64), (49, 16), (49, 64)]
    assert [point["driver_ms"] for point in found] == pytest.approx([80.0, 320.0, 80.0, 320.0])
    assert [point["step_ms"] for point in found] == pytest.approx([240.0, 960.0, 240.0, 960.0])
    assert torch.get_num_threads() == 1


def row(size: int, answer: int, workers: int, **other: Any) -> dict[str, Any]:
    found = {"case": "cluster", "parameters": size, "answer_ms": answer, "workers": workers, "probes": 4 * workers + 1}
    return {
        **found, "steps_per_second": 2.345 + workers + size / 1000 + answer, "driver_busy": 0.9, "saturates_at": 1234.5 + size,
        "measured": None, "relative_error": None, **other,
    }  # fmt: skip


ROWS = [row(size, answer, workers) for size in (7000, 300) for answer in (10, 50, 500) for workers in (1, 2, 16, 256, 1024)] + [
    row(7000, 50, 2, case="remote", measured=2.0, relative_error=0.97), row(300, 0, 3, measured=2.0, relative_error=-0.0849)
]  # fmt: skip


def test_the_table_shows_three_sizes_of_the_cluster_and_all_that_was_measured() -> None:
    table = saturation._table(ROWS)
    assert len(headers(table)) == 9
    shown = cells(table)
    assert len(shown) == 2 * 3 * 3 + 2
    assert [line[3] for line in shown[:3]] == ["1", "16", "256"]
    assert shown[0] == ["cluster", "7,000", "10", "1", "20.34", "90 %", "8,234", "", ""]
    assert shown[-2] == ["remote", "7,000", "50", "2", "61.34", "90 %", "8,234", "2.00", "+97 %"]
    assert shown[-1][-2:] == ["2.00", "-8 %"]


def test_probes_a_second_are_drawn_by_size_and_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = figures_of(monkeypatch, saturation, tmp_path)
    saturation._draw(ROWS)
    axes = figures[0].axes[0]
    drawn = points(axes)
    assert list(drawn) == [f"{answer} ms, {size} parameters" for size in ("300", "7,000") for answer in (10, 50, 500)]
    for size, text in ((300, "300"), (7000, "7,000")):
        for answer in (10, 50, 500):
            x, y = drawn[f"{answer} ms, {text} parameters"]
            assert x == [1, 2, 16, 256, 1024]
            assert y == pytest.approx([(2.345 + n + size / 1000 + answer) * (4 * n + 1) for n in (1, 2, 16, 256, 1024)])
    assert [line.get_linestyle() for line in axes.lines] == 3 * ["-"] + 3 * ["--"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    with pytest.raises(ValueError, match="shorter"):
        saturation._draw([*ROWS, row(9, 10, 1)])


def test_the_committed_rows_follow_from_the_measured_costs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Below half of the limit more workers are more probes a second, above twice it they are not."""
    result = committed("saturation")
    figures_of(monkeypatch, saturation, tmp_path)
    monkeypatch.setattr(saturation, "measured", lambda: result["config"]["measured"])
    assert saturation._compute() == (result["config"], result["rows"])
    for found in result["rows"]:
        if found["measured"] is not None:
            assert abs(found["relative_error"]) < 0.5
        elif found["workers"] > 2 * found["saturates_at"]:
            assert found["driver_busy"] > 0.99
        elif found["workers"] < found["saturates_at"] / 2:
            assert found["driver_busy"] < 0.8


def test_as_a_program_it_prints_what_is_committed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown_as_a_program("saturation", monkeypatch, capsys) == committed("saturation")
