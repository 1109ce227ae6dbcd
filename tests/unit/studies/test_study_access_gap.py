"""The access gap on toy records: shares of the white box with the same setting, images, head and seed, and nothing else."""

from __future__ import annotations

import functools
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest

from bbfuse.compare.tasks import configs_of
from experiments import access_gap, tuning
from tests.helpers.studies.drawn import cells, committed, deviations, figures_of, headers, points, shown_as_a_program, text_of

PLACES = {"setting": ("chip", "population"), "owned": (1437, 200), "labels": ("given", "target"), "head": ("none", "affine")}


def record(method: str, images: int, seed: int, recovered: float, **other: Any) -> dict[str, Any]:
    named = {"setting": "chip", "owned": 1437, "labels": "given", "head": "none", "method": method, "images": images}
    measured = {"recovered": recovered, "lost": 50.0 + seed**2, "perturbed": 0.4 + 0.01 * seed, "head_recovered": 7.0}
    return {**named, "seed": seed, **measured, **other}


@pytest.fixture(autouse=True)
def controls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """Classifiers used instead, right in 0.7, 0.75, ... by seed; the calls."""
    calls: list[tuple[Any, ...]] = []

    def control(data: str, owned: int | None, seed: int) -> float:
        calls.append((data, owned, seed))
        return 0.7 + 0.05 * seed

    monkeypatch.setattr(access_gap, "control", control)
    figures_of(monkeypatch, access_gap, tmp_path)
    return calls


def rows(records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(access_gap, "_draw", lambda rows, setting: None)
    return access_gap._rows(records, [])


def test_a_share_is_of_the_white_box_with_the_same_seed_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record("backprop", 10_000, seed, base) for seed, base in enumerate((40.0, 50.0, 20.0))]
    records += [record("backprop", 30_000, seed, 99.0) for seed in range(3)]
    records += [record("spsa", 10_000, seed, points) for seed, points in enumerate((10.0, 60.0, -4.0))]
    found = {(row["method"], row["images"]): row for row in rows(records, monkeypatch)}
    mine = found["spsa", 10_000]
    shares = [0.25, 1.2, -0.2]
    assert (mine["share_mean"], mine["share_sd"]) == pytest.approx((mean(shares), pstdev(shares)))
    assert (mine["recovered_mean"], mine["recovered_sd"]) == pytest.approx((22.0, pstdev([10, 60, -4])))
    assert mine["lost_mean"] == pytest.approx((50 + 51 + 54) / 3)
    assert (mine["data"], mine["setting"], mine["owned"], mine["labels"], mine["head"], mine["seeds"]) == (
        "digits", "chip", 1437, "given", "none", 3
    )  # fmt: skip
    assert (found["backprop", 10_000]["share_mean"], found["backprop", 10_000]["share_sd"]) == (1.0, 0.0)


@pytest.mark.parametrize("key", PLACES)
def test_a_white_box_that_differs_in_one_thing_is_no_measure(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = PLACES[key]
    records = [record("backprop", 10_000, 0, 40.0, **{key: first}), record("spsa", 10_000, 0, 10.0, **{key: second})]
    (other,) = [row for row in rows(records, monkeypatch) if row["method"] == "spsa"]
    assert (other["share_mean"], other["share_sd"], other["recovered_mean"]) == (None, None, 10.0)


def test_a_seed_without_a_measure_or_whose_measure_is_nothing_is_left_out_of_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record("backprop", 10_000, 0, 40.0), record("backprop", 10_000, 1, 0.0)]
    records += [record("spsa", 10_000, seed, points) for seed, points in enumerate((30.0, 60.0, 9.0))]
    (mine,) = [row for row in rows(records, monkeypatch) if row["method"] == "spsa"]
    assert (mine["share_mean"], mine["share_sd"], mine["seeds"], mine["recovered_mean"]) == (0.75, 0.0, 3, 33.0)


@pytest.mark.parametrize(("head", "owned", "images"), [("affine", 1437, 1149), ("affine", 200, 160), ("standardize", 1437, 50)])
def test_the_head_alone_has_cost_four_fifths_of_the_owned_images_or_fifty_a_chip(
    head: str, owned: int, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = {"head": head, "owned": owned}
    records = [record("backprop", 30_000, seed, base, **same) for seed, base in enumerate((40.0, 50.0))]
    records += [
        record("rge", 30_000, seed, 33.0, head_recovered=points, **same) for seed, points in enumerate((10.0, 35.0))
    ]  # fmt: skip
    records.append(record("rge", 10_000, 0, 33.0, **same))
    (alone,) = [row for row in rows(records, monkeypatch) if row["method"] == "head"]
    assert (alone["images"], alone["head"], alone["owned"], alone["recovered_mean"]) == (images, head, owned, 22.5)
    assert (alone["share_mean"], alone["share_sd"]) == pytest.approx((0.475, pstdev([0.25, 0.7])))


@pytest.mark.parametrize(("owned", "few"), [(1437, None), (200, 200)])
def test_the_control_is_one_classifier_a_seed_against_the_bare_target(
    owned: int, few: int | None, monkeypatch: pytest.MonkeyPatch, controls: list[tuple[Any, ...]]
) -> None:
    records = [record("backprop", 30_000, seed, base, owned=owned) for seed, base in enumerate((40.0, 64.0))]
    records += [record("rge", 30_000, seed, 33.0, owned=owned) for seed in range(2)]
    (mine,) = [row for row in rows(records, monkeypatch) if row["method"] == "control"]
    assert controls == [("digits", few, 0), ("digits", few, 1)]
    assert (mine["images"], mine["head"], mine["owned"]) == (0, "none", owned)
    assert mine["recovered_mean"] == pytest.approx((30 + 34) / 2)  # 0.7 - 0.4 and 0.75 - 0.41
    assert mine["share_mean"] == pytest.approx((30 / 40 + 34 / 64) / 2)


@pytest.mark.parametrize("other", [{"labels": "target"}, {"head": "affine"}, {"images": 10_000}, {"method": "spsa"}])
def test_no_other_group_has_a_control(
    other: dict[str, Any], monkeypatch: pytest.MonkeyPatch, controls: list[tuple[Any, ...]]
) -> None:
    found = rows([{**record("rge", 30_000, 0, 33.0), **other}], monkeypatch)
    assert controls == []
    assert [row["method"] for row in found if row["method"] != "head"] == [other.get("method", "rge")]
    assert ("head" in {row["method"] for row in found}) == (other == {"head": "affine"})


def test_a_record_has_accuracies_as_fractions_and_the_heads_points() -> None:
    accuracy = {"perturbed": {"mean": 0.38}, "perturbed_head": {"mean": 0.61}}
    found = access_gap._record({"accuracy": accuracy, "recovered_points": 41.0, "lost_points": 60.5}, Path("unused"))
    assert found == pytest.approx({"recovered": 41.0, "lost": 60.5, "perturbed": 0.38, "head_recovered": 23.0})


def row(method: str, images: int, won: float, sd: float, share: float | None, **other: Any) -> dict[str, Any]:
    named = {"data": "digits", "setting": "chip", "owned": 1437, "labels": "given", "method": method, "head": "none"}
    return {**named, "images": images, "recovered_mean": won, "recovered_sd": sd, "share_mean": share, **other}


ROWS = [
    row("backprop", 30_000, 52.5, 2.25, 1.0), row("backprop", 10_000, 40.0, 3.0, 1.0), row("rge", 10_000, 21.26, 1.5, 0.53),
    row("rge", 300_000, 49.0, 1.25, 1.071), row("rge", 100_000, 45.0, 0.5, 0.9), row("control", 0, 33.0, 0.75, 0.6),
    row("nes", 30_000, -31.0, 4.0, None), row("head", 1149, 29.5, 0.25, 0.55, head="affine"),
    row("rge", 30_000, 47.0, 2.0, 0.95, head="affine"), row("backprop", 30_000, 50.0, 1.0, 1.0, head="affine"),
    row("spsa", 10_000, 3.0, 1.0, 0.1, setting="population"),
    row("rge", 30_000, 17.0, 1.5, 0.4, owned=200), row("rge", 30_000, 13.0, 0.5, 0.3, owned=200, labels="target"),
]  # fmt: skip


def test_the_table_has_a_column_for_each_number_of_images() -> None:
    other = [{"data": "CIFAR-10 (JPEG)", "owned": 200, **line} for line in committed("cifar10")["rows"]]
    chip, population, small = access_gap._table(ROWS + other).renderables[:3]
    assert headers(chip) == ["method", "head", "10k", "30k", "100k", "300k"]
    assert cells(chip) == [
        ["backprop", "none", "40.0±3.0", "52.5±2.2", "", ""],
        ["rge", "none", "21.3±1.5\n53 %", "", "45.0±0.5\n90 %", "49.0±1.2\n107 %"],
        ["control", "none", "33.0±0.8\n60 %", "", "", ""],
        ["nes", "none", "", "-31.0±4.0", "", ""],
        ["head", "affine", "29.5±0.2\n55 %", "", "", ""],
        ["rge", "affine", "", "47.0±2.0\n95 %", "", ""],
        ["backprop", "affine", "", "50.0±1.0", "", ""],
    ]
    assert cells(population) == [["spsa", "none", "3.0±1.0\n10 %", "", "", ""]]
    assert cells(small) == [
        ["chip", "given", "rge", "none", "17.0±1.5\n40 %"], ["chip", "target", "rge", "none", "13.0±0.5\n30 %"]
    ]  # fmt: skip
    assert (small.title, chip.title) == ("200 images owned, 30k sent", "chip: points recovered")
    printed = text_of(access_gap._table(ROWS + committed("cifar10")["rows"]))
    assert "single chips, affine head" in printed
    assert "45,000 given" in printed


def test_a_curve_goes_by_images_with_its_sd_and_no_curve_has_the_few_owned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figures = figures_of(monkeypatch, access_gap, tmp_path)
    access_gap._draw(ROWS, "chip")
    axes = figures[0].axes[0]
    drawn = points(axes)
    assert drawn["white-box"] == ([10_000, 30_000], [40.0, 52.5])
    assert drawn["rge"] == ([10_000, 100_000, 300_000], [21.26, 45.0, 49.0])
    assert drawn["rge and affine head"] == ([30_000], [47.0])
    assert drawn["white-box and affine head"] == ([30_000], [50.0])
    assert drawn["nes"] == ([30_000], [-31.0])
    assert drawn["classifier of the fuse's size"][1] == [33.0, 33.0]
    assert drawn["head alone (affine)"][1] == [29.5, 29.5]
    assert drawn["no fuse"][1] == [0.0, 0.0]
    assert "spsa" not in drawn
    expected = [[3.0, 2.25], [1.5, 0.5, 1.25], [4.0], [2.0], [1.0]]
    assert [pytest.approx(each) for each in expected] == deviations(axes)
    styles = {container.get_label(): container.lines[0].get_linestyle() for container in axes.containers}  # type: ignore
    assert (styles["white-box"], styles["rge"]) == ("--", "-")
    colours = {container.get_label(): container.lines[0].get_color() for container in axes.containers}  # type: ignore
    assert (colours["white-box"], colours["white-box and affine head"]) == ("#555555", "#aaaaaa")
    assert len({str(colour) for colour in colours.values()}) == 5
    assert (axes.get_xscale(), axes.get_ylim()[0]) == ("log", -15.0)  # what is far below is cut off
    assert (tmp_path / "access_gap_chip.svg").exists()
    access_gap._draw(ROWS, "population")
    assert -1.0 < figures[1].axes[0].get_ylim()[0] < 0.0


def test_both_settings_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, str]] = []
    monkeypatch.setattr(access_gap, "_draw", lambda rows, setting: drawn.append((len(rows), setting)))
    access_gap._rows([record("spsa", 10_000, 0, 3.0), record("nes", 10_000, 0, 3.0)], [])
    assert drawn == [(2, "chip"), (2, "population")]


def test_methods_end_where_they_are_said_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_gap, "tuned", functools.cache(tuning.tuned))
    tasks = access_gap.STUDY.tasks()
    kept = committed("access_gap")["config"]
    assert len(kept["runs"]) == len(tasks)
    assert configs_of({**kept, "runs": kept["runs"][::9]}) == [task.config for task in tasks[::9]]
    ends: dict[tuple[str, str], int] = {}
    for task in tasks:
        label = task.labels
        ends[label["setting"], label["method"]] = max(label["images"], ends.get((label["setting"], label["method"]), 0))
        chips, warm = (1, 0) if label["setting"] == "chip" else (10, 50 if label["head"] == "standardize" else 0)
        assert task.config.budget == label["images"] + 2 * 360 * (1 + chips) + chips * warm
        assert task.config.images == (200 if label["owned"] == 200 else None)
        assert label["owned"] in (200, 1437)
        seeds = (label["seed"], 0) if label["setting"] == "chip" else (None, label["seed"])
        assert (task.config.chip_seed, task.config.seed) == seeds
    to_the_end = {"chip": ("backprop", "rge", "spsa-gc", "cma, subspace"), "population": ("backprop", "rge")}
    for (setting, method), images in ends.items():
        assert images == (300_000 if method in to_the_end[setting] else {"chip": 100_000, "population": 30_000}[setting])


def test_as_a_program_it_prints_what_is_committed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    result = committed("access_gap")
    more = committed("cifar10")["rows"]
    assert shown_as_a_program("access_gap", monkeypatch, capsys) == {**result, "rows": result["rows"] + more}
