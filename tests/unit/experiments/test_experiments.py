"""Committed results: whole, and reproducible from their settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch

from backends.datasets.base import Dataset, Split
from backends.memory.config import Quantization
from backends.memory.encoding import store
from bbfuse import seeds
from bbfuse.compare.tasks import configs_of
from bbfuse.config.checks import validate
from experiments import (
    access_gap,
    bit_attacks,
    bit_error_robustness,
    cifar10,
    families,
    families_judged,
    fleet,
    hardened_fuse,
    hardened_targets,
    misled,
    query_efficiency,
)
from experiments.benchmarks import hardening, injection, workers
from experiments.main_job import ARMS, CHIPS, STUDY
from experiments.study import RESULTS, Study, rows_of


def test_the_committed_result_is_that_of_the_study_as_it_stands() -> None:
    result = json.loads((RESULTS / "main_job.json").read_text())
    assert set(result) == {"schema", "config", "commit", "machine", "rows"}
    assert [(row["arm"], row["chip"]) for row in result["rows"]] == [(arm, chip) for arm in ARMS for chip in CHIPS]
    for config, task in zip(configs_of(result["config"]), STUDY.tasks(), strict=True):
        validate(config)
        assert config == task.config
    for row in result["rows"]:
        assert row["images"] <= row["budget"]
        assert abs(row["share"] - row["recovered_points"] / row["lost_points"]) < 1e-9


def test_of_digits_the_published_order_holds_at_high_rates() -> None:
    found = {
        (row["hardening"], row["rate"]): row["robust_error_mean"]
        for row in rows_of("bit_error_robustness") if row["data"] == "digits" and row["chips_are"] == "unseen"
    }  # fmt: skip
    assert found["normal", 0.05] > found["rquant", 0.05] > found["clip", 0.05] + 20 > found["randbet", 0.05] + 25
    assert found["clip", 0.1] > found["randbet", 0.1] + 15 > found["randbet, 10 %", 0.1] + 40
    for worse, better in (("normal, one range", "normal"), ("clip, batch norm", "clip"), ("fixed pattern", "randbet")):
        assert found[worse, 0.05] > found[better, 0.05] + 15
    assert found["randbet, 10 %, 4 bits", 0.05] < found["randbet, 10 %", 0.05] + 2


def test_random_errors_in_fitting_cost_what_they_may() -> None:
    ratios = {(row["target"], row["method"]): row["ratio"] for row in rows_of("hardening")}
    assert {target for target, _ in ratios} == set(hardening.TARGETS)
    assert ratios["resnet8-bn", "randbet"] <= 2.2
    assert all(ratio <= 2.4 for ratio in ratios.values())


def test_chosen_errors_hurt_more_than_random_ones_and_adversarial_training_holds_out_longer() -> None:
    found = {(row["hardening"], row["attack"], row["flips"]): row["robust_error"] for row in rows_of("bit_attacks")}
    for name in bit_attacks.COLOURS:
        for flips in (20, 80):
            assert found[name, "projected", flips] > found[name, "random", flips]
    for flips in (20, 40):
        assert found["rquant", "projected", flips] > found["advbet", "projected", flips] + 30
        assert found["clip", "projected", flips] > found["clip, advbet", "projected", flips] + 15
    broken = {
        name: bit_attacks.needed([r for r in rows_of("bit_attacks") if (r["hardening"], r["attack"]) == (name, "projected")])
        for name in bit_attacks.COLOURS
    }  # fmt: skip
    assert broken["normal"] == broken["rquant"] == broken["clip"] == 40
    assert broken["clip, advbet"] == 320


def test_the_fuses_on_hardened_targets_are_those_of_the_study_as_it_stands() -> None:
    result = json.loads((RESULTS / "hardened_fuse.json").read_text())
    assert configs_of(result["config"]) == [task.config for task in hardened_fuse.STUDY.tasks()]
    named = [(name, rate) for name in hardened_fuse.HARDENED for rate in hardened_fuse.RATES]
    assert [(row["hardening"], row["rate"]) for row in result["rows"]] == named


@pytest.mark.parametrize("study", [fleet.STUDY, misled.STUDY], ids=lambda study: str(study.name))
def test_a_committed_result_has_the_settings_of_its_study(study: Study) -> None:
    result = json.loads((RESULTS / f"{study.name}.json").read_text())
    tasks = study.tasks()
    assert configs_of(result["config"]) == [task.config for task in tasks]
    known = [row.items() for row in result["rows"]]
    for task in tasks:
        validate(task.config)
        if task.config.chip_seed is not None:  # the run for the population is no row of its own
            assert sum(task.labels.items() <= row for row in known) == 1


def test_a_chip_of_the_fleet_was_never_seen_and_costs_no_more_than_it_may() -> None:
    steps = range(10_000)
    seen = {chip for step in steps for chip in seeds.training_chips(0, step, 1)} | {*map(seeds.validation_chip, steps)}
    assert not set(fleet.CHIPS) & (seen | {*seeds.reporting_chips(1000)})
    rows = rows_of("fleet")
    for arm in ("population", "head alone", "fresh", "from population"):
        for head in {row["head"] for row in rows if row["arm"] == arm}:
            assert [row["chip"] for row in rows if (row["arm"], row["head"]) == (arm, head)] == list(fleet.CHIPS)
    for row in rows:
        assert row["images"] <= fleet.IMAGES
        assert row["recovered"] == pytest.approx(100 * (row["fused"] - row["perturbed"]))
        assert row["share"] == pytest.approx(row["recovered"] / row["lost"])


def test_a_misleading_surrogate_costs_little_and_is_trusted_less_than_an_honest_one() -> None:
    rows = rows_of("misled")
    without = {row["seed"]: row["recovered"] for row in rows if row["method"] == "rge"}
    for method in misled.WITH_SURROGATE:
        mine = {(row["surrogate"], row["seed"]): row for row in rows if row["method"] == method}
        early = {name: mean(mine[name, seed]["trust_early"] for seed in without) for name in misled.SURROGATES}
        assert max(early, key=lambda name: early[name]) == "honest"
        for (name, seed), row in mine.items():
            # all that follow knows of the gradient is its surrogate: with one that never learns it has to stay where it is
            if (method, name) == ("follow", "frozen"):
                assert row["trust_end"] < 0.1
            else:
                assert row["recovered"] >= without[seed] - misled.LIMIT


def test_the_committed_images_at_32x32_are_those_of_the_study_as_it_stands() -> None:
    result = json.loads((RESULTS / "cifar10.json").read_text())
    assert configs_of(result["config"]) == [task.config for task in cifar10.STUDY.tasks()]
    for cell in cifar10.CELLS:
        for method in cell.methods:
            named = {"setting": cell.setting, "owned": cell.owned, "labels": cell.labels, "images": cell.images, "method": method}
            assert [row["seeds"] for row in result["rows"] if named.items() <= row.items()] == [cell.runs]
    for row in result["rows"]:
        assert row["share_mean"] == pytest.approx(mean(row["shares"]))


def test_what_is_asked_of_images_at_32x32_is_among_the_rows_of_the_two_studies_of_digits() -> None:
    both = {"digits", "CIFAR-10 (JPEG)"}
    for study in (access_gap.STUDY, query_efficiency.STUDY):
        own, more = rows_of(study.name), study.more_rows()
        assert {row["data"] for row in own + more} == both
        assert {*own[0]} <= {*more[0]}


def test_a_larger_share_never_needs_fewer_images_and_the_most_is_never_less_than_the_median() -> None:
    result = json.loads((RESULTS / "query_efficiency.json").read_text())
    assert configs_of(result["config"]) == [task.config for task in query_efficiency.STUDY.tasks()]
    for setting, method in {(row["setting"], row["method"]) for row in result["rows"]}:
        mine = [row for row in result["rows"] if (row["setting"], row["method"]) == (setting, method)]
        needed = [row["images_median"] for row in sorted(mine, key=lambda row: row["share"])]
        assert needed == sorted(needed, key=lambda images: np.inf if images is None else images)
        assert all(row["images_max"] is None or row["images_max"] >= row["images_median"] for row in mine)


def test_every_verdict_on_a_family_follows_from_its_rows() -> None:
    result = json.loads((RESULTS / "families.json").read_text())
    assert configs_of(result["config"]) == [task.config for task in families.tasks()]
    assert families_judged.judged(result["rows"]) == result["rows"]
    measured = {(row["family"], row["variant"], row["errors"], row["rate"]) for row in result["rows"]}
    assert len(measured) == len(result["rows"])
    for arm in families.ARMS:
        for errors in arm.errors:
            rates = (0.0, *families.RATES) if errors == "random" else arm.one_sided_rates
            assert {(arm.family, arm.variant, errors, rate) for rate in rates} <= measured
    for row in result["rows"]:
        assert row["chips"] >= 10 or not row["rate"]
        assert row["perturbed_mean"] == pytest.approx(mean(row["by_fit"]))
        assert row["perturbed_mean"] == pytest.approx(mean(row["by_chip"]))
        if row["direction_published"] is None:
            assert row["direction_holds"] is None
        # with a fuse and a head, what was lost comes back
        if row["fused_mean"] is not None:
            assert row["fused_mean"] > row["perturbed_mean"]
    assert {row["family"] for row in result["rows"] if row["fused_mean"] is not None} == {arm.family for arm in families.ARMS}


def test_the_proxy_adds_at_most_three_milliseconds() -> None:
    for row in rows_of("proxy"):
        assert row["added_ms"] <= 3.0
        assert row["added_ms"] == pytest.approx(row["proxy_ms"] - row["direct_ms"] - row["fuse_ms"])


def test_binary_tensors_were_as_fast_as_they_have_to_be() -> None:
    speeds = {(row["shape"], row["target_ms"], row["mode"]): row["images_per_second"] for row in rows_of("remote")}
    assert len(speeds) == 12
    for shape in ("1x8x8", "3x32x32"):
        assert speeds[shape, 20, "binary"] >= 0.7 * speeds[shape, 20, "local"]
    assert speeds["3x32x32", 0, "binary"] >= 5 * speeds["3x32x32", 0, "json"]


def test_the_peers_in_the_injection_benchmark_do_the_same_work() -> None:
    # each count within 6 sd of what its model says: rate for flips, half of it for stuck cells, which the map repeats 16 times
    stored = store({"a": torch.randn(1 << 17, generator=torch.Generator().manual_seed(0))}, Quantization())
    trials, rate = (1 << 17) * 8, 0.01
    for name, expected, repeats in (("ours", rate, 1), ("uniform", rate, 1), ("map", rate / 2, 16), ("our map", rate / 2, 16)):
        read = injection.METHODS[name](stored)(rate, 3)
        wrong = int(np.unpackbits(read ^ stored.patterns).sum())
        assert abs(wrong - trials * expected) < 6 * (trials * expected * repeats) ** 0.5
    assert np.array_equal(*(injection.METHODS[name](stored)(rate, 3) for name in ("map", "our map")))


def test_the_tier_for_a_gpu_runs_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BBFUSE_CACHE", str(tmp_path / "cache"))
    rng = torch.Generator().manual_seed(0)
    part = Split(torch.rand(8, 3, 32, 32, generator=rng) * 2 - 1, torch.randint(10, (8,), generator=rng))
    monkeypatch.setattr(bit_error_robustness, "load", lambda name: Dataset(name, 10, part, part, part))
    (tier,) = hardened_targets.TIERS["gpu"]
    small = replace(tier, cells=tier.cells[3:4], recipe=replace(tier.recipe, steps=2, batch=2), chips=2, device="cpu", images=4)
    rows = bit_error_robustness.measured(small, tmp_path / "rows")
    assert [row["published"] for row in rows] == [5.43, 6.36, 7.41, 8.65, 27.21]
    assert all(0 <= row["robust_error_mean"] <= 100 for row in rows)
    monkeypatch.setattr(bit_error_robustness, "load", lambda name: pytest.fail("what is there is not measured again"))
    assert bit_error_robustness.measured(small, tmp_path / "rows") == rows


def test_what_travels_to_workers_is_small_beside_what_it_replaces() -> None:
    result = json.loads((RESULTS / "scaling.json").read_text())
    assert result["config"]["cases"] == json.loads(json.dumps({**workers.CASES, **workers.PEERS}))
    for row in result["rows"]:
        assert row["bytes_per_probe"] < 100
        if row["case"] in workers.PEERS:
            assert row["peer_bytes_per_probe"] > 5 * row["bytes_per_probe_in_all"]
