"""What misleading surrogates cost, on toy records: differences chip by chip, the first tenth of the trust, the curves."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest
import torch
from torch import nn

from backends.datasets.base import Split
from backends.datasets.loading import load
from bbfuse.compare.tasks import configs_of
from bbfuse.config.checks import validate
from bbfuse.seeds import stream
from experiments import misled
from tests.helpers.studies.drawn import cells, committed, figures_of, headers, points, shown_as_a_program, text_of, written_events

SUMMARY = {"queries": {"images": 21_312}, "lost_points": 61.0, "recovered_points": 47.5, "trust": 0.83}


@pytest.mark.parametrize(("steps", "tenth"), [(39, 3), (40, 4)])
def test_the_early_trust_is_the_mean_of_the_first_tenth_of_the_steps_that_have_one(
    steps: int, tenth: int, tmp_path: Path
) -> None:
    trusts = [0.05 * (place % 7) ** 1.5 for place in range(steps)]
    folder = written_events(tmp_path, [{"step": 0, "images": 4}, *({"images": 16 * n, "trust": t} for n, t in enumerate(trusts))])
    found = misled._record(SUMMARY, folder)
    early = sum((0.0, 0.05, 0.05 * 2**1.5, 0.05 * 3**1.5)[:tenth]) / tenth
    assert found == pytest.approx({"images": 21_312, "lost": 61.0, "recovered": 47.5, "trust_early": early, "trust_end": 0.83})


def test_a_run_without_a_surrogate_has_no_trust(tmp_path: Path) -> None:
    folder = written_events(tmp_path, [{"step": 0, "images": 4}])
    found = misled._record({**SUMMARY, "trust": None}, folder)
    assert (found["trust_early"], found["trust_end"]) == (None, None)


def rows() -> list[dict[str, Any]]:
    """Three chips of each arm; those of rge are no constant, so that only a difference chip by chip is right."""
    found = []
    arms = [("rge", "none"), *((method, name) for method in ("guided", "follow") for name in misled.SURROGATES)]
    for place, (method, name) in enumerate(arms):
        for seed, (rge, change) in enumerate(((40.0, 1.5), (52.0, -0.7), (31.0, -2.1))):
            trust = None if method == "rge" else 0.1 * (place % 5) + 0.03 * seed**2
            found.append({
                "method": method, "surrogate": name, "seed": seed, "recovered": rge + (place and change * place + 0.4 * seed),
                "trust_early": trust, "trust_end": None if trust is None else trust + 0.31,
            })  # fmt: skip
    return found


def test_the_table_has_the_differences_from_rge_and_from_the_honest_one_on_the_same_chips() -> None:
    table = misled._table(rows())
    assert headers(table) == [
        "method", "surrogate", "recovered", "less rge", "worst chip", "less honest", "trust early", "end"
    ]  # fmt: skip
    assert table.padding == (0, 0, 0, 0)
    printed = cells(table)
    first = [40.0, 52.0, 31.0]
    assert printed[0] == ["rge", "none", f"{mean(first):.1f} ± {pstdev(first):.1f}", "", "", "", "", ""]
    assert [tuple(row[:2]) for row in printed[1:]] == [(m, name) for m in ("guided", "follow") for name in misled.SURROGATES]
    for place, row in enumerate(printed[1:], start=1):
        less = [1.5 * place, -0.7 * place + 0.4, -2.1 * place + 0.8]
        honest = 1 if place <= 5 else 6  # the place of the honest one of the same method
        against = [change * (place - honest) for change in (1.5, -0.7, -2.1)]
        mine = [points + change for points, change in zip(first, less, strict=True)]
        early = 0.1 * (place % 5) + 0.03 * (0 + 1 + 4) / 3
        assert row[2:] == [
            f"{mean(mine):.1f} ± {pstdev(mine):.1f}", f"{mean(less):+.1f}", f"{min(less):+.1f}", f"{mean(against):+.1f}",
            f"{early:.2f}", f"{early + 0.31:.2f}",
        ]  # fmt: skip
    assert "mean ± sd of 5 chips, 20,000 images" in str(table.caption)


def test_an_arm_with_fewer_chips_than_the_one_beside_it_is_not_compared() -> None:
    with pytest.raises(ValueError, match="longer"):
        misled._table(rows()[:-1])


def test_a_curve_is_the_mean_over_chips_of_every_so_manyth_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures, found, folders = figures_of(monkeypatch, misled, tmp_path), rows(), []
    for number, row in enumerate(found):
        if row["method"] == "rge":
            lines = [{"images": 3}]
        else:
            lines = [
                {"images": 16 * step + 2 * row["seed"], "trust": 0.001 * step + 0.01 * number}
                for step in range(120 if row["method"] == "guided" else 119)
            ]
        folders.append(written_events(tmp_path / str(number), lines))
    misled._draw(found, folders)
    for panel, (method, axes) in enumerate(zip(("guided", "follow"), figures[0].axes, strict=True)):
        drawn = points(axes)
        assert list(drawn) == list(misled.SURROGATES)
        for place, name in enumerate(misled.SURROGATES):
            numbers = [3 * (1 + 5 * panel + place) + seed for seed in range(3)]
            steps = range(0, 120, 2) if method == "guided" else range(119)  # sixty points or some more
            assert drawn[name][0] == pytest.approx([16 * step + 2 for step in steps])
            assert drawn[name][1] == pytest.approx([0.001 * step + 0.01 * mean(numbers) for step in steps])
        assert (axes.get_title(), axes.get_xscale()) == (method, "log")
    left, right = figures[0].axes
    assert left.get_shared_y_axes().joined(left, right)
    assert (left.get_ylabel(), right.get_ylabel(), left.get_legend(), len(right.get_legend().get_texts())) == (
        "trust",
        "",
        None,
        5,
    )
    with pytest.raises(ValueError, match="shorter"):
        misled._draw(found, folders[:-1])


def test_shuffled_labels_are_dealt_out_anew_by_the_seed() -> None:
    train = load("digits").train
    for seed in (0, 3):
        found = misled._shuffled(seed)
        torch.testing.assert_close(found.images, train.images)
        order = torch.randperm(len(train), generator=stream(seed, "shuffled")).tolist()
        assert found.labels.tolist() == [int(train.labels[place]) for place in order]
        assert found.labels.bincount().tolist() == train.labels.bincount().tolist()
        assert 0.05 < (found.labels == train.labels).double().mean() < 0.16  # a tenth by chance, 6 sd of 1,150 draws


def test_a_foreign_image_is_the_pattern_of_its_class_under_noise() -> None:
    """Pattern and noise have a standard deviation of 0.5 a pixel, and pixels end at 1."""
    found, train, rng = misled._foreign(7), load("digits").train, stream(7, "foreign")
    expected = torch.randint(10, (len(train),), generator=rng)
    assert found.images.shape == train.images.shape
    assert (found.images.min(), found.images.max()) == (-1.0, 1.0)
    assert found.labels.tolist() == expected.tolist()
    patterns = torch.randn(10, 1, 8, 8, generator=rng) / 2
    inside = found.images.abs() < 1
    noise = torch.randn(len(train), 1, 8, 8, generator=rng) / 2
    for place in (0, 17, 1149):
        image = patterns[int(found.labels[place])] + noise[place]
        torch.testing.assert_close(found.images[place], torch.minimum(torch.ones(()), torch.maximum(-torch.ones(()), image)))
    assert inside.double().mean() == pytest.approx(0.8427, abs=0.02)  # of a normal variable of sd 0.7071


@pytest.mark.parametrize("name", ["shuffled", "inverted", "foreign"])
def test_an_inverted_surrogate_is_the_fitted_one_with_its_last_layer_negated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def fit(network: nn.Module, split: Split, recipe: Any) -> None:
        seen.append((split, recipe))
        with torch.no_grad():
            for number, parameter in enumerate(network.parameters()):
                parameter.fill_(0.25 + number)

    monkeypatch.setattr(misled, "fit", fit)
    state = misled.misleading(name, 4)
    ((split, recipe),) = seen
    assert recipe.seed == 4
    assert recipe.steps == 600
    expected = {"shuffled": misled._shuffled, "inverted": lambda seed: load("digits").train, "foreign": misled._foreign}[name](4)
    torch.testing.assert_close(split.labels, expected.labels)
    torch.testing.assert_close(split.images, expected.images)
    for key, tensor in state.items():
        if tensor.is_floating_point() and "running" not in key:
            negative = name == "inverted" and key.startswith("last.")
            assert bool((tensor < 0).all()) == negative, key
    assert state["last.weight"].shape[0] == 10


def test_what_misleads_is_written_once_for_each_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(misled, "misleading", lambda name, seed: made.append((name, seed)) or {"of": (name, seed)})
    there = misled._weights("inverted", 2)
    there.parent.mkdir(parents=True)
    torch.save({"of": "before"}, there)
    misled.STUDY.prepare()
    every = [(name, seed) for name in ("shuffled", "inverted", "foreign") for seed in range(5)]
    assert made == [one for one in every if one != ("inverted", 2)]
    for name, seed in every:
        kept = torch.load(misled._weights(name, seed))["of"]
        assert kept == ("before" if (name, seed) == ("inverted", 2) else (name, seed))
    assert len(list(there.parent.iterdir())) == 15


def test_every_arm_has_a_run_for_each_chip_and_the_frozen_one_never_learns() -> None:
    tasks = misled.STUDY.tasks()
    assert configs_of(committed("misled")["config"]) == [task.config for task in tasks]
    assert [task.config.chip_seed for task in tasks] == list(range(5)) * 11
    for task in tasks:
        validate(task.config)
        name = task.labels["surrogate"]
        assert (task.config.surrogate.updates == 0) == (name == "frozen")
        wanted = {"frozen": "shuffled", "none": None, "honest": None}.get(name, name)
        weights = None if wanted is None else f"runs/misled/{wanted}-{task.labels['seed']}.pt"
        assert task.config.surrogate.weights == weights
        assert task.config.budget == 20_000 + 2 * 360 * 2
    assert misled.LIMIT == 5.0


def test_as_a_program_it_prints_what_is_committed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown_as_a_program("misled", monkeypatch, capsys) == committed("misled")
    assert "inverted" in text_of(misled._table(committed("misled")["rows"]))
