"""Mutants are drawn as they are said to be, and the committed score is what it is asked to be."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from tests.helpers.documents.pages import ROOT as PROJECT
from tests.mutation import __main__ as command
from tests.mutation import mutants, runner

SOURCE = '''"""A module."""
LIMIT: int | None = 3


def area(width: float | int, height: float) -> float | None:
    """Text with 1 + 1."""
    draw(figsize=(6, 4), size=7)
    return width * height + 5
'''
SETTINGS = mutants.Settings(
    ["core/ReplaceBinaryOperator_Add_Sub", "core/ReplaceBinaryOperator_Mul_Div", "core/ReplaceBinaryOperator_BitOr_BitAnd",
     "core/NumberReplacer"],
    ["figsize"], 2, 0, 1.0, {"shapes": ["tests/one.py"], "shapes/flat.py": ["tests/two.py"]},
)  # fmt: skip


@pytest.fixture(autouse=True)
def _tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "flat.py").write_text(SOURCE)
    (tmp_path / "shapes" / "solid.py").write_text("SIDE = 4 + 9\n")
    monkeypatch.setattr(mutants, "ROOT", tmp_path)


def test_operators_and_numbers_change_but_neither_annotations_nor_cosmetic_arguments() -> None:
    found = [mutant.lines() for mutant in mutants.mutants_of("shapes/flat.py", SETTINGS)]
    numbers = [("LIMIT: int | None = 3", f"LIMIT: int | None = {n}") for n in (4, 2)]
    drawn = [("draw(figsize=(6, 4), size=7)", f"draw(figsize=(6, 4), size={n})") for n in (8, 6)]
    line = "return width * height + 5"
    assert sorted((before, after.replace(" ", "")) for before, after in found) == sorted(
        (before, after.replace(" ", ""))
        for before, after in [
            *numbers, *drawn, (line, "return width / height + 5"), (line, "return width * height - 5"),
            (line, "return width * height + 6"), (line, "return width * height + 4"),
        ]
    )  # fmt: skip


def test_the_longest_entry_says_which_tests_guard_a_module() -> None:
    assert SETTINGS.files() == {"shapes/flat.py": ["tests/two.py"], "shapes/solid.py": ["tests/one.py"]}


def test_a_sample_is_drawn_by_its_seed_and_has_some_of_every_module() -> None:
    every = mutants.sample(SETTINGS, 100, 0)
    assert len(every) == len(set(every)) == 8 + 5
    one, again, other = (mutants.sample(SETTINGS, 8, seed) for seed in (1, 1, 2))
    assert one == again
    assert set(one) != set(other)
    for some in (one, other):  # two of each, and 4 of the 9 that are left in proportion
        assert {module: sum(mutant.module == module for mutant in some) for module in SETTINGS.files()} == {
            "shapes/flat.py": 5, "shapes/solid.py": 3,
        }  # fmt: skip


def test_a_small_module_is_drawn_whole() -> None:
    some = mutants.sample(dataclasses.replace(SETTINGS, whole=5), 7, 0)
    assert sorted(mutant.module for mutant in some) == 2 * ["shapes/flat.py"] + 5 * ["shapes/solid.py"]


def test_the_committed_score_is_nine_tenths_with_a_reason_for_every_survivor(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["score"]) == 0
    shown = capsys.readouterr().out
    score = json.loads(command.SCORE.read_text())
    modules = score["modules"].values()
    assert score["mutants"] == sum(found["mutants"] for found in modules) >= 400
    assert score["killed"] == sum(found["killed"] for found in modules) == score["mutants"] - len(score["survivors"])
    assert score["percent"] == round(100 * score["killed"] / score["mutants"], 1) >= 90
    assert all(found["killed"] >= 0.8 * found["mutants"] for found in modules)
    assert all(survivor["reason"] not in ("", "open") for survivor in score["survivors"])
    assert f"{score['killed']} of {score['mutants']} mutants killed, {score['percent']} %" in shown
    assert all(module in shown for module in score["modules"])


def test_modules_and_tests_that_the_settings_name_are_there() -> None:
    named = mutants.Settings(**tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["mutation"]).modules
    assert {path for module, tests in named.items() for path in (module, *tests) if not (PROJECT / path).exists()} == set()


def test_a_copy_leaves_out_outputs_but_no_package_of_such_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    for file in ("runs/a/config.json", "package/runs/folder.py", "package/__pycache__/b.pyc"):
        (root / file).parent.mkdir(parents=True)
        (root / file).touch()
    monkeypatch.setattr(runner, "ROOT", root)
    copied = runner._copy(tmp_path / "tree")
    assert [path.name for path in copied.rglob("*") if path.is_file()] == ["folder.py"]
