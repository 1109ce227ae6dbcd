"""What the paper's networks and fuses cost and save: its own numbers, and what is printed and drawn of toy records."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from backends.targets import networks
from bbfuse.fuse.generators.base import GENERATORS
from experiments import energy
from tests.helpers.studies.toys import kept_figures, lines

# NeuralFuse, Tables 2 (by reads) and 8 (by MACs), in the order of `energy.FUSES`
TABLE_2 = {
    "resnet18": (19.0, 29.1, 21.2, 27.5, 24.0, 28.9), "vgg11": (6.6, 27.5, 11.2, 24.1, 17.1, 27.2),
    "vgg16": (17.1, 28.9, 19.7, 27.0, 23.0, 28.7),
}  # fmt: skip
TABLE_8 = {
    "resnet18": (16.2, 28.7, 19.0, 26.6, 23.2, 28.7), "vgg11": (-21.8, 23.9, -11.5, 16.0, 3.6, 23.7),
    "vgg19": (10.4, 28.0, 14.4, 25.0, 20.2, 28.0),
}  # fmt: skip
READS = {"resnet18": 2_755_968, "vgg11": 1_334_656, "vgg16": 2_366_848, "ConvL": 320_256, "DeConvL": 259_264, "UNetL": 180_894}
MACS = {  # Table 7, in millions
    "vgg11": 153.5, "vgg16": 314.43, "vgg19": 399.47,
    "ConvL": 80.5, "ConvS": 10.34, "DeConvL": 64.69, "DeConvS": 22.44, "UNetL": 41.41, "UNetS": 10.58,
}  # fmt: skip
POINTS = {  # Table 12
    "resnet18": (48.8, 20.6, 49.6, 29.9, 45.6, 29.8), "resnet50": (27.1, 8.5, 37.2, 16.1, 49.4, 30.1),
    "vgg11": (45.1, 24.1, 45.0, 26.0, 41.4, 30.5), "vgg16": (50.3, 23.9, 49.8, 30.8, 47.7, 35.5),
    "vgg19": (41.7, 16.7, 42.4, 22.2, 46.0, 30.4),
}  # fmt: skip
FUSES = ("ConvL", "ConvS", "DeConvL", "DeConvS", "UNetL", "UNetS")


def test_the_papers_constants_are_as_printed() -> None:
    assert energy.SHAPE == (3, 32, 32)
    assert energy.FUSES == FUSES
    assert list(energy.TARGETS) == list(POINTS)
    assert energy.PUBLISHED_POINTS == POINTS
    assert energy.ACCESS_ENERGY == {"reads": 0.69394, "macs": 0.694}


TOY = [
    *({"network": name, "parameters": 1234 + n, "reads": 5678.0, "macs": 9.876e6} for n, name in enumerate((*POINTS, *FUSES))),
    *(
        {"network": target, "generator": fuse, "saving": round(t + f / 10 + 0.5, 1), "saving_macs": round(-t - f / 10 - 0.2, 1)}
        for t, target in enumerate(POINTS) for f, fuse in enumerate(FUSES)
    ),
]  # fmt: skip


def test_the_figure_shows_published_points_over_computed_savings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = kept_figures(energy, monkeypatch, tmp_path)
    energy._draw(TOY)
    (axes,) = figures["energy.svg"].axes
    for f, (fuse, dots) in enumerate(zip(FUSES, axes.collections, strict=True)):
        assert dots.get_label() == fuse
        expected = [[t + f / 10 + 0.5, points[f]] for t, points in enumerate(POINTS.values())]
        assert [list(place) for place in dots.get_offsets()] == [pytest.approx(place) for place in expected]
        assert dots.get_sizes().tolist() == [110 if fuse.endswith("L") else 40]  # type: ignore[attr-defined]
    said = [(text.get_text(), text.xy) for text in axes.texts]  # type: ignore[attr-defined]
    places = [(target, (t + f / 10 + 0.5, POINTS[target][f])) for f in (0, 2, 4) for t, target in enumerate(POINTS)]
    assert [name for name, _ in said] == [name for name, _ in places]
    assert [place for _, place in said] == [pytest.approx(place) for _, place in places]
    ((x, _),) = lines(axes)
    assert x == pytest.approx([30.606, 30.606])
    assert axes.get_ylim()[0] == 0.0
    assert axes.get_legend() is not None


def test_the_tables_show_costs_and_both_savings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    Console().print(energy._tables(TOY))
    printed = capsys.readouterr().out
    assert "│ vgg11    │      1,236 │        5,678 │ 9.88 M │" in printed  # names to the left, numbers to the right
    text = [line.split() for line in printed.replace("│", " ").splitlines()]
    assert ["resnet18", "1,234", "5,678", "9.88", "M"] in text
    assert ["UNetS", "1,244", "5,678", "9.88", "M"] in text
    assert ["vgg11", "2.5", "2.6", "2.7", "2.8", "2.9", "3.0"] in text
    assert ["vgg11", "-2.2", "-2.3", "-2.4", "-2.5", "-2.6", "-2.7"] in text
    assert sum(line[:1] == ["vgg19"] for line in text) == 3


@pytest.mark.parametrize(("flags", "drawn", "printed"), [([], 0, False), (["--json"], 0, True), (["--run"], 1, False)])
def test_the_command_draws_only_if_asked_and_prints_records_or_tables(
    flags: list[str], drawn: int, printed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(energy, "rows", lambda: TOY)
    monkeypatch.setattr(energy, "_draw", made.append)
    assert energy.main(flags) == 0
    text = capsys.readouterr().out
    assert len(made) == drawn
    if printed:
        whole = json.loads(text)
        assert whole["rows"] == TOY
        assert whole["config"] == {"image_shape": [3, 32, 32], "access_energy": {"reads": 0.69394, "macs": 0.694}}
    else:
        assert "DeConvL" in text
        assert "{" not in text


def test_as_a_script_it_takes_its_flags_from_behind_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["its own name", "--json"])
    monkeypatch.setattr(networks, "build", lambda name, shape: torch.nn.Linear(32, 7))
    for name in FUSES:
        monkeypatch.setitem(GENERATORS._found, name, lambda shape: torch.nn.Linear(32, 3))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(energy.__file__), run_name="__main__")
    assert ended.value.code == 0
    assert [row["parameters"] for row in json.loads(capsys.readouterr().out)["rows"][:11]] == [231] * 5 + [99] * 6


def test_a_flag_that_is_not_there_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert energy.main(["--nonsense"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return energy.rows()


def test_parameters_reads_and_macs_are_the_papers(records: list[dict[str, Any]]) -> None:
    alone = {row["network"]: row for row in records if "generator" not in row}
    assert list(alone) == [*POINTS, *FUSES]
    assert {name: alone[name]["reads"] for name in READS} == READS
    for name, millions in MACS.items():
        assert round(alone[name]["macs"] / 1e6, 1 if millions in (153.5, 80.5) else 2) == millions
    assert (alone["ConvL"]["parameters"], alone["ConvS"]["parameters"]) == (723_273, 113_187)


@pytest.mark.parametrize(("key", "table"), [("saving", TABLE_2), ("saving_macs", TABLE_8)])
def test_savings_are_the_papers_to_the_printed_digit(
    key: str, table: dict[str, tuple[float, ...]], records: list[dict[str, Any]]
) -> None:
    pairs = [(row["network"], row["generator"]) for row in records if "generator" in row]
    assert pairs == [(target, fuse) for target in POINTS for fuse in FUSES]
    for target, printed in table.items():
        found = [row[key] for row in records if row["network"] == target and "generator" in row]
        assert found == pytest.approx(printed, abs=1e-9), target


def test_every_saving_is_what_is_left_of_one_access_less_the_fuses_share(records: list[dict[str, Any]]) -> None:
    alone = {row["network"]: row for row in records if "generator" not in row}
    for row in records:
        if "generator" in row:
            target, fuse = alone[row["network"]], alone[row["generator"]]
            for key, cost, access in (("saving", "reads", 0.69394), ("saving_macs", "macs", 0.694)):
                assert row[key] == pytest.approx(100 * (1 - access - fuse[cost] / target[cost]), abs=0.0501)
                assert round(row[key], 1) == row[key]
