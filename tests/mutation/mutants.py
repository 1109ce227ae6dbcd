"""Which mutants there are, and a seeded sample of them. The mutations themselves are cosmic-ray's."""

from __future__ import annotations

import ast
import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.plugins import get_operator

__all__ = ["ROOT", "Mutant", "Settings", "mutants_of", "sample"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    """The section ``tool.mutation`` of ``pyproject.toml``."""

    operators: list[str]
    """cosmic-ray's names of the mutations that are made"""
    cosmetic: list[str]
    """keyword arguments whose values are not mutated: they shape a drawing, or guard what no code of ours breaks"""
    minimum: int
    """mutants of each module in a sample, as far as it has so many"""
    whole: int
    """a module with at most so many mutants is in a sample with all of them"""
    timeout: float
    """seconds after which a mutant's tests count as failed"""
    modules: dict[str, list[str]]
    """for each module, or folder of modules, the tests that guard it, the quickest first"""

    @classmethod
    def read(cls) -> Settings:
        """As committed."""
        found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutation"]
        return cls(**found)

    def files(self) -> dict[str, list[str]]:
        """Each Python file that is mutated, relative to the root, and its tests; the longest matching entry counts."""
        found = {}
        for entry in sorted(self.modules, key=len):
            path = ROOT / entry
            for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
                found[str(file.relative_to(ROOT))] = self.modules[entry]
        return found


@dataclass(frozen=True)
class Mutant:
    """One mutation: ``operator`` at its ``occurrence``-th place in ``module``."""

    module: str
    operator: str
    occurrence: int
    line: int

    def code(self) -> str:
        """The module's source with the mutation."""
        visitor = MutationVisitor(self.occurrence, get_operator(self.operator)())
        changed: str = visitor.walk(get_ast((ROOT / self.module).read_text())).get_code()
        return changed

    def lines(self) -> tuple[str, str]:
        """The first line that differs, before and after."""
        before, after = (ROOT / self.module).read_text().split("\n"), self.code().split("\n")
        return next((one.strip(), other.strip()) for one, other in zip(before, after, strict=False) if one != other)


def mutants_of(module: str, settings: Settings) -> list[Mutant]:
    """All mutants of ``module`` but those in type annotations and in cosmetic arguments."""
    source = (ROOT / module).read_text()
    nodes, left_out = list(_nodes(get_ast(source))), list(_left_out(ast.parse(source), set(settings.cosmetic)))
    found = []
    for name in settings.operators:
        operator = get_operator(name)()
        positions = (position for node in nodes for position in operator.mutation_positions(node))
        for occurrence, (start, _) in enumerate(positions):
            if not any(first <= start < last for first, last in left_out):
                found.append(Mutant(module, name, occurrence, start[0]))
    return found


def sample(settings: Settings, count: int, seed: int) -> list[Mutant]:
    """About ``count`` mutants or more in random order: of each module `Settings.minimum`, and a share of the others in proportion
    to their number; all of a module with at most `Settings.whole`. Which ones of a module are drawn depends on ``seed`` and its
    code alone."""
    found = {module: mutants_of(module, settings) for module in settings.files()}
    least = {module: len(some) if len(some) <= settings.whole else settings.minimum for module, some in found.items()}
    spare = {module: len(some) - least[module] for module, some in found.items()}
    share = (count - sum(least.values())) / max(1, sum(spare.values()))
    chosen = []
    for module, some in found.items():
        random.Random(f"{seed} {module}").shuffle(some)
        chosen += some[: least[module] + max(0, round(share * spare[module]))]
    random.Random(seed).shuffle(chosen)
    return chosen


def _nodes(node: Any) -> Iterator[Any]:
    """In the order in which cosmic-ray visits them."""
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _left_out(tree: ast.Module, cosmetic: set[str]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for node in ast.walk(tree):
        spans: list[ast.expr | None] = []
        if isinstance(node, ast.AnnAssign | ast.arg):
            spans.append(node.annotation)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            spans.append(node.returns)
        if isinstance(node, ast.keyword) and node.arg in cosmetic:
            spans.append(node.value)
        for span in spans:
            if span is not None:
                yield (span.lineno, span.col_offset), (span.end_lineno or 0, span.end_col_offset or 0)
