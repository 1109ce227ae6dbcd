"""The main job's arithmetic on toy records: shares, spreads over chips, and the curves that are drawn."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np
import pytest

from experiments import main_job
from tests.helpers.studies.drawn import cells, committed, figures_of, headers, points, shown_as_a_program, written_events


def test_a_record_has_points_as_shares_of_those_lost_and_a_share_may_be_above_one() -> None:
    summary = {
        "accuracy": {
            "clean": 0.97, "perturbed": {"mean": 0.37}, "perturbed_head": {"mean": 0.55}, "perturbed_fused": {"mean": 1.0},
        },
        "queries": {"images": 19_870, "budget": 20_000}, "lost_points": 60.0, "recovered_points": 63.0, "seconds": 7.5,
    }  # fmt: skip
    found = main_job._record(summary, Path("unused"))
    assert found == pytest.approx({
        "images": 19_870, "budget": 20_000, "clean": 0.97, "perturbed": 0.37, "head_alone": 0.55, "fused": 1.0,
        "lost_points": 60.0, "recovered_points": 63.0, "share": 1.05, "head_share": 0.3, "seconds": 7.5,
    })  # fmt: skip


def test_a_chip_that_loses_nothing_has_no_share_of_it() -> None:
    kept = {"clean": 0.9, "perturbed": {"mean": 0.9}, "perturbed_head": {"mean": 0.92}, "perturbed_fused": {"mean": 0.95}}
    summary = {
        "accuracy": kept,
        "queries": {"images": 1, "budget": 2},
        "lost_points": 0.0,
        "recovered_points": 5.0,
        "seconds": 1.0,
    }
    found = main_job._record(summary, Path("unused"))
    assert (found["share"], found["head_share"], found["recovered_points"]) == (None, None, 5.0)
    without = {**rows()[0], "share": None, "head_share": None}
    assert cells(main_job._table([without]))[0][3:] == ["90.3 ± 0.0", "-", "-"]
    assert cells(main_job._table([without, rows()[1]]))[0][4:] == ["98.9 ± 0.0", "80.0 ± 0.0"]  # of the chips that lose anything


def test_there_is_a_run_for_each_arm_and_chip_with_the_budgets_of_the_study() -> None:
    tasks = main_job.STUDY.tasks()
    assert [(task.labels["chip"], task.config.chip_seed) for task in tasks] == [(chip, chip) for chip in range(5)] * 4
    configs = [task.config for task in tasks[::5]]
    found = [(config.budget, config.head_name, config.backend, config.optimizer) for config in configs]
    assert found == [
        (20_000, "affine", "local", "rge"), (150_000, "none", "local", "rge"), (150_000, "none", "whitebox", "backprop"),
        (20_000, "affine", "whitebox", "backprop"),
    ]  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """Two chips of the first arm, three of the others; every number is another one."""
    found = []
    for place, arm in enumerate(main_job.ARMS):
        for chip in range(2 if place == 0 else 3):
            step = 0.01 * (place + 1) * (chip + 0.3)
            found.append({
                "arm": arm, "chip": chip, "images": 19_000 + 111 * chip**2 + 1000 * place, "lost_points": 55.0 + 4 * chip**2,
                "fused": 0.9 + step, "share": 0.95 + 3 * step, "head_share": 0.8 + 2 * step**2, "clean": 0.96 + step,
                "head_alone": 0.7 + 5 * step, "perturbed": 0.31 + 7 * step,
            })  # fmt: skip
    return found


def test_the_table_has_the_mean_and_population_sd_of_every_arm() -> None:
    table = main_job._table(rows())
    assert headers(table) == ["arm", "images", "lost", "accuracy", "recovered", "head alone"]
    assert [column.justify for column in table.columns] == ["left"] + 5 * ["right"]
    assert table.padding == (0, 0, 0, 0)
    assert "over 5 chips" in str(table.caption)
    expected = []
    for arm in main_job.ARMS:
        mine = [row for row in rows() if row["arm"] == arm]
        spread = [
            f"{mean(values):.1f} ± {pstdev(values):.1f}"
            for values in (
                [row["lost_points"] for row in mine], [100 * row["fused"] for row in mine],
                [100 * row["share"] for row in mine], [100 * row["head_share"] for row in mine],
            )
        ]  # fmt: skip
        expected.append([arm, f"{sum(row['images'] for row in mine) / len(mine):,.0f}", *spread])
    assert cells(table) == expected
    assert cells(table)[0][1:3] == ["19,056", "57.0 ± 2.0"]


def test_a_curve_is_the_mean_over_chips_of_what_was_validated_with_a_band_of_one_sd(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figures, found, folders = figures_of(monkeypatch, main_job, tmp_path), rows(), []
    for number in range(len(found)):
        lines = [
            {"step": 1, "images": 16},
            {"step": 2, "images": 40 + number, "validation": 0.4 + 0.01 * number**2},
            {"step": 3, "images": 700 + 10 * number, "validation": 0.6 + 0.02 * number},
        ]
        folders.append(written_events(tmp_path / str(number), lines))
    main_job._draw(found, folders)
    axes = figures[0].axes[0]
    drawn = points(axes)
    begins = {"fuse and head, strict": (0, 1), "fuse alone, strict": (2, 3, 4), "fuse alone, white-box": (5, 6, 7)}
    for arm, numbers in begins.items():
        first, second = ([40 + 0.01 * 100 * n**2 for n in numbers], [60 + 2.0 * n for n in numbers])
        # before a hundred images a logarithmic axis has no room
        assert drawn[arm][0] == pytest.approx([100, mean(700 + 10 * n for n in numbers)])
        assert drawn[arm][1] == pytest.approx([mean(first), mean(second)])
        band = axes.collections[list(begins).index(arm)].get_paths()[0].vertices
        for x, values in zip(drawn[arm][0], (first, second), strict=True):
            edges = sorted({round(float(y), 6) for at, y in band if at == pytest.approx(x)})
            assert edges == pytest.approx([mean(values) - pstdev(values), mean(values) + pstdev(values)])
    styles = {line.get_label(): line.get_linestyle() for line in axes.lines}
    assert [styles[arm] for arm in main_job.ARMS] == ["-", "-", "--", "--"]
    levels = {"nominal voltage (held-out)": "clean", "head alone (held-out)": "head_alone", "no fuse (held-out)": "perturbed"}
    for label, key in levels.items():  # of the first arm's chips, which are those of all
        assert drawn[label][1] == pytest.approx(2 * [100 * np.mean([row[key] for row in found[:2]])])
    assert axes.get_xscale() == "log"
    assert (tmp_path / "main_job.svg").read_text() == "<svg/>"


def test_as_many_rows_as_folders_are_draw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures_of(monkeypatch, main_job, tmp_path)
    one = written_events(tmp_path / "one", [{"images": 300, "validation": 0.5}])
    found = rows()
    with pytest.raises(ValueError, match="shorter"):
        main_job._draw(found, [one] * (len(found) - 1))


def test_as_a_program_it_prints_what_is_committed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown_as_a_program("main_job", monkeypatch, capsys) == committed("main_job")
