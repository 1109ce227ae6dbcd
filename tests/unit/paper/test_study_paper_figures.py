"""The four panels of the study of NeuralFuse's tables, read back from toy rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.paper import figures
from experiments.paper.rows import KEYS
from tests.helpers.studies.drawn import deviations, figures_of, points, rectangles, segments


def row(study: str, target: str, method: str, rate: float, **known: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(KEYS),
        "study": study,
        "target": target,
        "method": method,
        "rate": rate,
        "bits": 8,
        "images": 0,
        **known,
    }


def fuse(target: str, generator: str, rate: float, after: float, sd: float, before: float, saving: float | None = 0.1) -> Any:
    return row(
        "relaxed", target, "backprop", rate, generator=generator, trained_rate=rate, fused_mean=after, fused_sd=sd,
        perturbed_mean=before, saving=saving, paper_target=f"paper's {target}", paper_fused_mean=after - 0.07,
    )  # fmt: skip


def used(study: str, target: str, generator: str, rate: float, trained: float, after: float) -> Any:
    return row(study, target, "backprop", rate, generator=generator, trained_rate=trained, fused_mean=after)


def strict(target: str, method: str, images: int, after: float, sd: float, before: float, saving: float | None) -> Any:
    known = {"images": images, "fused_mean": after, "fused_sd": sd, "perturbed_mean": before, "saving": saving}
    return row("strict", target, method, 0.05, **known)


ROWS = [
    fuse("A", "ConvL", 0.05, 0.81, 0.02, 0.31), fuse("A", "UNetL", 0.05, 0.72, 0.05, 0.33, 0.2),
    fuse("A", "ConvL", 0.02, 0.9, 0, 0.6),
    fuse("B", "ConvL", 0.05, 0.63, 0.01, 0.27, -0.7), fuse("B", "UNetL", 0.05, 0.64, 0.03, 0.29, 0.25),
    fuse("B", "UNetL", 0.02, 0.93, 0.03, 0.7, -0.59),
    used("rates", "A", "ConvL", 0.1, 0.05, 0.41), used("rates", "A", "ConvL", 0.01, 0.05, 0.88),
    used("rates", "B", "UNetL", 0.1, 0.05, 0.3),
    used("rates", "A", "ConvL", 0.3, 0.02, 0.1), used("precision", "A", "ConvL", 0.03, 0.05, 0.2),
    used("rates", "B", "ConvS", 0.01, 0.05, 0.95),
    row("alternatives", "A", "no fuse", 0.05, perturbed_mean=0.32, saving=0.3),
    row("alternatives", "A", "no fuse", 0.01, perturbed_mean=0.77, saving=0.21),
    row("alternatives", "B", "no fuse", 0.05, perturbed_mean=0.28, saving=0.31),
    row("alternatives", "B", "no fuse", 0.01, perturbed_mean=0.79, saving=0.22),
    row("alternatives", "C", "smaller target", 0.05, perturbed_mean=0.5, saving=0.62),
    row("alternatives", "C", "smaller target", 0.01, perturbed_mean=0.7, saving=0.55),
    row("precision", "A", "no fuse", 0.02, perturbed_mean=0.59, bits=8, saving=0.26),
    row("precision", "B", "no fuse", 0.02, perturbed_mean=0.57, bits=8, saving=0.27),
    row("precision", "B", "no fuse", 0.002, perturbed_mean=0.17, bits=4, saving=0.28),
    row("alternatives", "B", "classifier of a fuse's size", 0.0, clean=0.66, perturbed_mean=0.6, saving=0.9),
    row("alternatives", "B", "classifier of a fuse's size", 0.0, clean=0.46, perturbed_mean=0.4, saving=-0.6),
    row("alternatives", "A", "classifier of a fuse's size", 0.0, clean=0.56, perturbed_mean=0.5, saving=0.8),
    strict("A", "follow (population)", 30_000, 0.52, 0.06, 0.34, 0.11),
    strict("A", "follow (one chip)", 2_500, 0.83, 0.04, 0.36, 0.12),
    strict("B", "follow (population)", 30_000, 0.42, 0.07, 0.24, 0.13),
    strict("B", "follow (one chip)", 2_500, 0.73, 0.08, 0.26, 0.14),
    strict("A", "follow (population)", 10_000, 0.51, 0.01, 0.34, None),
    strict("B", "follow (population)", 10_000, 0.41, 0.02, 0.25, None),
]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Figure:
    kept = figures_of(monkeypatch, figures, tmp_path)
    figures.draw(ROWS, "toy")
    assert (tmp_path / "toy.svg").exists()
    return kept[0]


def percent(*values: float) -> Any:
    return pytest.approx([100 * value for value in values])


def test_bars_of_the_highest_rate_stand_beside_each_other_with_the_bare_target_and_the_paper(drawn: Figure) -> None:
    axes = drawn.axes[0]
    bars, stars = rectangles(axes), points(axes)
    for place, (target, after, before) in enumerate((("A", (0.81, 0.72), (0.31, 0.33)), ("B", (0.63, 0.64), (0.27, 0.29)))):
        middles = [index - 0.18 + 0.36 * place for index in (0, 1)]
        assert [bar[0] + bar[2] / 2 for bar in bars[target]] == pytest.approx(middles)
        assert [bar[2] for bar in bars[target]] == pytest.approx([0.3, 0.3])
        assert [bar[3] for bar in bars[target]] == percent(*after)
        x, y = stars[f"paper's {target}, 1 % (the paper)"]
        assert (x, y) == (pytest.approx(middles), percent(*(value - 0.07 for value in after)))
        for piece, middle, value in zip(segments(axes)[place], middles, before, strict=True):
            assert piece[0] == pytest.approx([middle - 0.15, 100 * value])
            assert piece[1] == pytest.approx([middle + 0.15, 100 * value])
    assert deviations(axes) == [pytest.approx([2.0, 5.0]), pytest.approx([1.0, 3.0])]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ConvL", "UNetL"]
    assert list(axes.get_xticks()) == [0, 1]
    assert (axes.get_title(), axes.get_ylim()) == ("with gradients, 5 % errors", (0, 102))
    assert [lines.get_label() for lines in axes.collections if "fuse" in str(lines.get_label())] == ["without a fuse"]


def test_a_paper_without_one_of_the_numbers_has_no_stars(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    axes = Figure().subplots()
    figures._generators(axes, [{**one, "paper_fused_mean": None} if one["generator"] == "UNetL" else one for one in ROWS])
    assert [label for label in points(axes) if "paper" in label] == []


def test_methods_by_answers_lie_below_each_other_with_the_images_sent(drawn: Figure) -> None:
    axes = drawn.axes[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "follow (population), 30,000", "follow (population), 10,000", "follow (one chip), 2,500"
    ]  # fmt: skip
    assert list(axes.get_yticks()) == [0, 1, 2]
    found = [bars for bars in axes.containers if hasattr(bars, "patches")]
    values = (((0.52, 0.51, 0.83), (0.34, 0.34, 0.36)), ((0.42, 0.41, 0.73), (0.24, 0.25, 0.26)))
    for place, (after, before) in enumerate(values):
        middles = [index - 0.15 + 0.3 * place for index in range(3)]
        patches = found[place].patches
        assert [bar.get_width() for bar in patches] == percent(*after)
        assert [bar.get_height() for bar in patches] == pytest.approx([0.28] * 3)
        assert [bar.get_y() + bar.get_height() / 2 for bar in patches] == pytest.approx(middles)
        for piece, middle, value in zip(segments(axes)[place], middles, before, strict=True):
            assert piece[0] == pytest.approx([100 * value, middle - 0.14])
            assert piece[1] == pytest.approx([100 * value, middle + 0.14])
    assert deviations(axes, across=0) == [pytest.approx([6.0, 1.0, 4.0]), pytest.approx([7.0, 2.0, 8.0])]
    assert (axes.get_xlim(), axes.get_xlabel()) == ((0, 102), "held-out accuracy, %")
    assert axes.get_legend() is None


def test_one_fuse_is_followed_over_all_rates_and_the_bare_target_beside_it(drawn: Figure) -> None:
    axes = drawn.axes[2]
    lines = points(axes)
    assert lines["A alone"] == (pytest.approx([1, 2, 5]), percent(0.77, 0.59, 0.32))
    assert lines["B alone"] == (pytest.approx([1, 2, 5]), percent(0.79, 0.57, 0.28))
    assert lines["A behind ConvL"] == (pytest.approx([1, 5, 10]), percent(0.88, 0.81, 0.41))
    assert lines["A behind UNetL"] == (pytest.approx([5]), percent(0.72))
    assert lines["B behind UNetL"] == (pytest.approx([5, 10]), percent(0.64, 0.3))
    assert len(lines) == 6
    assert list(axes.get_xticks()) == pytest.approx([1, 5, 10, 30])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5", "10", "30"]
    assert (len(axes.get_xticks(minor=True)), axes.get_xscale()) == (0, "log")


def test_a_generator_that_was_not_trained_at_the_highest_rate_has_no_line() -> None:
    axes = Figure().subplots()
    figures._rates(axes, [one for one in ROWS if (one["target"], one["generator"]) != ("A", "UNetL")])
    assert "A behind UNetL" not in points(axes)


def plane(axes: Axes) -> dict[str, set[tuple[float, float]]]:
    return {label: {(round(x, 6), round(y, 6)) for x, y in zip(*line, strict=True)} for label, line in points(axes).items()}


def test_the_plane_has_what_saves_enough_in_front_of_the_last_target(drawn: Figure) -> None:
    axes = drawn.axes[3]
    found, lines = plane(axes), points(axes)
    assert lines["no fuse, all voltages"] == (pytest.approx([22, 31]), pytest.approx([79, 28]))
    assert lines["a smaller target, all voltages"] == (pytest.approx([55, 62]), pytest.approx([70, 50]))
    assert found["fuse by gradients"] == {(25.0, 64.0), (-59.0, 93.0)}  # one at -70 % is left out
    assert found["strict access, population"] == {(13.0, 42.0)}
    assert found["strict access, one chip"] == {(14.0, 73.0)}
    assert found["classifier of a fuse's size instead"] == {(90.0, 66.0)}  # that at the very limit is left out
    # one too dear and one without a voltage
    assert axes.get_xlabel() == "energy of weight reads saved, % (2 more expensive fuses left out)"
    assert (axes.get_title(), axes.get_ylabel()) == ("energy against accuracy, B", "held-out accuracy, %")


def test_the_plane_of_a_single_target_is_its_own() -> None:
    axes = Figure().subplots()
    figures._plane(axes, [one for one in ROWS if one["target"] == "A"])
    assert axes.get_title() == "energy against accuracy, A"
    assert plane(axes)["fuse by gradients"] == {(10.0, 81.0), (20.0, 72.0), (10.0, 90.0)}


def test_every_panel_has_no_frame_and_but_one_a_legend(drawn: Figure) -> None:
    assert [axes.get_legend() is None for axes in drawn.axes] == [False, True, False, False]
    assert [axes.get_ylim() for place, axes in enumerate(drawn.axes) if place != 1] == [(0, 102)] * 3
    for axes in drawn.axes:
        assert [axes.spines[side].get_visible() for side in ("top", "right", "left", "bottom")] == [False, False, True, True]
