"""Every committed result is shown by its command."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from experiments import (
    access_gap,
    alignment,
    bit_attacks,
    bit_error_robustness,
    bit_errors,
    cifar10,
    cross_layer,
    cross_layer_cifar10,
    cross_layer_profiles,
    cross_layer_search,
    domain_shift,
    families,
    fleet,
    hardened_fuse,
    main_job,
    misled,
    query_efficiency,
    saturation,
    tuning,
)
from experiments.benchmarks import hardening, injection, overhead, proxy, remote, scaling, training
from experiments.paper import __main__ as paper
from experiments.study import RESULTS

COMMANDS: dict[str, tuple[Callable[[list[str]], int], set[str], str]] = {
    "main_job": (main_job.STUDY.main, {"arm", "chip", "images", "share"}, "fuse alone"),
    "paper": (
        paper.main,
        {
            "study", "target", "source", "generator", "method", "rate", "images", "clean", "clean_fused", "perturbed_mean",
            "perturbed_sd", "fused_mean", "fused_sd", "paper_fused_mean",
        },
        "follow",
    ),
    "domain_shift": (
        domain_shift.STUDY.main, {"data", "shift", "method", "plain", "uncorrected", "accuracies", "recovered"}, "control",
    ),
    "tuning": (tuning.STUDY.main, {"setting", "method", "name", "value", "accuracy"}, "spsa-gc"),
    "access_gap": (
        access_gap.STUDY.main,
        {
            "data", "setting", "owned", "method", "head", "images", "seeds", "recovered_mean", "recovered_sd", "share_mean",
            "share_sd",
        },
        "population",
    ),
    "alignment": (alignment.RESULT.main, {"method", "steps_before", "cosine_mean", "cosine_sd", "scale_mean"}, "pgpe"),
    "bit_errors": (
        bit_errors.RESULT.main, {"scheme", "bits", "rate", "chips", "accuracy_mean", "accuracy_sd", "slack"}, "rquant",
    ),
    "bit_error_robustness": (
        bit_error_robustness.main,
        {
            "data", "target", "scheme", "bits", "rate", "error", "robust_error_mean", "robust_error_sd", "published", "chips",
            "energy", "slack",
        },
        "randbet",
    ),
    "bit_attacks": (bit_attacks.RESULT.main, {"hardening", "attack", "flips", "error", "robust_error"}, "advbet"),
    "hardened_fuse": (
        hardened_fuse.STUDY.main,
        {"hardening", "rate", "chips", "bare_mean", "head_mean", "fused_mean", "fuse_adds", "energy_bare", "energy_fused"},
        "nothing",
    ),
    "hardening": (hardening.RESULT.main, {"target", "method", "ms_per_step", "ratio"}, "randbet"),
    "families": (
        families.RESULT.main,
        {
            "family", "variant", "data", "rate", "clean", "perturbed_mean", "perturbed_sd", "fused_mean", "direction_published",
            "direction_holds", "chips",
        },
        "SoftSNN",
    ),
    "fleet": (
        fleet.STUDY.main, {"chip", "arm", "head", "images", "perturbed", "recovered", "share"}, "population",
    ),
    "misled": (
        misled.STUDY.main, {"method", "surrogate", "seed", "recovered", "trust_early", "trust_end"}, "inverted",
    ),
    "cifar10": (
        cifar10.STUDY.main,
        {
            "data", "setting", "owned", "labels", "method", "head", "surrogate", "images", "seeds", "recovered_mean",
            "recovered_sd", "share_mean", "share_sd",
        },
        "follow",
    ),
    "query_efficiency": (
        query_efficiency.STUDY.main,
        {
            "data", "setting", "owned", "labels", "method", "head", "surrogate", "share", "images_median", "images_max", "seeds",
        },
        "follow",
    ),
    "cross_layer": (
        cross_layer.RESULT.main, {"data", "design", "rate", "area", "energy", "accuracy_mean", "accuracy_sd", "chips"},
        "neurons only",
    ),
    "cross_layer_cifar10": (
        cross_layer_cifar10.RESULT.main,
        {"data", "design", "rate", "area", "energy", "accuracy_mean", "accuracy_sd", "chips"},
        "bits only",
    ),
    "cross_layer_profiles": (
        cross_layer_profiles.RESULT.main, {"data", "kind", "site", "place", "value", "expected", "queries"}, "rank correlation",
    ),
    "cross_layer_search": (cross_layer_search.RESULT.main, {"data", "sampler", "seed", "evaluations", "area"}, "random"),
    "injection": (injection.RESULT.main, {"rate", "method", "seconds"}, "uniform"),
    "scaling": (
        scaling.RESULT.main,
        {
            "case", "workers", "steps_per_second", "bytes_per_probe", "peer", "peer_steps_per_second", "peer_bytes_per_probe",
        },
        "compute",
    ),
    "saturation": (
        saturation.main,
        {"parameters", "answer_ms", "workers", "steps_per_second", "driver_busy", "saturates_at", "measured", "relative_error"},
        "remote",
    ),
    "overhead": (
        overhead.RESULT.main, {"method", "parameters", "ms_per_step", "peak_mib", "peer", "peer_ms_per_step"}, "EvoTorch",
    ),
    "remote": (remote.RESULT.main, {"shape", "target_ms", "mode", "images_per_second"}, "binary"),
    "training": (training.RESULT.main, {"target", "generator", "device", "precision", "part", "ms"}, "backward"),
    "proxy": (proxy.RESULT.main, {"shape", "mode", "generator", "direct_ms", "proxy_ms", "fuse_ms", "added_ms"}, "UNetXS"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_its_committed_result(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main, keys, word = COMMANDS[name]
    assert main([]) == 0
    assert word in capsys.readouterr().out
    assert main(["--json"]) == 0
    printed = capsys.readouterr().out
    whole, written = json.loads(printed), json.loads((RESULTS / f"{name}.json").read_text())
    own = len(written["rows"])  # behind them two studies show the rows of a third one
    assert {**whole, "rows": whole["rows"][:own]} == written
    assert (len(whole["rows"]) > own) == (name in ("access_gap", "query_efficiency"))
    assert set(whole) == {"schema", "config", "commit", "machine", "rows"}
    assert all(keys <= set(row) for row in whole["rows"])
    assert main(["--nonsense"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_result_has_its_command() -> None:
    assert {path.stem for path in RESULTS.glob("*.json")} == {*COMMANDS, "paper_cifar10"}


def test_another_tier_is_shown_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert paper.main(["--tier", "cifar10", "--json"]) == 0
    assert capsys.readouterr().out.strip() == (RESULTS / "paper_cifar10.json").read_text().strip()
    assert paper.main(["--tier", "moon"]) == 2
    assert "must be one of cpu, cifar10, gpu, got moon" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize(("flags", "words"), [([], "no committed result"), (["--run"], "needs a GPU")])
def test_the_tier_for_a_gpu_says_what_it_lacks(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bit_error_robustness.main(["--tier", "gpu", *flags]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
