"""Cells: accuracy over chips, computed once and then read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import mean, pstdev
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from backends.base import NOMINAL, Chip
from backends.datasets.base import Dataset, Split
from backends.memory.config import Memory
from bbfuse.compare import cells
from bbfuse.compare.cells import Cell

CELL = Cell("toys", "target", Memory(bits=5), 0.03, 4, 1100)


class Pool:
    """Processes that are this one; how many there were, and which cells they computed."""

    sizes: ClassVar[list[int]] = []
    computed: ClassVar[list[list[Cell]]] = []

    def __init__(self, size: int, context: Any) -> None:
        assert context.get_start_method() == "spawn"
        self.sizes.append(size)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, compute: Callable[[Cell], Any], wanted: Iterable[Cell]) -> Iterator[Any]:
        self.computed.append(list(wanted))
        return map(compute, self.computed[-1])


def test_a_cell_is_computed_once_and_results_come_in_the_order_of_the_cells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cells, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(cells, "process_count", lambda devices: 10 * len(list(devices)))
    monkeypatch.setattr(Pool, "sizes", [])
    monkeypatch.setattr(Pool, "computed", [])
    monkeypatch.setattr(cells, "_computed", lambda cell: {"rate": cell.bit_error_rate})
    root = tmp_path / "new" / "cells"
    several = [Cell("toys", "target", Memory(), rate, 3, None) for rate in (0.3, 0.1, 0.3, 0.2)]
    assert cells.evaluate(root, several) == [{"rate": rate} for rate in (0.3, 0.1, 0.3, 0.2)]
    assert (Pool.computed, Pool.sizes) == ([[several[0], several[1], several[3]]], [30])
    assert len(list(root.iterdir())) == 3
    (root / f"{several[1].name}.json").write_text(json.dumps({"rate": "kept"}))
    more = Cell("toys", "target", Memory(), 0.4, 3, None)
    assert cells.evaluate(root, [more, several[1]]) == [{"rate": 0.4}, {"rate": "kept"}]
    assert Pool.computed[1:] == [[more]]
    memory = {"bits": 5, "errors": "random", "offset": 0, "profile": None, "quantization": "neuralfuse", "stored": None}
    text = {"bit_error_rate": 0.03, "chips": 4, "data": "toys", "device": "cpu", "images": 1100, "memory": memory, "run": None}
    assert CELL.name == hashlib.sha256(json.dumps({**text, "target": "target"}).encode()).hexdigest()[:16]
    assert capsys.readouterr().out == ""
    named = {cell.name for cell in (*several, more, CELL)}
    assert len(named) == 5
    assert {len(name) for name in named} == {16}


@pytest.mark.parametrize("run", [None, "somewhere"])
def test_a_cell_is_the_accuracy_on_the_reporting_chips(run: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that is right for the first ``7 (s + 2)`` images on the chip with the seed 50000 + s, for 1000 without errors."""
    every = torch.arange(1200.0).view(1200, 1, 1, 1)
    test = Split(every, torch.zeros(1200, dtype=torch.int64))
    parts: list[int] = []

    class Target:
        def logits(self, given: Tensor, chip: Chip) -> Tensor:
            assert not given.requires_grad
            assert chip == NOMINAL or chip.bit_error_rate == 0.03
            parts.append(len(given))
            number = given.flatten() / (3 if run else 1)
            limit = 1000 if chip == NOMINAL else 7 * (chip.seed - 50_000 + 2)
            wrong = (number.round() >= limit).float()
            return torch.stack((0.5 + 0 * wrong, wrong), 1)

    def loaded(path: Path) -> Any:
        assert path == Path("somewhere") / "fuse.pt"
        factor = nn.Parameter(torch.tensor(3.0))
        return SimpleNamespace(to=lambda device: lambda given: given * factor)

    monkeypatch.setattr(cells, "load", lambda name: Dataset(name, 2, test, test, test))
    monkeypatch.setattr(cells, "_simulator", lambda data, target, memory, device: Target())
    monkeypatch.setattr(cells, "Fuse", SimpleNamespace(load=loaded))
    found = cells._computed(Cell("toys", "target", Memory(bits=5), 0.03, 4, 1100, run))
    each = [7 * place / 1100 for place in (2, 3, 4, 5)]
    assert found == pytest.approx({"clean": 1000 / 1100, "mean": mean(each), "sd": pstdev(each)})
    assert parts == [500, 500, 100] * 5  # no more at once than have room
    assert torch.get_num_threads() == 1


def test_simulators_of_four_targets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "load", lambda name: name)
    monkeypatch.setattr(cells, "fitted", lambda target, data: SimpleNamespace(to=lambda device: (target, data, device)))
    monkeypatch.setattr(cells, "Simulator", lambda network, memory: [network, memory])
    cells._simulator.cache_clear()
    try:
        first = cells._simulator("d", "t0", Memory(), "cpu")
        assert first == [("t0", "d", "cpu"), Memory()]
        for number in range(1, 4):
            cells._simulator("d", f"t{number}", Memory(), "cpu")
        assert cells._simulator("d", "t0", Memory(), "cpu") is first
        for number in range(5, 9):
            cells._simulator("d", f"t{number}", Memory(), "cpu")
        assert cells._simulator("d", "t0", Memory(), "cpu") is not first
    finally:
        cells._simulator.cache_clear()
