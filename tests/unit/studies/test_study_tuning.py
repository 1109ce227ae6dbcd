"""Which value of a setting is best: means over chips and seeds, the mark in the table, and the trials of Ray Tune."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.base import Chip
from backends.datasets.base import Dataset, Split
from bbfuse.compare.tasks import configs_of
from bbfuse.optimizers.base import OPTIMIZERS
from experiments import tuning
from tests.helpers.studies.drawn import cells, committed, headers, shown_as_a_program


def test_a_row_is_the_mean_of_the_runs_with_the_same_setting_method_and_value() -> None:
    found = [
        ("chip", "rge", 0.01, 0.5), ("chip", "rge", 0.01, 0.9), ("chip", "rge", 0.02, 0.61), ("chip", "spsa", 0.01, 0.33),
        ("population", "rge", 0.01, 0.77), ("chip", "rge", 0.01, 0.4), ("population", "rge", 0.01, 0.7),
    ]  # fmt: skip
    records = [dict(zip(("setting", "method", "value", "accuracy"), row, strict=True)) for row in found]
    rows = tuning._rows(records, [])
    assert [(row["setting"], row["method"], row["name"], row["value"], row["runs"]) for row in rows] == [
        ("chip", "rge", "lr", 0.01, 3), ("chip", "rge", "lr", 0.02, 1), ("chip", "spsa", "step", 0.01, 1),
        ("population", "rge", "lr", 0.01, 2),
    ]  # fmt: skip
    assert [row["accuracy"] for row in rows] == pytest.approx([0.6, 0.61, 0.33, 0.735])


def toy() -> list[dict[str, Any]]:
    """Two values for each method and setting; the second one is best for a chip, the first one for the population."""
    return [
        {"setting": setting, "method": method, "value": value, "accuracy": accuracy}
        for place, method in enumerate(tuning.ARMS)
        for setting, accuracies in (("chip", (0.51, 0.6234)), ("population", (0.71, 0.3)))
        for value, accuracy in zip((0.003, 0.01 + place), accuracies, strict=True)
    ]  # fmt: skip


def test_the_best_value_is_marked_and_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    table = tuning._table(toy())
    assert headers(table) == ["method", "tuned", "chip", "population"]
    for place, (row, (name, arm)) in enumerate(zip(cells(table), tuning.ARMS.items(), strict=True)):
        value = f"{0.01 + place:g}"
        assert row == [name, arm.tuned, f"0.003: 51.0\n{value}: 62.3 *", f"0.003: 71.0 *\n{value}: 30.0"]
    assert all(row.end_section for row in table.rows)
    monkeypatch.setattr(tuning, "rows_of", lambda name: toy() if name == "tuning" else [])
    assert tuning.tuned("chip", "spsa") == 4.01
    assert tuning.tuned("population", "spsa") == 0.003


def test_a_run_is_scored_on_validation_images_on_its_own_chip_or_on_ten_of_the_validation_stream(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A target that is right for as many of 20 images as the chip's seed says."""
    queried: list[Chip] = []

    class Target:
        def logits(self, given: Tensor, chip: Chip) -> Tensor:
            assert not given.requires_grad
            torch.testing.assert_close(given, 3 * images)
            queried.append(chip)
            wrong = (torch.arange(20) >= chip.seed % 1000 + 5).float()
            return torch.stack((0.5 + 0 * wrong, wrong), 1)

    images = torch.linspace(-1, 1, 20).view(20, 1, 1, 1)
    held, other = Split(images, torch.zeros(20, dtype=torch.int64)), Split(images + 9, torch.ones(20, dtype=torch.int64))
    monkeypatch.setattr(tuning, "load", lambda name: Dataset(name, 2, other, held, other))
    monkeypatch.setattr(tuning, "_simulator", Target)

    def loaded(path: Path) -> Any:
        assert path == tmp_path / "fuse.pt"
        return lambda given: given * torch.tensor(3.0, requires_grad=True)

    monkeypatch.setattr(tuning, "Fuse", SimpleNamespace(load=loaded))
    one = tuning._record({"config": {"chip_seed": 1003, "bit_error_rate": 0.07}}, tmp_path)
    assert one == pytest.approx({"accuracy": 8 / 20})
    assert queried == [Chip(0.07, 1003)]
    many = tuning._record({"config": {"chip_seed": None, "bit_error_rate": 0.05}}, tmp_path)
    assert many == pytest.approx({"accuracy": sum(range(5, 15)) / 10 / 20})
    assert queried[1:] == [Chip(0.05, 40_000 + place) for place in range(10)]


def test_the_grid_is_run_on_chips_100_to_102_and_for_the_population_with_two_seeds() -> None:
    result, tasks = committed("tuning"), tuning.STUDY.tasks()
    wanted = [
        {"setting": setting, "method": name, "value": value, "seed": seed}
        for name, arm in tuning.ARMS.items()
        for value in arm.grid
        for setting, seeds in (("chip", (100, 101, 102)), ("population", (0, 1)))
        for seed in seeds
    ]
    assert [task.labels for task in tasks] == wanted
    keys = ("setting", "method", "name", "value")
    kinds = dict.fromkeys((w["setting"], w["method"], tuning.ARMS[w["method"]].tuned, w["value"]) for w in wanted)
    assert [tuple(row[key] for key in keys) for row in result["rows"]] == list(kinds)
    assert [row["runs"] for row in result["rows"]] == [3 if row["setting"] == "chip" else 2 for row in result["rows"]]
    for task, before in zip(tasks, configs_of(result["config"]), strict=True):
        own, others = task.config.optimizer.replace("-", "_"), {name.replace("-", "_") for name in OPTIMIZERS}
        now, then = asdict(task.config), asdict(before)
        for section in others - {own}:  # defaults of the others were moved to what was found best
            del now[section], then[section]
        assert now == then
        assert (task.config.budget, task.config.head, task.config.validation.times) == (30_000, "none", 0)
        if task.labels["setting"] == "population":
            assert (task.config.chip_seed, task.config.seed, task.config.report.chips) == (None, task.labels["seed"], 1)
        else:
            assert task.config.chip_seed == task.labels["seed"]


def test_an_arm_is_a_method_with_its_value_and_16_images_a_step() -> None:
    config = tuning.ARMS["rge, plain"].config(0.013, chip_seed=3)
    assert (config.rge.lr, config.rge.broyden, config.backend, config.batch, config.chip_seed) == (0.013, False, "local", None, 3)
    relaxed = tuning.ARMS["backprop"].config(0.02)
    assert (relaxed.backprop.lr, relaxed.backend, relaxed.batch, relaxed.head) == (0.02, "whitebox", 16, "none")
    assert tuning.ARMS["rge"].config(0.013).rge.broyden is True
    assert vars(tuning.Arm)["__dataclass_params__"].frozen
    assert tuning.ARMS["cma, diagonal"].config(0.5).cma.subspace is None


def test_the_simulator_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "fitted", lambda name, data: (name, data.name))
    monkeypatch.setattr(tuning, "Simulator", lambda network: [network])
    tuning._simulator.cache_clear()
    try:
        assert tuning._simulator() == [("digits", "digits")]
        assert tuning._simulator() is tuning._simulator()
    finally:
        tuning._simulator.cache_clear()


def test_the_runs_are_trials_whose_metric_is_the_recorded_accuracy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tuning, "run_trials", lambda *given: given)
    assert tuning.by_tune(tmp_path, [], "here") == (tmp_path, [], "here", tuning._record)
    assert tuning.STUDY.run_all is tuning.by_tune


def test_as_a_program_it_prints_what_is_committed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown_as_a_program("tuning", monkeypatch, capsys) == committed("tuning")
