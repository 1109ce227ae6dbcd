"""A whole run over files by two shell commands ends as the direct run; what is wrong with a file is said in one line."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from backends.base import Chip
from backends.memory.simulator import Simulator
from bbfuse.cli.app import main
from bbfuse.cli.run import main as run

SETTINGS = [
    "--target", "digits", "--chip-seed", "0", "--budget", "1200", "--images", "180", "--affine.images", "144", "--report.images",
    "40", "--validation.images", "30", "--validation.times", "2", "--labels", "target",
]  # fmt: skip
Measure = Callable[[Path], NDArray[np.float32]]


@pytest.fixture
def measure(network: nn.Module) -> Measure:
    """The device: it takes a file or folder of `bbfuse bench ask` and gives the logits."""
    simulator = Simulator(network)

    def measured(path: Path) -> NDArray[np.float32]:
        if path.is_dir():
            chip = json.loads((path / "chip.json").read_text())
            pictures = [np.asarray(Image.open(picture)) for picture in sorted(path.glob("*.png"))]
            images = torch.from_numpy(np.stack(pictures)[:, None]).float() / 127.5 - 1.0
        else:
            with np.load(path) as file:
                chip = {name: file[name].item() for name in ("bit_error_rate", "chip_seed")}
                images = torch.from_numpy(file["images"])
        with torch.no_grad():
            return simulator.logits(images, Chip(chip["bit_error_rate"], chip["chip_seed"])).numpy()

    return measured


def rows_of(query: str, logits: NDArray[np.float32]) -> list[list[Any]]:
    return [[query, index, *map(repr, row.tolist())] for index, row in enumerate(logits)]


def waiting(folder: Path) -> list[Path]:
    return sorted((folder / "queries").iterdir())


def write(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def without(summary: dict[str, Any]) -> dict[str, Any]:
    """``summary`` without its time and the name of its backend."""
    settings = {name: value for name, value in summary["config"].items() if name != "backend"}
    return {**{name: value for name, value in summary.items() if name != "seconds"}, "config": settings}


def test_a_run_over_csv_files_ends_as_the_direct_run(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*SETTINGS, "--out", "direct"]) == 0
    direct, shuffled, most = json.loads(Path("direct/summary.json").read_text()), random.Random(0), 0
    rows: list[list[Any]] = [["query", "index", *range(10)]]
    assert main(["bench", "ask", "bench", *SETTINGS]) == 0
    while queries := waiting(Path("bench")):
        most = max(most, len(queries))
        told = [row for query in queries for row in rows_of(query.stem, measure(query))]
        shuffled.shuffle(told)
        rows += told  # a log that grows: rows of earlier queries are ignored
        write(Path("responses.csv"), rows)
        assert main(["bench", "tell", "bench", "responses.csv"]) == 0
        assert waiting(Path("bench")) == []
        capsys.readouterr()
        assert main(["bench", "ask", "bench"]) == 0
    assert most > 1
    printed = capsys.readouterr().out
    assert "fuse and head" in printed
    assert "the run has ended: bench/summary.json, bench/report.html" in printed
    assert Path("bench/report.html").stat().st_size > 1000
    assert without(json.loads(Path("bench/summary.json").read_text())) == without(direct)


def test_a_run_over_pictures_is_scored_on_what_is_written(measure: Measure, tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    assert main(["bench", "ask", str(folder), *SETTINGS, "--bench.format", "png"]) == 0
    rounds = 0
    while queries := waiting(folder):
        np.savez(tmp_path / "told.npz", **{query.name: measure(query) for query in queries})
        names = [query.name for query in queries]
        assert main(["bench", "tell", str(folder), str(tmp_path / "told.npz")]) == 0
        if rounds == 0:
            with np.load(folder / "told" / f"{names[0]}.npz") as file:
                levels = (torch.from_numpy(file["images"]) + 1.0) * 127.5
                assert torch.allclose(levels, levels.round(), atol=1e-4)
        rounds += 1
        assert main(["bench", "ask", str(folder)]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["queries"]["images"] <= 1200
    assert summary["accuracy"]["perturbed_fused"]["mean"] > 0.5


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("begun") / "bench"
    assert main(["bench", "ask", str(folder), *SETTINGS]) == 0
    return folder


def changed(rows: list[list[Any]], place: int, column: int, value: Any) -> list[list[Any]]:
    return [[value if (i, j) == (place, column) else cell for j, cell in enumerate(row)] for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:7] + rows[8:], "a row for each image of query {0}: index 7 is missing"),
        (lambda rows: rows[:-1], "query {1} has 16 images, got responses to 15: give one row for each image"),
        (lambda rows: [*rows, rows[0]], "row 145 must have another index: query {0} has index 0 already"),
        (lambda rows: changed(rows, 3, 4, "nan"), "query {0}: bench responded with logits that are not finite"),
        (lambda rows: changed(rows, 3, 4, "high"), "row 4 must have a whole number as index and numbers after it"),
        (lambda rows: changed(rows, 3, 1, "1.5"), "row 4 must have a whole number as index"),
        (lambda rows: [row[:-1] for row in rows], "row 1 must have 12 columns, query, index and 10 numbers, got 11"),
        (
            lambda rows: [["0007-abcdef", *row[1:]] for row in rows[:128]],
            "must be one without a response in {2}, {0}, {1}, got 0007-",
        ),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_in_one_line_and_nothing_is_stored(
    change: Callable[[list[list[Any]]], list[list[Any]]], words: str, begun: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    first, second = (path.stem for path in waiting(begun))
    numbers = np.random.default_rng(0).normal(size=(144, 10)).astype(np.float32)
    write(tmp_path / "told.csv", change([*rows_of(first, numbers[:128]), *rows_of(second, numbers[128:])]))
    assert main(["bench", "tell", str(begun), str(tmp_path / "told.csv")]) == 2
    message = capsys.readouterr().err
    assert words.format(first, second, begun) in message
    assert message.count("\n") == 1
    assert not (begun / "told").exists()
    assert [path.stem for path in waiting(begun)] == [first, second]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("tell none told.csv", "none holds no run that can be read"),
        ("tell bench none.csv", "responses none.csv cannot be read"),
        ("tell bench broken.npz", "responses broken.npz cannot be read"),
        ("tell bench", "must be ask FOLDER [flags] or tell FOLDER RESPONSES, got tell bench"),
        ("ask", "must be ask FOLDER [flags] or tell FOLDER RESPONSES, got ask"),
        ("show bench", "got show bench"),
        ("ask bench --budget 100", "bench holds a run, whose settings are fixed: drop --budget 100"),
        ("ask new --backend remote", "takes neither --backend, --out, --resume, --plan nor --json"),
        ("ask new --budget 100", "--budget 100 does not allow one step"),
        ("ask new --workers 2", "--workers 2 has no effect with --backend bench"),
    ],
)
def test_what_the_commands_refuse(
    arguments: str, words: str, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(begun, "bench")
    Path("broken.npz").write_bytes(b"PK\x03\x04 and no more")
    assert main(["bench", *arguments.split()]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not Path("new").exists()


def test_a_part_may_be_told_and_the_rest_is_named(
    begun: Path, tmp_path: Path, measure: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bench"
    shutil.copytree(begun, folder)
    first, second = waiting(folder)
    write(tmp_path / "told.csv", rows_of(second.stem, measure(second)))
    assert main(["bench", "tell", str(folder), str(tmp_path / "told.csv")]) == 0
    assert f"1 query told, 1 query without a response: {first.stem}" in capsys.readouterr().out
    assert waiting(folder) == [first]
    assert main(["bench", "ask", str(folder)]) == 0
    assert waiting(folder) == [first]
    assert f"{first.stem}  128 images, nominal voltage: {first}" in capsys.readouterr().out


def test_help_names_both_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    assert "bbfuse bench tell FOLDER RESPONSES" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["bench", "ask", "--help"])
    assert stop.value.code == 0
    assert "--budget" in capsys.readouterr().out


def test_a_run_says_how_to_use_a_bench(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["--backend", "bench", "--out", str(tmp_path / "run")]) == 2
    assert "use `bbfuse bench ask` and `bbfuse bench tell`, or bbfuse.Session" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
