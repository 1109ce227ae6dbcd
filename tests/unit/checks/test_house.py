"""The house keeps its shape: small files and folders, documented public names, one vocabulary."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.documents.pages import ROOT

PACKAGES = ("backends", "bbfuse", "experiments")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMPONENTS = {"backends/targets", "bbfuse/optimizers", "experiments"}
"""Folders of interchangeable components: one file each."""
BANNED = [
    r"wrong bits?", r"w[io]n(s|ning)? (nothing |it )?back", r"who answers", r"what it grants", r"searchers?\b", r"victim",
    r"\bmanners\b", r"\bnobody\b", r"\bsomebody\b", r"\bwhoever\b", r"\bstrangers\b", r"foretold|foretell",
    r"bears? it out", r"spoil(t|s)\b", r"tak(en|es|e) over", r"stop(s|ped)? paying", r"was granted", r"\blearnt\b", r"\briddle",
    r"meets? a chip", r"says? of itself", r"\bunder way\b", r"\b_?Hand\b", r"\bScene\b", r"\bWanted\b",
]  # fmt: skip
"""Old terms and riddles; the vocabulary has a plain one for each."""
QUOTED = {
    "docs/pages/changelog.md": "names of earlier modules",
    "experiments/families_judged.py": "statements that are values of a committed result",
    "docs/results/families.md": "the same",
}
"""Files that have to quote some of them."""


def of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=of)
def test_a_file_has_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_a_folder_has_at_most_a_dozen_files() -> None:
    files = Counter(of(path.parent) for path in SOURCES if path.name != "__init__.py")
    assert {folder: number for folder, number in files.items() if number > 12 and folder not in COMPONENTS} == {}


def test_functions_of_the_configuration_have_at_most_40_lines() -> None:
    for path in sorted((ROOT / "bbfuse" / "config").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                assert node.end_lineno - node.lineno < 40, f"{of(path)}: {node.name}"


def _is_setter(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return any(isinstance(one, ast.Attribute) and one.attr == "setter" for one in node.decorator_list)


@pytest.mark.parametrize("path", SOURCES, ids=of)
def test_every_public_name_has_a_docstring(path: Path) -> None:
    def bare(node: ast.AST, where: str) -> list[str]:
        found = []
        for child in getattr(node, "body", []):
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_") and not _is_setter(child):
                if not ast.get_docstring(child):
                    found.append(where + child.name)
                if isinstance(child, ast.ClassDef):
                    found += bare(child, f"{where}{child.name}.")
        return found

    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert bare(tree, "") == []


@pytest.mark.parametrize("path", [path for path in [*SOURCES, *PAGES] if of(path) not in QUOTED], ids=of)
def test_the_vocabulary_is_plain(path: Path) -> None:
    text = path.read_text()
    found = {match.group(0) for term in BANNED for match in re.finditer(term, text, re.IGNORECASE if term.islower() else 0)}
    assert found == set()


def test_the_list_of_old_terms_notices_them() -> None:
    noticed = "the searcher wins back what nobody asked for: wrong bits, spoilt answers, as far as probes bear it out"
    assert sum(bool(re.search(term, noticed, re.IGNORECASE)) for term in BANNED) == 6
