"""The committed rows: which cells are evaluated, which numbers stand beside them, and energies by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev
from types import SimpleNamespace
from typing import Any

import pytest

from bbfuse.compare.cells import Cell
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig
from bbfuse.heads.affine import AffineConfig
from experiments.paper import rows
from experiments.paper.tiers import MEMORY, TIERS

TIER = replace(
    TIERS["cpu"], targets={"A": "resnet18", "B": "vgg19"}, smaller="C", rates={0.05: 0.01, 0.02: 0.005}, grid=(0.1, 0.25),
    chips=7, tested=40, images=800, few=(60,), bits=(8, 5),
)  # fmt: skip
READS = {"A": 400.0, "B": 1000.0, "C": 250.0, "control": 30.0, "ConvL": 90.0, "ConvS": 20.0}
VOLTS = {0.0: 1.0, 0.05: 0.8, 0.02: 0.9, 0.1: 0.7, 0.25: None}


@pytest.fixture(autouse=True)
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Networks that are their names, whose reads and voltages are above; the cells that were evaluated."""
    cells: list[Cell] = []

    def evaluate(root: Path, wanted: list[Cell]) -> list[dict[str, Any]]:
        assert root == Path("runs/paper/cpu/cells")
        cells.extend(wanted)
        return [{"clean": 0.9 + n / 1e4, "mean": 0.4 + n / 1e3, "sd": 0.05 + n / 1e5} for n in range(len(wanted))]

    monkeypatch.setattr(rows, "evaluate", evaluate)
    monkeypatch.setattr(rows, "load", lambda name: SimpleNamespace(image_shape=(1, 8, 8)))
    monkeypatch.setattr(rows, "build", lambda target, shape: target)
    monkeypatch.setattr(rows, "network", lambda shape, classes: "control" if classes == 10 else "?")
    monkeypatch.setattr(rows, "Fuse", lambda generator, shape, rng: generator)
    monkeypatch.setattr(rows, "weight_reads", lambda network, shape: READS[network])
    monkeypatch.setattr(rows, "voltage", lambda rate: VOLTS[rate])
    monkeypatch.setattr(rows, "control", lambda data, owned, tested: {60: 0.5, None: 0.75}[owned] + tested / 1000)
    return cells


def trained(target: str, generator: str, rate: float) -> tuple[Task, dict[str, Any], Path]:
    task = Task({"study": "relaxed", "target": target, "generator": generator, "rate": rate}, RunConfig())
    return task, {}, Path(f"{target}-{generator}-{rate}")


RECORDS = [
    trained("A", "ConvL", 0.05), trained("A", "ConvS", 0.05), trained("A", "ConvL", 0.02), trained("B", "ConvL", 0.05),
    trained("A+B", "ConvL", 0.05),
]  # fmt: skip
CARRIED = {"A": ["A-ConvL-0.05"], "B": ["B-ConvL-0.05"]}


def found() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = rows.rows(TIER, RECORDS)
    return made


def keyed(study: str) -> list[tuple[Any, ...]]:
    return [(r["source"], r["target"], r["generator"], r["rate"], r["bits"]) for r in found() if r["study"] == study]


def test_a_fuse_that_is_carried_over_is_used_at_other_rates_with_fewer_bits_and_in_front_of_other_targets() -> None:
    assert keyed("relaxed") == [
        ("A", "A", "ConvL", 0.05, 8), ("A", "A", "ConvS", 0.05, 8), ("A", "A", "ConvL", 0.02, 8), ("B", "B", "ConvL", 0.05, 8)
    ]  # fmt: skip
    assert keyed("restricted") == [
        ("A", "B", "ConvL", 0.05, 8), ("A", "B", "ConvL", 0.02, 8), ("B", "A", "ConvL", 0.05, 8), ("B", "A", "ConvL", 0.02, 8),
        *(("A+B", target, "ConvL", rate, 8) for target in "AB" for rate in (0.05, 0.02)),
    ]  # fmt: skip
    assert keyed("rates") == [(name, name, "ConvL", rate, 8) for name in "AB" for rate in (0.02, 0.1, 0.25)]
    with_fuse = [(name, name, "ConvL", 0.02, bits) for name in "AB" for bits in (8, 5)]
    assert keyed("precision") == with_fuse + [(None, name, None, 0.02, bits) for name in "AB" for bits in (8, 5)]
    bare = [(None, name, None, rate, 8) for name in "ABC" for rate in (0.05, 0.02, 0.1, 0.25)]
    assert keyed("alternatives") == bare + [(None, name, None, 0.0, 8) for _ in range(2) for name in "AB"]


def test_every_record_has_the_cell_without_a_fuse_and_that_with_it(evaluated: list[Cell]) -> None:
    made = [row for row in found() if "classifier" not in row["method"]]
    assert len(evaluated) == 2 * len(made)
    for number, row in enumerate(made):
        bare, fused = evaluated[2 * number], evaluated[2 * number + 1]
        memory = replace(MEMORY, bits=row["bits"])
        rest = ("digits", TIER.file_of(row["target"]), memory, row["rate"], 7, 40)
        assert bare == Cell(*rest, None, "cpu")
        run = None if row["generator"] is None else f"{row['source']}-{row['generator']}-{row['trained_rate']}"
        assert fused == Cell(*rest, run, "cpu")
        first, second = 2 * number, 2 * number + 1
        assert (row["clean"], row["perturbed_mean"], row["perturbed_sd"]) == pytest.approx(
            (0.9 + first / 1e4, 0.4 + first / 1e3, 0.05 + first / 1e5)
        )
        if row["generator"] is None:
            assert (row["fused_mean"], row["clean_fused"], row["images"]) == (None, None, 0)
            assert row["method"] == ("smaller target" if row["target"] == "C" else "no fuse")
        else:
            assert (row["clean_fused"], row["fused_mean"], row["fused_sd"]) == pytest.approx(
                (0.9 + second / 1e4, 0.4 + second / 1e3, 0.05 + second / 1e5)
            )
            assert (row["images"], row["method"]) == (800, "backprop")
        assert (row["chips"], row["head"], row["data"], tuple(row)) == (7, "none", "digits", rows.KEYS)


def test_the_papers_number_stands_beside_the_same_target_generator_rate_and_bits() -> None:
    made = {
        (r["study"], r["source"], r["target"], r["generator"], r["rate"], r["bits"]): r["paper_fused_mean"] for r in found()
    }  # fmt: skip
    assert made["relaxed", "A", "A", "ConvS", 0.05, 8] == pytest.approx(0.595)
    assert made["relaxed", "A", "A", "ConvL", 0.02, 8] == pytest.approx(0.879)
    assert made["restricted", "A", "B", "ConvL", 0.02, 8] == pytest.approx(0.802)
    assert made["restricted", "A+B", "B", "ConvL", 0.05, 8] == pytest.approx(0.751)
    assert made["restricted", "A+B", "B", "ConvL", 0.02, 8] is None
    assert made["rates", "A", "A", "ConvL", 0.02, 8] is None
    assert made["precision", "B", "B", "ConvL", 0.02, 5] == pytest.approx(0.78)
    assert made["precision", None, "A", None, 0.02, 5] == pytest.approx(0.527)
    assert made["alternatives", None, "B", None, 0.05, 8] == pytest.approx(0.36)
    assert made["alternatives", None, "B", None, 0.1, 8] is None
    assert made["alternatives", None, "C", None, 0.05, 8] is None
    named = {(r["target"], r["rate"]): (r["paper_target"], r["paper_rate"]) for r in found()}
    assert (named["B", 0.02], named["C", 0.05], named["A", 0.1]) == (("vgg19", 0.005), (None, 0.01), ("resnet18", None))


def test_energy_saved_is_of_the_targets_reads_at_nominal_voltage() -> None:
    """``1 - V^2 - reads(fuse) / reads(target)``; a smaller target's ``1 - V^2 reads / reads`` of the last target."""
    made = {(r["study"], r["target"], r["generator"], r["rate"], r["method"]): r["saving"] for r in found()}
    assert made["relaxed", "A", "ConvS", 0.05, "backprop"] == pytest.approx(1 - 0.64 - 20 / 400)
    assert made["relaxed", "B", "ConvL", 0.05, "backprop"] == pytest.approx(1 - 0.64 - 90 / 1000)
    assert made["alternatives", "A", None, 0.1, "no fuse"] == pytest.approx(1 - 0.49)
    assert made["alternatives", "C", None, 0.02, "smaller target"] == pytest.approx(1 - 0.81 * 250 / 1000)
    assert made["alternatives", "A", None, 0.25, "no fuse"] is None  # no voltage is known
    assert made["alternatives", "A", None, 0.0, "classifier of a fuse's size"] == pytest.approx(1 - 30 / 400)


def test_a_classifier_used_instead_has_no_errors() -> None:
    made = [row for row in found() if "classifier" in row["method"]]
    assert [(row["owned"], row["target"]) for row in made] == [(60, "A"), (60, "B"), (None, "A"), (None, "B")]
    assert [row["clean"] for row in made] == pytest.approx([0.54, 0.54, 0.79, 0.79])
    for row in made:
        assert (row["perturbed_mean"], row["perturbed_sd"], row["chips"], row["rate"]) == (row["clean"], 0.0, 0, 0.0)
        assert (row["images"], row["bits"], row["head"]) == (0, 8, "none")


def run(method: str, chip: int | None, images: int, config: RunConfig, *means: float) -> tuple[Task, dict[str, Any], Path]:
    bare, head, fused, nominal = means
    spread = {"sd": 0.07, "chips": 1 if chip is not None else 9}
    accuracy = {
        "clean": 0.97, "clean_fused": nominal, "perturbed": {"mean": bare, **spread}, "perturbed_head": {"mean": head, **spread},
        "perturbed_fused": {"mean": fused, **spread},
    }  # fmt: skip
    study = "relaxed" if "backprop" in method else "strict"
    labels = {"study": study, "target": "A", "method": method, "rate": 0.05, "images": images, "chip": chip}
    return Task(labels, config), {"accuracy": accuracy}, Path("unused")


def test_runs_on_single_chips_are_put_together_with_the_head_alone_beside_what_is_strict() -> None:
    one = RunConfig(head="affine", chip_seed=3, affine=AffineConfig(images=1500), bit_error_rate=0.05, generator="ConvS")
    many = RunConfig(head="standardize", bit_error_rate=0.05, generator="ConvL")
    plain = replace(many, head="none")
    records = [
        run("follow, affine", 3, 1_000, one, 0.3, 0.5, 0.8, 0.95), run("follow, affine", 4, 1_000, one, 0.36, 0.6, 0.7, 0.92),
        run("follow, affine", 5, 1_000, one, 0.33, 0.4, 0.9, 0.9), run("follow, affine", 3, 9_000, one, 0.3, 0.5, 0.85, 0.9),
        run("backprop, affine", 3, 1_000, one, 0.3, 0.5, 0.88, 0.9), run("follow", None, 9_000, plain, 0.31, 0.31, 0.6, 0.9),
        run("follow, standardize", None, 9_000, many, 0.31, 0.45, 0.65, 0.91),
    ]  # fmt: skip
    made = list(rows._of_runs(TIER, [*RECORDS, *records]))
    assert [(row["method"], row["images"], row["head"], row["generator"], row["chips"]) for row in made] == [
        ("follow, affine (one chip)", 1_000, "affine", "ConvS", 3), ("head alone, affine (one chip)", 1_000, "affine", None, 3),
        ("follow, affine (one chip)", 9_000, "affine", "ConvS", 1), ("head alone, affine (one chip)", 1_500, "affine", None, 1),
        ("backprop, affine (one chip)", 1_000, "affine", "ConvS", 1), ("follow (population)", 9_000, "none", "ConvL", 9),
        ("follow, standardize (population)", 9_000, "standardize", "ConvL", 9),
        ("head alone, standardize (population)", 50, "standardize", None, 9),
    ]  # fmt: skip
    first, head, later = made[:3]
    assert (first["perturbed_mean"], first["perturbed_sd"]) == pytest.approx((0.33, pstdev([0.3, 0.36, 0.33])))
    assert (first["fused_mean"], first["fused_sd"]) == pytest.approx((0.8, pstdev([0.8, 0.7, 0.9])))
    assert first["clean_fused"] == pytest.approx(mean([0.95, 0.92, 0.9]))
    assert (head["fused_mean"], head["fused_sd"], head["clean_fused"]) == (
        pytest.approx(0.5),
        pytest.approx(pstdev([0.5, 0.6, 0.4])),
        None,
    )
    assert (later["fused_mean"], later["fused_sd"]) == (0.85, 0.07)  # as one run reports itself
    assert [row["saving"] for row in made] == pytest.approx([0.31, 0.36, 0.31, 0.36, 0.31, 0.135, 0.135, 0.36])
    assert {(row["clean"], row["trained_rate"], row["rate"], row["paper_rate"]) for row in made} == {(0.97, 0.05, 0.05, 0.01)}
    assert [row["study"] for row in made] == 4 * ["strict"] + ["relaxed"] + 3 * ["strict"]
