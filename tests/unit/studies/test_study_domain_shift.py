"""Shifted images against independent computations, and rows, table and bars of the study on toy records."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.container import BarContainer
from rich.console import Console
from scipy.ndimage import gaussian_filter

from backends.datasets.loading import load
from bbfuse.config.checks import validate
from experiments import domain_shift, shifts
from tests.helpers.studies.drawn import cells, figures_of, headers

LOW = {("digits", "gain"): 20.0, ("digits", "inversion"): 5.0, ("digits", "blur"): 78.0}


def test_shifted_images_are_rounded_to_levels_and_keep_their_labels() -> None:
    plain = load("digits")
    unit = (plain.test.images.double() + 1) / 2
    blurred = np.stack([gaussian_filter(image[0], 1.0, mode="nearest", truncate=3.0) for image in unit.numpy()])[:, None]
    expected = {"gain": 0.3 * unit + 0.1, "inversion": 1 - unit, "blur": torch.from_numpy(blurred)}
    assert list(expected) == list(shifts.SHIFTS)
    for shift, images in expected.items():
        found = getattr(shifts, f"digits_{shift}")()
        levels = (found.test.images + 1) * 127.5
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        torch.testing.assert_close(levels / 255, images.float(), atol=0.502 / 255, rtol=0)
        assert torch.equal(found.test.labels, plain.test.labels)
        assert len(found.train) == len(plain.train)
        assert found.name == f"digits, {shift}"


def test_each_task_is_a_run_without_a_chip_on_its_shifted_data() -> None:
    tasks = domain_shift._tasks()
    labels = [tuple(task.labels.values()) for task in tasks]
    assert len(set(labels)) == len(labels) == 3 * 5 * sum(len(methods) for methods in domain_shift.SHOWN.values())
    for task in tasks:
        data, shift, method, seed = task.labels.values()
        config, settings = task.config, domain_shift.METHODS[method]
        validate(config)
        assert config.data == f"experiments.shifts:{'digits' if data == 'digits' else 'cifar10'}_{shift}"
        assert config.target == f"runs/domain_shift/{'digits' if data == 'digits' else 'resnet20'}.pt"
        assert (config.no_chip, config.seed) == (True, seed)
        assert config.generator == settings["generator"].replace("large", "MLP" if data == "digits" else "UNetXS")
        assert config.budget - 2 * config.report.images == 20_000
        assert config.start == settings.get("start")


def test_what_is_recorded_is_what_was_shipped() -> None:
    accuracy = {"clean": None, "perturbed": {"mean": 0.2}, "perturbed_head": {"mean": 0.7}, "perturbed_fuse": {"mean": 0.3},
                "perturbed_fused": {"mean": 0.8}, "kept": {"mean": 0.7}}  # fmt: skip
    summary = {"accuracy": accuracy, "kept_parts": ["head"], "queries": {"images": 20_700}, "report": {"images": 360}}
    found = domain_shift._record(summary, None)
    expected = {"uncorrected": 20, "head": 70, "fuse": 30, "both": 80, "shipped": 70, "sent": 19_980}
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["kept"] == "head"
    assert domain_shift._record({**summary, "kept_parts": []}, None)["kept"] == "nothing"
    assert domain_shift._record({**summary, "kept_parts": ["fuse", "head"]}, None)["kept"] == "fuse and head"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(domain_shift, "DATA", {"digits": "digits"})
    monkeypatch.setattr(domain_shift, "_plain", lambda data: 98.0)
    monkeypatch.setattr(domain_shift, "control", lambda data, owned, tested: 0.9 if data.endswith("_gain") else 0.5)
    monkeypatch.setattr(domain_shift, "_draw", lambda rows: None)
    records = [
        {"data": data, "shift": shift, "method": method, "seed": seed, "uncorrected": low, "head": low + 4 + seed,
         "shipped": low + 10 + place + 2 * seed, "kept": "head" if seed == 1 else "fuse", "sent": 19_000 + seed}
        for (data, shift), low in LOW.items() for place, method in enumerate(domain_shift.METHODS) for seed in range(5)
    ]  # fmt: skip
    return domain_shift._rows(records, None)


def test_rows_have_shares_of_the_lost_points_with_the_controls_after_the_methods(rows: list[dict[str, Any]]) -> None:
    methods = list(domain_shift.METHODS)
    assert [row["method"] for row in rows] == 3 * [*methods, "head alone", "control"]
    third = rows[2]
    assert third["accuracies"] == [20.0 + 12 + 2 * seed for seed in range(5)]
    assert third["recovered"] == pytest.approx([(12 + 2 * seed) / 78 for seed in range(5)])
    assert (third["worst_points"], third["kept"], third["sent"]) == (12.0, {"fuse": 4, "head": 1}, 19_002)
    alone, control = rows[len(methods)], rows[len(methods) + 1]
    assert alone["accuracies"] == [24.0, 25.0, 26.0, 27.0, 28.0]
    assert (alone["sent"], control["sent"]) == (len(load("digits").train), 0)  # a head has all of them, at most 2,000
    assert control["accuracies"] == [90.0]
    assert control["recovered"] == pytest.approx([70 / 78])
    assert rows[-1]["worst_points"] == 50.0 - 78.0


def test_the_table_has_a_line_for_each_row(rows: list[dict[str, Any]]) -> None:
    group = domain_shift._table(rows)
    table: Any = group.renderables[0]
    assert headers(table) == ["shift", "method", "accuracy", "recovered", "worst", "kept"]
    assert table.title == "digits: 98.0 % on plain images; uncorrected gain 20.0, inversion 5.0, blur 78.0 %"
    values, shares = [32.0 + 2 * seed for seed in range(5)], [100 * (12 + 2 * seed) / 78 for seed in range(5)]
    assert cells(table)[2] == [
        "gain", "spsa, Filter", f"{mean(values):.1f} ± {pstdev(values):.1f}", f"{mean(shares):.1f} ± {pstdev(shares):.1f}",
        "+12.0", "fuse 4, head 1",
    ]  # fmt: skip
    console = Console(width=200)
    with console.capture() as shown:
        console.print(group)
    assert "over 5 seeds" in shown.get()


def test_the_bars_are_the_shares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = figures_of(monkeypatch, domain_shift, tmp_path)
    found = [
        {"data": data, "shift": shift, "method": method, "recovered": [0.1 * place + 0.01 * column, 0.1 * place + 0.03 * column]}
        for data in domain_shift.DATA for column, shift in enumerate(shifts.SHIFTS)
        for place, method in enumerate(domain_shift.COLOURS)
    ]  # fmt: skip
    domain_shift._draw(found)
    for axes, data in zip(figures[0].axes, domain_shift.DATA, strict=True):
        assert axes.get_title() == data
        assert [text.get_text() for text in axes.get_xticklabels()] == list(shifts.SHIFTS)
        bars = {
            container.get_label(): [bar.get_height() for bar in container]
            for container in axes.containers
            if isinstance(container, BarContainer)
        }
        assert list(bars) == list(domain_shift.COLOURS)
        for place, method in enumerate(domain_shift.COLOURS):
            assert bars[method] == pytest.approx([10 * place + 2 * column for column in range(3)])


def test_a_target_is_fitted_once_with_the_steps_of_the_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(domain_shift, "DATA", {"digits": "digits"})
    monkeypatch.setattr(domain_shift, "FIT", {"digits": {"steps": 7}})
    monkeypatch.setattr(
        domain_shift, "fit_to", lambda path, target, data, recipe: (made.append((target, recipe.steps)), path.touch())
    )
    domain_shift._fit_targets()
    domain_shift._fit_targets()
    assert made == [("digits", 7)]
    assert Path("runs/domain_shift/digits.pt").exists()
    assert domain_shift.TARGETS["CIFAR-10 (JPEG)"] == "resnet20"
