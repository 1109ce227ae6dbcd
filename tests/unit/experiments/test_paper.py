"""The study of NeuralFuse's tables: two tiers of one study, what it commits, and what it claims."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backends.targets.networks import build
from backends.training.recipe import RECIPE
from bbfuse.compare.command import tier_result
from bbfuse.compare.tasks import configs_of
from bbfuse.config.checks import validate
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ValidationConfig
from bbfuse.execution import execute
from bbfuse.optimizers.surrogate.network import SurrogateConfig
from experiments.paper import __main__ as paper
from experiments.paper import published, rows, tiers
from experiments.paper.tiers import GENERATORS, TIERS, Tier, tasks
from experiments.study import RESULTS, rows_of

SEEN = set(range(30_000)) | set(range(40_000, 50_000))


@pytest.mark.parametrize("name", TIERS)
def test_every_run_of_a_tier_may_begin_and_none_trains_on_chips_that_another_reports_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "_tested", lambda tier: 10_000)  # its data need not be here
    configs = [task.config for task in tasks(TIERS[name])]
    assert len({repr(config) for config in configs}) == len(configs)
    for config in configs:
        validate(config)
        assert config.chip_seed is None or config.chip_seed not in SEEN
        assert config.memory.errors == "neuralfuse-map"
    assert TIERS[name].chips >= (50 if name == "cpu" else 10)


def test_the_papers_numbers_fit_each_other() -> None:
    assert {generator for _, generator, _ in published.RELAXED} == set(GENERATORS)
    for (target, _, rate), fused in published.RELAXED.items():
        assert published.BARE[target, rate] < fused < published.CLEAN[target]
    for target in ("resnet18", "vgg19"):  # Table 22 and 23 begin where Table 12 is
        assert published.PRECISION[target, None, 8] == published.BARE[target, 0.005]


def test_an_ensemble_answers_by_its_members_in_turn() -> None:
    both = build("digits+digits-residual", (1, 8, 8)).eval()
    images = torch.rand((7, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = both(images)
        for number, member in enumerate(both.members):  # type: ignore[arg-type]
            torch.testing.assert_close(answers[number::2], member(images[number::2]))


@pytest.mark.parametrize("name", ["cpu", "cifar10"])
def test_the_committed_rows_are_those_of_the_study_as_it_stands(name: str) -> None:
    result, tier = json.loads((RESULTS / f"{tier_result('paper', name)}.json").read_text()), TIERS[name]
    assert configs_of(result["config"]) == [task.config for task in tasks(tier)]
    found = result["rows"]
    assert all(tuple(row) == rows.KEYS for row in found)
    assert {row["study"] for row in found} == {"relaxed", "restricted", "strict", "rates", "precision", "alternatives"}
    relaxed = [row for row in found if (row["study"], row["method"]) == ("relaxed", "backprop")]
    assert {(row["target"], row["generator"], row["rate"]) for row in relaxed} == {
        (target, generator, rate)
        for target in tier.targets
        for rate, generators in tier.generators.items()
        for generator in generators
    }
    for row in relaxed:
        paper = published.RELAXED[row["paper_target"], row["generator"], row["paper_rate"]]
        assert row["paper_fused_mean"] == pytest.approx(paper / 100)
    for row in found:
        if "classifier" not in row["method"] and "one chip" not in row["method"]:
            assert row["chips"] == tier.chips


def test_one_chip_by_answers_beats_the_papers_population_by_gradients() -> None:
    for target, kind in TIERS["cpu"].targets.items():
        (mine,) = [
            row for row in rows_of("paper") if (row["target"], row["method"]) == (target, "follow, affine (one chip)")
        ]  # fmt: skip
        best = max(value for (name, _, rate), value in published.RELAXED.items() if (name, rate) == (kind, mine["paper_rate"]))
        assert 100 * mine["fused_mean"] > best


def test_the_population_by_answers_beats_what_another_target_carries_over() -> None:
    found = rows_of("paper")
    for target in TIERS["cpu"].targets:
        high = max(TIERS["cpu"].rates)
        carried = [r for r in found if r["study"] == "restricted" and (r["target"], r["rate"]) == (target, high)]
        alone = [r for r in carried if "+" not in r["source"]]
        strict = [r for r in found if r["study"] == "strict" and r["target"] == target and "(population)" in r["method"]]
        assert max(r["fused_mean"] for r in strict) > max(r["fused_mean"] for r in alone)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tier:
    """A tier of the same parts that takes seconds."""
    monkeypatch.chdir(tmp_path)
    for module in (tiers, rows):
        monkeypatch.setattr(module, "CARRIED", ("ConvS",))
    few = {
        name: (replace(config, surrogate=SurrogateConfig(steps=1)) if config.optimizer == "follow" else config, (2_000,))
        for name, (config, _) in TIERS["cpu"].strict.items()
        if name in ("follow", "follow, standardize")
    }
    tier = replace(
        TIERS["cpu"], recipe=replace(RECIPE, steps=20, hardening=tiers.AWARE), rates={0.05: 0.01, 0.02: 0.005}, grid=(0.1,),
        generators=dict.fromkeys((0.05, 0.02), ("ConvS",)), chips=2, tested=40, images=800, strict=few, fixed=2, few=(50,),
        owned_chip={"rge, affine": (TIERS["cpu"].owned_chip["rge, affine"][0], (1_500,))},
    )  # fmt: skip
    monkeypatch.setitem(TIERS, "cpu", tier)
    return tier


@pytest.mark.slow
def test_a_small_tier_is_the_whole_study_and_goes_on_where_it_was(small: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "draw", lambda found, name: None)
    config, found = paper.compute("cpu")
    assert {row["study"] for row in found} == {"relaxed", "restricted", "strict", "rates", "precision", "alternatives"}
    assert all(tuple(row) == rows.KEYS for row in found)
    assert set(config["validation"]) == {*small.targets, small.smaller}
    bits = {row["bits"] for row in found if row["study"] == "precision"}
    assert bits == set(range(2, 9))
    written = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.json")}
    assert paper.compute("cpu")[1] == found
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.json")} == written


def test_training_in_bfloat16_is_about_the_same_training_and_the_report_is_exact(tmp_path: Path) -> None:
    common = RunConfig(
        backend="whitebox", optimizer="backprop", budget=3_500, chip_seed=0, head="none", validation=ValidationConfig(times=0)
    )  # fmt: skip
    exact, coarse = (
        execute(replace(common, precision=precision, out=tmp_path / precision))  # type: ignore[arg-type]
        for precision in ("float32", "bfloat16")
    )
    assert exact["accuracy"]["perturbed"] == coarse["accuracy"]["perturbed"]
    assert exact["recovered_points"] > 0
    assert coarse["recovered_points"] == pytest.approx(exact["recovered_points"], abs=10)
    assert _losses(tmp_path / "float32") != _losses(tmp_path / "bfloat16")


def _losses(folder: Path) -> list[float]:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if "loss" in event]


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["backprop", "follow"])
def test_a_run_on_a_gpu_is_about_the_run_on_the_processor(method: str, tmp_path: Path) -> None:
    backend = "whitebox" if method == "backprop" else "local"
    common = RunConfig(backend=backend, optimizer=method, budget=6_000, chip_seed=0, head="none")  # type: ignore[arg-type]
    here, there = (execute(replace(common, device=device, out=tmp_path / device)) for device in ("cpu", "cuda"))
    assert there["accuracy"]["perturbed"]["mean"] == pytest.approx(here["accuracy"]["perturbed"]["mean"], abs=0.01)
    assert there["recovered_points"] == pytest.approx(here["recovered_points"], abs=15)
    assert there["queries"] == here["queries"]
