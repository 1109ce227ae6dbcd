"""What several test files use stands in `tests/helpers`."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent.parent.parent


def imported(path: Path) -> set[str]:
    """Every module, and every name taken from one, that the file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def of_a_test_file(module: str) -> bool:
    return any(part.startswith("test_") for part in module.split("."))


def test_no_file_imports_from_a_test_file() -> None:
    assert of_a_test_file("tests.test_laws.BASE")
    assert not of_a_test_file("tests.helpers.runs.BASE")
    found = {str(path.relative_to(TESTS)): sorted(filter(of_a_test_file, imported(path))) for path in TESTS.rglob("*.py")}
    assert len(found) > 50
    assert {name: modules for name, modules in found.items() if modules} == {}


def test_test_files_and_their_folders_are_small() -> None:
    files = [path for path in TESTS.rglob("*.py") if path.name != "__init__.py"]
    assert {str(path) for path in files if len(path.read_text().splitlines()) > 300} == set()
    folders = Counter(path.parent.relative_to(TESTS).as_posix() for path in files if path.name != "conftest.py")
    assert {folder for folder, number in folders.items() if number > 12} <= {"golden", "unit/results"}
