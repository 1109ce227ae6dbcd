"""Tables and figures: groups in order, mean ± sd, shares of nothing, Markdown of what the console shows, SVG files."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table

from bbfuse.compare.display import plots, tables
from tests.helpers.studies.drawn import cells, headers

ROWS = [
    {"arm": "b", "chip": 0, "points": 2.0, "share": 0.5},
    {"arm": "a", "chip": 0, "points": 1.0, "share": None},
    {"arm": "b", "chip": 1, "points": 5.0, "share": 0.9},
]


def test_groups_are_in_order_of_appearance() -> None:
    assert tables.grouped(ROWS, "arm") == {("b",): [ROWS[0], ROWS[2]], ("a",): [ROWS[1]]}
    assert list(tables.grouped(ROWS, "chip", "arm")) == [(0, "b"), (0, "a"), (1, "b")]


def test_a_table_has_one_line_for_each_group() -> None:
    columns = {
        "points": tables.spread("points", 1.0), "share": tables.spread("share"), "least": tables.least("points", 1.0),
        "mean": tables.average("points", ".2f", 10.0), "chip": tables.first("chip", "03d"),
        "on 1": tables.at("chip", 1, lambda row: f"{row['points']:.0f} points"),
    }  # fmt: skip
    shown = tables.table(ROWS, ("arm",), columns, caption="below")
    assert headers(shown) == ["arm", "points", "share", "least", "mean", "chip", "on 1"]
    assert [column.justify for column in shown.columns] == ["left"] + 6 * ["right"]
    assert cells(shown) == [
        ["b", "3.5 ± 1.5", "70.0 ± 20.0", "2.0", "35.00", "000", "5 points"],
        ["a", "1.0 ± 0.0", "-", "1.0", "10.00", "000", ""],
    ]
    assert str(shown.caption) == "below"


def test_a_missing_share_is_shown_as_a_dash() -> None:
    assert (tables.percent(0.756), tables.percent(0.756, 0, " %"), tables.percent(None)) == ("75.6", "76 %", "-")


def test_markdown_has_the_title_the_lines_and_the_caption() -> None:
    shown = Table("a", "b|c", title="above", caption="below")
    shown.add_row("1", "2\n3")
    text = "**above**\n\n| a | b\\|c |\n| --- | --- |\n| 1 | 2<br>3 |\n\nbelow"
    assert tables.markdown(shown) == text
    assert tables.markdown(Group(shown, "end\n")) == text + "\n\nend"
    assert tables.markdown(Table("x")) == "| x |\n| --- |"


def test_panels_are_written_without_frame_and_with_one_legend(tmp_path: Path) -> None:
    with plots.panels(tmp_path / "two.svg", 4, 2, 2, sharey=True) as axes:
        for each in axes:
            plots.level(each, 3.0, "no fuse")
            plots.error_bars(each, [1, 2], [3, 4], [0.1, 0.2], color=plots.BLUE, label="arm", markersize=5)
    assert [each.get_legend() is not None for each in axes] == [False, True]
    assert not any(each.spines[side].get_visible() for each in axes for side in ("top", "right"))
    assert axes[1].get_shared_y_axes().joined(*axes)
    text = (tmp_path / "two.svg").read_text()
    assert text.startswith("<svg")
    assert "arm" in text
    line = axes[0].containers[0].lines[0]
    assert (line.get_marker(), line.get_markersize(), line.get_color()) == ("o", 5, plots.BLUE)
    assert (axes[0].lines[0].get_linestyle(), axes[0].lines[0].get_color()) == (":", plots.RED)


def test_a_figure_whose_block_fails_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data"), plots.panels(tmp_path / "one.svg", 4, 2, legend=False):
        raise ValueError("no data")
    assert not (tmp_path / "one.svg").exists()
