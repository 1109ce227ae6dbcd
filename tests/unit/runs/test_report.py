"""The numbers in the report's figures are those of the summary, read back from what is drawn."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from bbfuse.runs import report
from bbfuse.runs.figures import svg, without_frame
from bbfuse.runs.report import write_report
from tests.helpers.studies.summaries import made_summary

GREY, RED, ORANGE, PURPLE, BLUE = "#555555", "#c44e52", "#dd8452", "#8172b3", "#4c72b0"
CURVE = "Accuracy on owned validation images against images sent"
BARS = "Accuracy on held-out images"
GRID = "Images before and after the fuse"
TRADE = "Recovered points against energy saved"
SEEN = [{"step": 0, "images": 150, "validation": 0.437}, {"step": 3, "images": 910, "loss": 1.7},
        {"step": 8, "images": 4200, "validation": 0.691}, {"step": 9, "images": 17_000, "validation": 0.765}]  # fmt: skip


def written(
    folder: Path,
    summary: dict[str, Any],
    seen: list[dict[str, Any]] = SEEN,
    pictures: tuple[Tensor, Tensor] | None = None,
    rendered: bool = False,
) -> tuple[str, dict[str, Figure]]:
    """The page, and its figures by their captions; in the page they are only if ``rendered``, which takes its time."""
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in seen) + '{"torn')
    some = torch.linspace(-1, 1, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    drawn: list[Figure] = []

    def keep(figure: Figure) -> str:
        drawn.append(figure)
        return svg(figure) if rendered else "<svg></svg>"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "svg", keep)
        write_report(folder, summary, *(pictures or (some, some)))
    page = (folder / "report.html").read_text()
    return page, dict(zip(re.findall("<figcaption>(.*?)</figcaption>", page), drawn, strict=True))


def frame(axes: Axes) -> set[str]:
    return {side for side, spine in axes.spines.items() if spine.get_visible()}


@pytest.mark.parametrize(("chips", "head"), [(3, None), (1, None), (1, "none")])
def test_each_bar_is_as_long_as_its_accuracy_and_carries_its_number_and_spread(
    chips: int, head: str | None, tmp_path: Path
) -> None:
    (axes,) = written(tmp_path, made_summary(chips, head))[1][BARS].axes
    bars = axes.patches
    assert [bar.get_width() for bar in bars] == pytest.approx([93.1, 41.2, 58.3, 64.7, 79.9])  # type: ignore[attr-defined]
    assert [bar.get_y() + bar.get_height() / 2 for bar in bars] == pytest.approx([0, 1, 2, 3, 4])  # type: ignore[attr-defined]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [GREY, RED, ORANGE, PURPLE, BLUE]
    assert [text.get_text() for text in axes.texts] == ["93.1 %", "41.2 %", "58.3 %", "64.7 %", "79.9 %"]
    assert [text.get_position() for text in axes.texts] == [(1.5, place) for place in range(5)]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "nominal voltage", "no protection", "head alone", "fuse alone", "fuse and head",
    ]  # fmt: skip
    spreads = [container.errorbar for container in axes.containers if getattr(container, "errorbar", None) is not None]
    lengths = [np.ptp(spread[2][0].get_segments()[0][:, 0]) / 2 for spread in spreads]
    middles = [spread[2][0].get_segments()[0][:, 0].mean() for spread in spreads]
    assert lengths == pytest.approx([3.1, 4.7, 1.8, 2.6] if chips > 1 else [])
    assert middles == pytest.approx([41.2, 58.3, 64.7, 79.9] if chips > 1 else [])
    assert axes.get_xlim() == (0, 103)
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == "accuracy, %"
    assert frame(axes) == {"left", "bottom"}


@pytest.mark.parametrize(("saving", "with_fuse"), [(0.137, 13.7), (-0.214, -21.4), (0.0, 0.0)])
def test_points_are_won_over_no_protection_at_the_energy_of_what_is_in_front(
    saving: float, with_fuse: float, tmp_path: Path
) -> None:
    (axes,) = written(tmp_path, made_summary(saving=saving))[1][TRADE].axes
    points = [line for line in axes.lines if line.get_marker() == "o"]
    across, up = np.array([line.get_xydata()[0] for line in points]).T  # type: ignore[index]
    assert across == pytest.approx([0.0, 33.6, 33.6, with_fuse, with_fuse])
    assert up == pytest.approx([51.9, 0.0, 17.1, 23.5, 38.7])
    assert [(line.get_label(), to_hex(line.get_color())) for line in points] == [
        ("nominal voltage", GREY), ("no protection", RED), ("head alone", ORANGE), ("fuse alone", PURPLE),
        ("fuse and head", BLUE),
    ]  # fmt: skip
    level, upright = [line for line in axes.lines if line.get_marker() != "o"]
    assert list(level.get_ydata()) == [51.9, 51.9]
    assert list(upright.get_xdata()) == [0.0, 0.0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("energy of the target's weight reads saved, %", "recovered points")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [line.get_label() for line in points]
    assert frame(axes) == {"left", "bottom"}


def test_the_curve_goes_through_the_validations_between_the_lines_of_the_closing_report(tmp_path: Path) -> None:
    summary = made_summary()
    (axes,) = written(tmp_path, summary)[1][CURVE].axes
    curve, *levels = axes.lines
    np.testing.assert_allclose(curve.get_xydata(), [[150, 43.7], [4200, 69.1], [17_000, 76.5]])
    assert [line.get_ydata() for line in levels] == [pytest.approx([value] * 2) for value in (93.1, 58.3, 41.2)]
    assert [(line.get_label(), to_hex(line.get_color()), line.get_linestyle()) for line in axes.lines] == [
        ("fuse and head", BLUE, "-"), ("nominal voltage (held-out)", GREY, "--"), ("head alone (held-out)", ORANGE, "-."),
        ("no protection (held-out)", RED, ":"),
    ]  # fmt: skip
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("images sent", "accuracy, %")
    assert axes.get_ylim() == pytest.approx((26.2, 103))
    assert frame(axes) == {"left", "bottom"}
    summary["accuracy"]["perturbed"]["mean"] = 0.093
    assert written(tmp_path, summary)[1][CURVE].axes[0].get_ylim() == (0, 103)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_shows_eight_images_before_and_after_the_fuse_and_their_difference(channels: int, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(3)
    images, fused = (torch.rand((11, channels, 4, 5), generator=rng) * 2 - 1 for _ in range(2))
    figure = written(tmp_path, made_summary(), pictures=(images, fused))[1][GRID]
    cells = np.array(figure.axes).reshape(3, 8)
    before, after = images.numpy(), fused.numpy()
    for column in range(8):
        rows = (before[column] + 1) / 2, (after[column] + 1) / 2, np.clip((after[column] - before[column] + 1) / 2, 0, 1)
        for cell, expected, colours in zip(cells[:, column], rows, ("gray", "gray", "RdBu_r"), strict=True):
            (picture,) = cell.get_images()
            wanted = np.moveaxis(expected, 0, 2) if channels == 3 else expected[0]
            np.testing.assert_allclose(picture.get_array(), wanted, atol=1e-6)
            assert (picture.get_cmap().name, picture.get_clim()) == (colours, (0, 1))
            assert (len(cell.get_xticks()), len(cell.get_yticks())) == (0, 0)
    assert [[cell.get_ylabel() for cell in row] for row in cells] == [[name, *[""] * 7] for name in ("before", "after", "change")]
    assert abs(after[:8] - before[:8]).max() > 1.2  # some changes are beyond the scale


@pytest.mark.parametrize("channels", [1, 3])
def test_one_image_makes_a_grid_too(channels: int, tmp_path: Path) -> None:
    image = torch.zeros(1, channels, 3, 4)
    assert len(written(tmp_path, made_summary(), pictures=(image, image))[1][GRID].axes) == 3


@pytest.mark.parametrize(
    ("saving", "seen", "captions"),
    [
        (0.137, SEEN, [CURVE, BARS, GRID, TRADE]),
        (None, SEEN, [CURVE, BARS, GRID]),
        (0.137, [SEEN[1]], [BARS, GRID, TRADE]),
        (None, [], [BARS, GRID]),
        (0.137, SEEN[:1], [CURVE, BARS, GRID, TRADE]),
    ],
)
def test_the_page_has_the_figures_for_which_there_are_numbers(
    saving: float | None, seen: list[dict[str, Any]], captions: list[str], tmp_path: Path
) -> None:
    _, figures = written(tmp_path, made_summary(saving=saving), seen)
    assert list(figures) == captions


def test_the_page_stands_alone_and_gives_the_numbers_in_words_and_the_whole_summary(tmp_path: Path) -> None:
    summary = {**made_summary(), "note": "<b> & co"}
    page, figures = written(tmp_path, summary, rendered=True)
    (lead,) = re.findall("<p>(.*?)</p>", page)[:1]
    assert lead == (
        "93.1 % at nominal voltage, 41.2 % at 3.75 % bit errors, 79.9 % with all that was trained; 18,453 images sent."
    )
    (shown,) = re.findall("<pre>(.*?)</pre>", page, re.DOTALL)
    assert json.loads(html.unescape(shown)) == summary
    assert "<b>" not in shown
    assert re.findall(r"<figure><figcaption>(.*?)</figcaption><svg.*?</svg>", page, re.DOTALL) == list(figures)
    words = re.findall(r"<text[^>]*>(.*?)</text>", page)
    for number in ("93.1 %", "41.2 %", "58.3 %", "64.7 %", "79.9 %", "accuracy, %", "recovered points", "images sent", "change"):
        assert number in words, number


def test_a_figure_is_the_same_at_every_call() -> None:
    def drawn() -> str:
        figure = Figure()
        axes = figure.subplots()
        axes.axhspan(6, 8, hatch="/")
        without_frame(axes)
        return svg(figure)

    once = drawn()
    assert once.startswith("<svg ")
    assert once.rstrip().endswith("</svg>")
    assert once == drawn()


def test_images_before_and_after_the_fuse_are_as_many(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        written(tmp_path, made_summary(), pictures=(torch.zeros(2, 1, 3, 4), torch.zeros(1, 1, 3, 4)))
