"""The study at 32x32 on toy records: shares of the white box on the same chip, images needed for a share, bars."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest

from bbfuse.compare.tasks import configs_of
from experiments import cifar10
from tests.helpers.studies.drawn import cells, committed, deviations, figures_of, points, shown_as_a_program, text_of, unlabelled


def record(method: str, images: int, seed: int, recovered: float, **other: Any) -> dict[str, Any]:
    named = {"setting": "chip", "owned": 45_000, "labels": "given", "method": method, "images": images, "seed": seed}
    measured = {
        "recovered": recovered,
        "lost": 60.0 + seed**2,
        "perturbed": 30.0 + 2 * seed,
        "head_recovered": 11.0 + 5 * seed**2,
    }
    return {**named, **measured, "trust": None, **other}


@pytest.fixture(autouse=True)
def controls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """A classifier used instead that is right in 0.64; the calls."""
    calls: list[tuple[Any, ...]] = []

    def control(data: str, owned: int | None, tested: int) -> float:
        calls.append((data, owned, tested))
        return 0.64

    monkeypatch.setattr(cifar10, "control", control)
    figures_of(monkeypatch, cifar10, tmp_path)
    return calls


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "_draw", lambda rows: None)


@pytest.mark.usefixtures("undrawn")
def test_a_share_is_of_the_white_box_with_as_many_images_or_with_the_most_that_it_was_run_with(
    controls: list[tuple[Any, ...]],
) -> None:
    records = [record("follow", 100_000, seed, points, trust=0.4 + seed) for seed, points in enumerate((30.0, 66.0))]
    records += [record("rge, parameters", 10_000, 0, 12.0, trust=0.9)]
    records += [record("backprop", 10_000, seed, points) for seed, points in enumerate((16.0, 25.0))]
    records += [record("backprop", 30_000, seed, points) for seed, points in enumerate((40.0, 55.0))]
    records += [record("backprop", 30_000, 2, 7.0), record("backprop", 60_000, 2, 8.0)]
    records += [record("backprop", 50_000, 0, 5.0, labels="target"), record("backprop", 50_000, 0, 6.0, owned=500)]
    records += [record("backprop", 50_000, 0, 4.0, setting="population", perturbed=20.0)]
    rows = cifar10._rows(records, [])
    found = {(r["setting"], r["owned"], r["labels"], r["method"], r["images"]): r for r in rows}
    assert len(found) == len(rows)
    all_owned = ("chip", 45_000, "given")
    mine = found[(*all_owned, "follow", 100_000)]
    assert mine["shares"] == pytest.approx([0.75, 1.2])  # not run with so many: 40 and 55 with 30,000
    assert (mine["share_mean"], mine["share_sd"]) == pytest.approx((0.975, 0.225))
    assert (mine["recovered_mean"], mine["recovered_sd"], mine["lost_mean"]) == pytest.approx((48.0, 18.0, 60.5))
    assert (mine["trust_mean"], mine["surrogate"], mine["head"], mine["seeds"]) == (pytest.approx(0.9), "plain", "affine", 2)
    fewer = found[(*all_owned, "rge, parameters", 10_000)]
    assert (fewer["shares"], fewer["trust_mean"], fewer["surrogate"]) == ([pytest.approx(0.75)], None, None)
    assert found[(*all_owned, "backprop", 10_000)]["shares"] == [1.0, 1.0]
    # the largest group of the white box comes first: three chips with 30,000 images
    head = found[(*all_owned, "head", 1000)]
    assert head["recovered_mean"] == pytest.approx((11 + 16 + 31) / 3)
    assert head["shares"] == pytest.approx([11 / 40, 16 / 55, 31 / 7])
    control = found[(*all_owned, "control", 0)]
    assert (control["recovered_mean"], control["head"]) == (pytest.approx((34 + 32 + 30) / 3), "none")
    assert control["shares"] == pytest.approx([34 / 40, 32 / 55, 30 / 7])
    assert found["chip", 500, "given", "head", 400]["recovered_mean"] == 11.0  # four fifths of those owned
    assert found["chip", 500, "given", "control", 0]["shares"] == [pytest.approx(34 / 6)]
    assert found["population", 45_000, "given", "head", 50]["head"] == "standardize"
    assert found["population", 45_000, "given", "control", 0]["recovered_mean"] == pytest.approx(44.0)
    assert not [key for key in found if key[2:4] == ("target", "control")]
    assert ("chip", 45_000, "target", "head", 1000) in found
    data = "data/cifar10-jpeg"
    assert sorted(controls, key=str) == [(data, 500, 2000), (data, None, 2000), (data, None, 2000)]
    assert {row["data"] for row in rows} == {"CIFAR-10 (JPEG)"}
    assert [row["method"] for row in rows[:3]] == ["backprop", "head", "control"]


@pytest.mark.usefixtures("undrawn")
def test_one_run_of_follow_without_trust_has_none() -> None:
    (mine,) = [
        row for row in cifar10._rows([record("backprop", 10_000, 0, 9.0), record("follow", 10_000, 0, 9.0)], [])
        if row["method"] == "follow"
    ]  # fmt: skip
    assert mine["trust_mean"] is None


@pytest.mark.usefixtures("undrawn")
def test_a_chip_that_loses_nothing_is_left_out_of_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record("backprop", 10_000, seed, points) for seed, points in enumerate((20.0, 0.0))]
    records += [record("follow", 10_000, seed, 15.0) for seed in range(2)]
    rows = cifar10._rows(records, [])
    (mine,) = [row for row in rows if row["method"] == "follow"]
    assert (mine["shares"], mine["share_mean"], mine["share_sd"]) == ([0.75, None], 0.75, 0.0)
    monkeypatch.setattr(cifar10, "rows_of", lambda name: rows)
    assert [(row["images_median"], row["images_max"], row["best_share"]) for row in cifar10.needed()] == [(None, None, 0.75)] * 4
    nothing = [{**mine, "share_mean": None, "share_sd": None}]
    assert cells(cifar10._table(nothing).renderables[0])[0][-1] == "-"


def test_a_record_is_in_points() -> None:
    accuracy = {"perturbed": {"mean": 0.31}, "perturbed_head": {"mean": 0.52}}
    found = cifar10._record({"accuracy": accuracy, "recovered_points": 33.0, "lost_points": 61.0, "trust": 0.7}, Path("unused"))
    assert found == pytest.approx({"recovered": 33.0, "lost": 61.0, "perturbed": 31.0, "head_recovered": 21.0, "trust": 0.7})


def of_shares(method: str, images: int, shares: list[float], **other: Any) -> dict[str, Any]:
    named = {"data": "D", "setting": "chip", "owned": 45_000, "labels": "given", "method": method, "head": "affine"}
    surrogate = "plain" if method == "follow" else None
    return {
        **named, "surrogate": surrogate, "images": images, "seeds": len(shares), "shares": shares, "share_mean": mean(shares),
        **other,
    }  # fmt: skip


def test_the_images_needed_are_the_fewest_for_each_chip_that_all_numbers_were_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        of_shares("backprop", 5, [9.0]), of_shares("head", 5, [9.0] * 3), of_shares("control", 0, [9.0] * 3),
        of_shares("follow", 30_000, [0.5, 0.85, 0.91, 0.1, 0.1]), of_shares("follow", 10_000, [0.3, 0.8, 0.2, 0.9]),
        of_shares("follow", 100_000, [0.7, 0.2, 0.93]), of_shares("rge, parameters", 30_000, [0.1, 0.2, 0.2]),
        of_shares("follow", 7, [9.0] * 3, owned=500), of_shares("follow", 8, [9.0] * 3, labels="target"),
        of_shares("follow", 9, [9.0] * 3, setting="population"),
    ]  # fmt: skip
    monkeypatch.setattr(cifar10, "rows_of", lambda name: rows if name == "cifar10" else [])
    found = cifar10.needed()
    assert [(row["method"], row["share"]) for row in found] == [
        (method, share) for method in ("follow", "rge, parameters") for share in (0.5, 0.8, 0.9, 0.95)
    ]
    # 50 %: 30000, 10000, 30000; 80 %: none, 10000, 30000; 90 %: none, none, 30000
    assert [(row["images_median"], row["images_max"]) for row in found] == [
        (30_000, 30_000), (30_000, None), (None, None), (None, None), *[(None, None)] * 4
    ]  # fmt: skip
    first = found[0]
    assert (first["seeds"], first["tested"], first["surrogate"]) == (3, [10_000, 30_000, 100_000], "plain")
    assert first["best_share"] == pytest.approx(1.83 / 3)
    assert [first[name] for name in ("data", "setting", "owned", "labels", "head")] == ["D", "chip", 45_000, "given", "affine"]
    assert (found[-1]["surrogate"], found[-1]["seeds"]) == (None, 3)


def row(method: str, images: int, won: float, sd: float, share: float, **other: Any) -> dict[str, Any]:
    named = {"setting": "chip", "owned": 45_000, "labels": "given", "method": method, "images": images, "seeds": 3}
    measured = {"recovered_mean": won, "recovered_sd": sd, "share_mean": share, "share_sd": sd / 3, "lost_mean": 60.0 + won / 10}
    return {**named, **measured, **other}


ROWS = [
    row("follow", 100_000, 41.0, 1.5, 0.8), row("follow", 30_000, 36.0, 2.5, 0.7), row("backprop", 30_000, 50.0, 1.0, 1.0),
    row("backprop", 100_000, 56.0, 0.5, 1.0), row("rge, parameters", 30_000, 13.0, 0.75, 0.3),
    row("head", 1000, 21.0, 1.25, 0.4), row("control", 0, 33.0, 0.25, 0.6),
    row("follow", 10_000, 24.0, 3.5, 0.5, owned=500), row("follow", 30_000, 27.0, 4.5, 0.5, owned=2000),
    row("follow", 30_001, 8.0, 4.5, 0.5, owned=2000),
    row("follow", 10_000, 26.0, 4.0, 0.5, owned=2000), row("follow", 10_000, 90.0, 9.0, 0.9, owned=500, labels="target"),
    row("head", 400, 12.0, 2.0, 0.2, owned=500), row("control", 0, 3.0, 0.125, 0.05, owned=500),
    row("backprop", 10_000, 31.0, 0.5, 1.0, owned=500), row("rge, parameters", 10_000, 5.0, 0.5, 1.0, owned=500),
    row("follow", 30_000, 95.0, 9.0, 1.05, setting="population"),
]  # fmt: skip


def test_the_table_goes_by_images_owned_downwards() -> None:
    chip, population, last = cifar10._table(ROWS).renderables
    assert (chip.title, population.title) == ("single chips, affine head", "unseen chips, standardize")
    printed = cells(chip)
    assert [row[:3] for row in printed[:8]] == [
        ["45,000 given", "backprop", "30,000"], ["45,000 given", "backprop", "100,000"], ["45,000 given", "control", "0"],
        ["45,000 given", "follow", "30,000"], ["45,000 given", "follow", "100,000"], ["45,000 given", "head", "1,000"],
        ["45,000 given", "rge, parameters", "30,000"], ["2,000 given", "follow", "10,000"],
    ]  # fmt: skip
    assert printed[0][3:] == ["50.0 ± 1.0 (3)", ""]
    assert printed[3][3:] == ["36.0 ± 2.5 (3)", "70 ± 83 %"]
    assert printed[-1] == ["500 target", "follow", "10,000", "90.0 ± 9.0 (3)", "90 ± 300 %"]
    assert cells(population)[0][3:] == ["95.0 ± 9.0 (3)", "105 ± 300 %"]
    lost = 60 + mean(row["recovered_mean"] for row in ROWS) / 10
    assert f": {lost:.0f} points lost" in last


def test_bars_stand_side_by_side_at_the_images_sent_and_owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = figures_of(monkeypatch, cifar10, tmp_path)
    cifar10._draw(ROWS)
    left, right = figures[0].axes
    sent, owned = points(left), points(right)

    def beside(place: int, *x: int) -> Any:
        return pytest.approx([value * (1.0, 1.06, 1.1236, 1 / 1.06, 1 / 1.1236)[place] for value in x])

    assert sent["white-box fuse and head"] == (beside(4, 30_000, 100_000), [50.0, 56.0])
    assert sent["follow and head"] == (beside(3, 30_000, 100_000), [36.0, 41.0])
    assert sent["rge of 883 parameters and head"] == (beside(0, 30_000), [13.0])
    # on the right the most that were sent up to 30,000
    assert owned["white-box fuse and head"] == (beside(4, 500, 45_000), [31.0, 50.0])
    assert owned["follow and head"] == (beside(3, 500, 2000, 45_000), [24.0, 27.0, 36.0])
    assert owned["head alone"] == (beside(1, 500, 45_000), [12.0, 21.0])
    assert owned["classifier of the fuse's size"] == (beside(2, 500, 45_000), [3.0, 33.0])
    assert deviations(left) == [pytest.approx(each) for each in ([1.0, 0.5], [2.5, 1.5], [0.75])]
    assert deviations(right)[1] == pytest.approx([3.5, 4.5, 2.5])
    levels = [y for x, y in unlabelled(left) if x == [0, 1]]
    assert levels == [[21.0, 21.0], [33.0, 33.0]]  # head and control send nothing
    for axes, ticks in ((left, [30_000, 100_000]), (right, [500, 2000, 45_000])):
        assert points(axes)["no fuse"][1] == [0.0, 0.0]
        assert axes.get_xscale() == "log"
        assert list(axes.get_xticks()) == ticks
        assert [label.get_text() for label in axes.get_xticklabels()] == [f"{tick:,}" for tick in ticks]
        assert len(axes.get_xticks(minor=True)) == 0
    assert left.get_shared_y_axes().joined(left, right)
    assert (left.get_ylabel(), left.get_legend(), right.get_legend() is None) == ("points recovered", None, False)


def test_every_cell_has_its_runs_with_the_report_on_top_of_the_images_sent() -> None:
    tasks = cifar10.STUDY.tasks()
    assert configs_of(committed("cifar10")["config"]) == [task.config for task in tasks]
    assert len(tasks) == 15 + 6 * 4 + 6 + 3 + 2
    for task in tasks:
        label, config = task.labels, task.config
        chip = label["setting"] == "chip"
        report = 2 * 2000 * 2 if chip else 2 * 2000 * 6 + 5 * 50
        assert (config.budget, config.report.images) == (label["images"] + report, 2000)
        assert config.images == (label["owned"] if label["owned"] < 45_000 else None)
        assert config.augment == (label["owned"] in (500, 2000))
        assert (config.bit_error_rate, config.validation.times) == (0.02, 0)
        batch = {"backprop": 32 if chip else 16, "rge, parameters": 64}
        assert label["method"] not in batch or config.batch == batch[label["method"]]
        assert (config.chip_seed, config.affine.images) == ((label["seed"], 1000) if chip else (None, 2000))
    assert {task.config.rge.lr for task in tasks if "rge" in task.labels["method"]} == {0.01}


def test_a_cell_stays_what_it_is() -> None:
    assert vars(cifar10.Cell)["__dataclass_params__"].frozen


def test_as_a_program_it_prints_what_is_committed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown_as_a_program("cifar10", monkeypatch, capsys) == committed("cifar10")
    assert pstdev([0.75, 1.2]) == pytest.approx(0.225)
    assert "unseen chips" in text_of(cifar10._table(committed("cifar10")["rows"]))
