"""The fleet's arithmetic on toy records: each chip against itself, three chips, and shares above 100 %."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean, pstdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.base import Chip
from backends.datasets.base import Dataset, Split
from experiments import fleet
from tests.helpers.studies.drawn import cells, committed, figures_of, headers, points, shown_as_a_program, unlabelled

CHIPS = range(35_000, 35_003)
BARE = (0.4, 0.35, 0.3)
LOST = (50.0, 62.5, 80.0)
ALONE = (0.7, 0.65, 0.5)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "CHIPS", CHIPS)
    monkeypatch.setattr(fleet, "_as_it_is", lambda folder: iter((0.6, 0.725, 0.38) if folder == Path("first") else ()))


def records() -> list[dict[str, Any]]:
    """The population's run, then three chips for each start and head; every recovery is another number."""
    found: list[dict[str, Any]] = [{"arm": "population", "images": 20_000, "recovered": -99.0}]
    for at, arm in enumerate(("fresh", "from population")):
        for head in ("none", "affine"):
            for place, chip in enumerate(CHIPS):
                found.append({
                    "chip": chip, "arm": arm, "head": head, "images": 4000 + 100 * place + 7 * at, "clean": 0.93 + 0.01 * place,
                    "perturbed": BARE[place], "head_alone": ALONE[place], "lost": LOST[place],
                    "recovered": 20.0 + 11 * place**2 + 9 * at + (4 if head == "affine" else 0),
                })  # fmt: skip
    return found


@pytest.mark.usefixtures("three")
def test_every_arm_is_measured_against_the_same_chip_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures_of(monkeypatch, fleet, tmp_path)
    rows = fleet._rows(records(), [Path("first"), *[Path("other")] * 12])
    groups = [("population", "none"), ("head alone", "affine")]
    groups += [(arm, head) for arm in ("fresh", "from population") for head in ("none", "affine")]
    assert [(row["arm"], row["head"], row["chip"]) for row in rows] == [(*group, chip) for group in groups for chip in CHIPS]
    population, alone = rows[:3], rows[3:6]
    assert [row["recovered"] for row in population] == pytest.approx([20.0, 37.5, 8.0])
    assert [row["share"] for row in population] == pytest.approx([20 / 50, 37.5 / 62.5, 8 / 80])
    assert [row["images"] for row in population] == [0, 0, 0]
    assert [row["recovered"] for row in alone] == pytest.approx([30.0, 30.0, 20.0])
    assert [row["share"] for row in alone] == pytest.approx([0.6, 0.48, 0.25])
    assert [row["images"] for row in alone] == [1150] * 3  # all that are trained on
    last = rows[-3:]
    assert [row["recovered"] for row in last] == pytest.approx([33.0, 44.0, 77.0])
    assert [row["fused"] for row in last] == pytest.approx([0.73, 0.79, 1.07])
    assert [row["share"] for row in last] == pytest.approx([33 / 50, 44 / 62.5, 77 / 80])
    assert [row["images"] for row in last] == [4007, 4107, 4207]
    assert [row["clean"] for row in last] == pytest.approx([0.93, 0.94, 0.95])
    assert [(row["perturbed"], row["lost"]) for row in last] == [(0.4, 50.0), (0.35, 62.5), (0.3, 80.0)]


def test_a_chip_that_loses_nothing_has_no_share_of_it() -> None:
    run = {"chip": 35_000, "clean": 0.9, "perturbed": 0.9, "lost": 0.0}
    found = fleet._row(run, "fresh", "none", 4000, 0.95)
    assert (found["share"], found["recovered"]) == (None, pytest.approx(5.0))
    assert cells(fleet._table([found]))[0][3:] == ["95.0 ± 0.0", "5.0 ± 0.0", "5.0", "-", "-"]


def toy() -> list[dict[str, Any]]:
    """Two groups of two rows."""
    return [
        fleet._row({"chip": chip, "clean": clean, "perturbed": bare, "lost": lost}, arm, head, images, fused)
        for arm, head, images, chip, clean, bare, lost, fused in (
            ("population", "none", 0, 35_000, 0.96, 0.41, 55.0, 0.74), ("population", "none", 0, 35_001, 0.92, 0.2, 72.0, 0.48),
            ("fresh", "affine", 4990, 35_000, 0.96, 0.41, 55.0, 0.99), ("fresh", "affine", 4988, 35_001, 0.92, 0.2, 72.0, 0.63),
        )
    ]  # fmt: skip


def spread(*values: float) -> str:
    return f"{mean(values):.1f} ± {pstdev(values):.1f}"


def test_the_table_has_mean_sd_and_the_least_of_each_arm() -> None:
    table = fleet._table(toy())
    assert headers(table) == ["arm", "head", "images", "accuracy, %", "recovered", "least", "share, %", "least, %"]
    assert [column.justify for column in table.columns] == 2 * ["left"] + 6 * ["right"]
    assert table.padding == (0, 0, 0, 0)
    first, second = 100 * 0.58 / 0.55, 100 * 0.43 / 0.72
    assert cells(table) == [
        ["population", "none", "0", spread(74, 48), spread(33, 28), "28.0", spread(60, 100 * 28 / 72), "38.9"],
        ["fresh", "affine", "4,990", spread(99, 63), spread(58, 43), "43.0", spread(first, second), "59.7"],
    ]
    caption = str(table.caption)
    assert "of 20 chips" in caption
    assert "30.5 % unprotected, 94.0 % at nominal voltage" in caption
    assert "20,000 images, once" in caption


def test_a_dot_is_a_chip_and_a_stroke_their_mean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = figures_of(monkeypatch, fleet, tmp_path)
    monkeypatch.setattr(fleet, "CHIPS", range(35_000, 35_002))
    fleet._draw(toy())
    axes = figures[0].axes[0]
    expected = []
    for place, values in enumerate(((41.0, 20.0), (74.0, 48.0), (99.0, 63.0))):  # above all the chips as they are
        expected += [(list(values), [place] * 2), ([mean(values)], [place])]
    assert [(pytest.approx(x), y) for x, y in expected] == unlabelled(axes)[:6]
    assert unlabelled(axes)[6][0] == pytest.approx([96.0, 96.0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no fuse", "population", "fresh, affine"]
    assert list(axes.get_yticks()) == [0, 1, 2]
    assert axes.yaxis_inverted()
    assert not any(label for label in points(axes) if not label.startswith("_"))
    assert (tmp_path / "fleet.svg").exists()


def test_what_the_fuse_of_the_population_reaches_is_counted_chip_by_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that answers with the image's own pixel, rightly for as many images as the chip's last digit says."""
    images = torch.arange(5.0).view(5, 1, 1, 1)
    test = Split(images, torch.zeros(5, dtype=torch.int64))
    queried: list[tuple[Tensor, Chip]] = []

    class Target:
        def logits(self, given: Tensor, chip: Chip) -> Tensor:
            assert not given.requires_grad
            queried.append((given, chip))
            wrong = (torch.arange(5) >= chip.seed - 34_999).float()
            return torch.stack((0.5 + 0 * wrong, wrong), 1)

    def loaded(path: Path) -> Any:
        assert path == Path("somewhere") / "fuse.pt"
        return lambda given: given * torch.tensor(3.0, requires_grad=True)

    monkeypatch.setattr(fleet, "load", lambda name: Dataset(name, 2, test, test, test))
    monkeypatch.setattr(fleet, "fitted", lambda name, data: name)
    monkeypatch.setattr(fleet, "Simulator", lambda network: Target())
    monkeypatch.setattr(fleet, "Fuse", SimpleNamespace(load=loaded))
    monkeypatch.setattr(fleet, "CHIPS", CHIPS)
    found: Iterator[float] = fleet._as_it_is(Path("somewhere"))
    assert list(found) == pytest.approx([0.2, 0.4, 0.6])
    assert [chip for _, chip in queried] == [Chip(0.05, seed) for seed in CHIPS]
    for given, _ in queried:
        torch.testing.assert_close(given, 3 * images)
    assert torch.get_num_threads() == 1


def test_images_of_a_record_are_without_those_of_the_report() -> None:
    """The report sends 360 images raw and fused, at nominal voltage and on each chip that it is of."""
    summary = {
        "accuracy": {
            "clean": 0.97, "perturbed": {"mean": 0.36, "chips": 3}, "perturbed_head": {"mean": 0.62},
        },
        "queries": {"images": 9000}, "recovered_points": 41.0, "lost_points": 61.0,
    }  # fmt: skip
    assert fleet._record(summary, Path("unused")) == {
        "images": 9000 - 2 * 360 * 4, "clean": 0.97, "perturbed": 0.36, "head_alone": 0.62, "recovered": 41.0, "lost": 61.0,
    }  # fmt: skip


def test_every_chip_is_calibrated_with_each_head_from_both_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = fleet.STUDY.tasks()
    assert (first.config.budget, first.config.head_name, first.config.chip_seed) == (20_000 + 2 * 360 * 11, "none", None)
    start = first.folder(Path("runs") / "fleet")
    begun: dict[str, Path | None] = {"fresh": None, "from population": start}
    expected = [
        (chip, head, begun[arm]) for arm in begun for head in ("none", "affine") for chip in range(35_000, 35_020)
    ]  # fmt: skip
    assert [(task.config.chip_seed, task.config.head_name, task.config.init) for task in others] == expected
    for task in others:
        assert (task.config.budget, task.config.optimizer, task.config.validation.times) == (5_000 + 2 * 360 * 2, "follow", 0)
    done: list[Any] = []
    monkeypatch.setattr(fleet, "run_all", lambda root, tasks: done.append((root, tasks)))
    fleet.STUDY.prepare()
    assert done == [(Path("runs") / "fleet", [first])]


def test_as_a_program_it_prints_what_is_committed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown_as_a_program("fleet", monkeypatch, capsys) == committed("fleet")
