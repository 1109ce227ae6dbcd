"""Images needed for a share of what gradients win back: the fewest that are enough, the median and the most over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bbfuse.compare.tasks import configs_of
from experiments import cifar10, query_efficiency
from tests.helpers.studies.drawn import cells, committed, figures_of, headers, points, shown_as_a_program, text_of, unlabelled

RELAXED = {"chip": (40.0, 50.0, 20.0, 10.0, 80.0), "population": (30.0, 60.0, 45.0, 15.0, 25.0)}
SHARES = {  # by images, of each seed
    ("chip", "follow"): {
        2_500: (0.5, 0.2, -0.3, 0.49, 0.6), 5_000: (0.8, 0.55, 0.3, 0.7, 0.7), 10_000: (0.95, 0.79, 0.2, 1.3, 0.81),
        20_000: (0.9, 0.96, 0.75, 0.97, 0.94),
    },
    ("chip", "guided"): {
        5_000: (0.1, 0.2, 0.3, 0.4, 0.45), 10_000: (0.6, 0.5, 0.49, 0.48, 0.2), 20_000: (0.3, 0.2, 0.51, 0.4, 0.1),
    },
    ("chip", "transfer"): {0: (0.85, 0.5, 0.1, 0.81, 0.9), 1_000: (0.9, 0.82, 0.83, 0.4, 0.99)},
    ("population", "follow"): {
        2_500: (0.1, 0.2, 0.3, 0.4, 0.45), 5_000: (0.2, 0.3, 0.5, 0.4, 0.3), 10_000: (0.52, 0.6, 0.7, 0.8, 0.81),
        20_000: (0.9, 0.91, 0.92, 0.93, 0.94),
    },
    ("population", "transfer"): {0: (0.1,) * 5, 1_000: (0.3, 0.2, 0.11, 0.12, 0.13)},
}  # fmt: skip


def records() -> list[dict[str, Any]]:
    found = [
        {"setting": setting, "method": "backprop", "images": 100_000, "seed": seed, "recovered": points, "lost": 55.0}
        for setting, each in RELAXED.items() for seed, points in enumerate(each)
    ]  # fmt: skip
    for (setting, method), curve in SHARES.items():
        for images, shares in curve.items():
            found += [
                {
                    "setting": setting, "method": method, "images": images, "seed": seed, "lost": 55.0,
                    "recovered": share * RELAXED[setting][seed],
                } for seed, share in enumerate(shares)
            ]  # fmt: skip
    return found


def gap(setting: str, method: str, images: int, points: float, **other: Any) -> dict[str, Any]:
    named = {"setting": setting, "method": method, "images": images, "recovered_mean": points}
    return {**named, "head": "none", "labels": "given", "owned": 1437, **other}


# the white box wins 40 points on a chip, 35 for the population; what has to be left out would be enough for all
GAP = [
    gap("chip", "rge", 10_000, 19.0), gap("chip", "rge", 30_000, 32.5), gap("chip", "rge", 100_000, 41.0),
    gap("chip", "nes", 30_000, 20.0), gap("chip", "nes", 10_000, 18.0), gap("population", "rge", 10_000, -7.0, owned=1001),
    gap("chip", "backprop", 3, 99.0), gap("chip", "head", 3, 99.0), gap("chip", "control", 3, 99.0),
    gap("chip", "rge", 3, 99.0, owned=200), gap("chip", "rge", 4, 99.0, labels="target"),
    gap("chip", "rge", 5, 99.0, head="affine"), gap("chip", "spsa", 6, 99.0, owned=1000),
]  # fmt: skip


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    figures_of(monkeypatch, query_efficiency, tmp_path)
    monkeypatch.setattr(query_efficiency, "rows_of", lambda name: GAP if name == "access_gap" else [])
    found: list[dict[str, Any]] = query_efficiency._rows(records(), [])
    return found


def of(rows: list[dict[str, Any]], setting: str, method: str) -> list[tuple[Any, Any]]:
    mine = [row for row in rows if (row["setting"], row["method"]) == (setting, method)]
    assert [row["share"] for row in mine] == [0.5, 0.8, 0.9, 0.95]
    return [(row["images_median"], row["images_max"]) for row in mine]


def test_the_fewest_images_that_are_enough_are_taken_seed_by_seed(rows: list[dict[str, Any]]) -> None:
    # 50 %: 2500, 5000, 20000, 5000, 2500; 80 %: 5000, 20000, none, 10000, 10000
    # 90 %: 10000, 20000, none, 10000, 20000; 95 %: 10000, 20000, none, 10000, none
    assert of(rows, "chip", "follow") == [(5_000, 20_000), (10_000, None), (20_000, None), (20_000, None)]
    # 50 %: 10000, 10000, 20000, none, none
    assert of(rows, "chip", "guided") == [(20_000, None), (None, None), (None, None), (None, None)]
    # no images at all may be enough; 80 %: 0, 1000, 1000, 0, 0; 90 %: 1000, none, none, none, 0
    assert of(rows, "chip", "transfer") == [(0, 1_000), (0, 1_000), (None, None), (None, None)]
    assert of(rows, "population", "follow") == [(10_000, 10_000), (20_000, 20_000), (20_000, 20_000), (None, None)]
    assert of(rows, "population", "transfer") == [(None, None)] * 4


def test_the_best_share_is_the_best_mean_over_seeds(rows: list[dict[str, Any]]) -> None:
    best = {(row["setting"], row["method"]): row["best_share"] for row in rows}
    assert best["chip", "follow"] == pytest.approx((0.9 + 0.96 + 0.75 + 0.97 + 0.94) / 5)
    assert best["chip", "guided"] == pytest.approx(2.27 / 5)  # in the middle of its grid
    assert best["chip", "transfer"] == pytest.approx(3.94 / 5)
    assert best["population", "transfer"] == pytest.approx(0.86 / 5)
    tested = {(row["setting"], row["method"]): row["tested"] for row in rows}
    assert tested["chip", "guided"] == [5_000, 10_000, 20_000]
    assert tested["chip", "nes"] == [10_000, 30_000]


def test_methods_without_a_surrogate_are_measured_by_the_means_of_the_other_study(rows: list[dict[str, Any]]) -> None:
    assert list(dict.fromkeys((row["setting"], row["method"], row["surrogate"]) for row in rows)) == [
        ("chip", "follow", "plain"), ("chip", "guided", "plain"), ("chip", "transfer", "plain"), ("chip", "rge", None),
        ("chip", "nes", None), ("population", "follow", "plain"), ("population", "transfer", "plain"),
        ("population", "rge", None),
    ]  # fmt: skip
    assert of(rows, "chip", "rge") == [(30_000, None), (30_000, None), (100_000, None), (100_000, None)]
    assert of(rows, "chip", "nes") == [(30_000, None), (None, None), (None, None), (None, None)]
    assert of(rows, "population", "rge") == [(None, None)] * 4
    best = {row["method"]: row["best_share"] for row in rows if row["setting"] == "chip"}
    assert (best["rge"], best["nes"]) == pytest.approx((41 / 40, 0.5))
    assert {(row["data"], row["owned"], row["labels"], row["head"], row["seeds"]) for row in rows} == {
        ("digits", 1437, "given", "none", 5)
    }  # fmt: skip


def test_a_chip_that_loses_nothing_is_left_out_of_the_shares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures_of(monkeypatch, query_efficiency, tmp_path)
    monkeypatch.setattr(query_efficiency, "rows_of", lambda name: GAP)
    changed = [{**r, "recovered": 0.0} if (r["setting"], r["seed"]) == ("chip", 2) else r for r in records()]
    found = query_efficiency._rows(changed, [])
    assert of(found, "chip", "follow") == [(5_000, None), (10_000, None), (20_000, None), (20_000, None)]
    best = {(row["setting"], row["method"]): row["best_share"] for row in found}
    left = [[s for seed, s in enumerate(shares) if seed != 2] for shares in SHARES["chip", "follow"].values()]
    assert best["chip", "follow"] == pytest.approx(max(sum(shares) / 4 for shares in left))
    nothing = [{**row, "images_median": None, "images_max": None, "best_share": None} for row in found[:4]]
    assert cells(query_efficiency._table(nothing).renderables[0]) == [["follow", "-", "-", "-", "-", "-"]]


def test_the_table_has_the_most_images_in_brackets(rows: list[dict[str, Any]]) -> None:
    chip, population = query_efficiency._table(rows).renderables[:2]
    assert (chip.title, population.title) == ("digits, chip: images to reach", "digits, population: images to reach")
    assert headers(chip) == ["method", "50 %", "80 %", "90 %", "95 %", "best"]
    assert cells(chip) == [
        ["follow", "5,000 (20,000)", "10,000", "20,000", "20,000", "90 % at 20,000 or fewer"],
        ["guided", "20,000", "-", "-", "-", "45 % at 20,000 or fewer"],
        ["transfer", "0 (1,000)", "0 (1,000)", "-", "-", "79 % at 1,000 or fewer"],
        ["rge", "30,000", "30,000", "100,000", "100,000", "102 % at 100,000 or fewer"],
        ["nes", "30,000", "-", "-", "-", "50 % at 30,000 or fewer"],
    ]
    assert [row[0] for row in cells(population)] == ["follow", "transfer", "rge"]


def test_curves_are_mean_shares_by_images_and_none_at_all_is_at_100(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = figures_of(monkeypatch, query_efficiency, tmp_path)
    monkeypatch.setattr(query_efficiency, "rows_of", lambda name: GAP)
    query_efficiency._rows(records(), [])
    left, right = figures[0].axes
    chip, population = points(left), points(right)
    assert chip["transfer"][0] == [100, 1_000]
    assert chip["transfer"][1] == pytest.approx([100 * 3.16 / 5, 100 * 3.94 / 5])
    assert chip["guided"][1] == pytest.approx([29.0, 45.4, 30.2])
    assert chip["rge"][0] == [10_000, 30_000, 100_000]
    assert chip["rge"][1] == pytest.approx([47.5, 81.25, 102.5])
    assert population["rge"] == ([10_000], pytest.approx([-20.0]))
    assert ([10_000, 30_000], pytest.approx([45.0, 50.0])) in [(x, y) for x, y in unlabelled(left)]  # nes is one of many
    assert "guided (one chip)" not in chip
    assert population["guided (one chip)"] == ([], [])
    assert "guided" not in population
    for axes, drawn, title in ((left, chip, "one chip"), (right, population, "population of chips")):
        assert drawn["others"] == ([], [])
        assert drawn["white box, 100,000 images"][1] == [100, 100]
        assert drawn["no fuse"][1] == [0, 0]
        assert (axes.get_ylim(), axes.get_xscale(), axes.get_title()) == ((-20, 110), "log", title)
    assert left.get_shared_y_axes().joined(left, right)
    assert (left.get_ylabel(), right.get_ylabel()) == ("% of the white-box recovery", "")
    assert (left.get_legend(), right.get_legend() is None) == (None, False)


def test_there_is_a_run_for_every_number_of_images_and_seed() -> None:
    tasks = query_efficiency.STUDY.tasks()
    assert configs_of(committed("query_efficiency")["config"]) == [task.config for task in tasks]
    assert [tuple(task.labels.values()) for task in tasks] == [
        (setting, method, images, seed)
        for setting in ("chip", "population")
        for method, budgets in (
            ("follow", (2_500, 5_000, 10_000, 20_000)), ("guided", (5_000, 10_000, 20_000)), ("transfer", (0, 1_000)),
            ("backprop", (100_000,)),
        ) if (setting, method) != ("population", "guided")
        for images in budgets
        for seed in range(5)
    ]  # fmt: skip
    for task in tasks:
        setting, method, images, seed = task.labels.values()
        report = 2 * 360 * (2 if setting == "chip" else 11)
        kept = 200 if method == "transfer" else 0
        assert task.config.budget == max(images, 200) + report + kept  # type: ignore[call-overload]
        assert task.config.validation.times == 0
        assert task.config.head_name == "none"
        assert (task.config.chip_seed, task.config.seed) == ((seed, 0) if setting == "chip" else (None, seed))
        if method == "transfer":
            assert (task.config.transfer.steps, task.config.transfer.images) == (3000, images)


def test_the_rows_of_larger_images_are_those_of_the_other_study() -> None:
    assert query_efficiency.STUDY.more_rows is cifar10.needed


def test_as_a_program_it_prints_what_is_committed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    result = committed("query_efficiency")
    assert shown_as_a_program("query_efficiency", monkeypatch, capsys) == {**result, "rows": result["rows"] + cifar10.needed()}
    assert "CIFAR-10 (JPEG), chip" in text_of(query_efficiency._table(cifar10.needed()))
