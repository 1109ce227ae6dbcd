"""Which hardened targets are measured, at which rates, and what Stutz et al. (MLSys 2021) have for them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from backends.memory.config import Quantization
from backends.training.hardening import Hardening
from backends.training.recipe import RECIPE, Recipe
from experiments import bit_error_robustness
from experiments.hardened_targets import CIFAR, DIGITS, TIERS, HardenedTarget, TargetGroup
from experiments.study import RESULTS

RATES = (0, 0.001, 0.005, 0.01, 0.015, 0.025)
LARGE = {
    "rquant": (4.32, 5.54, 11.28, 32.05, 68.65, 89.01), "clip": (4.82, 5.58, 6.95, 8.93, 12.22, 27.02),
    "normal": (4.36, 6.37, 24.76, 72.65, 87.40, 90.15), "randbet": (4.90, 5.43, 6.36, 7.41, 8.65, 27.21),
    "clip, label smoothing": (4.82, 6.10, 7.36, 10.59, 18.31), "randbet, 4 bits": (5.39, 5.96, 7.04, 8.34, 9.77, 14.91),
    "randbet, 2 %": (5.71, 6.22, 7.00, 7.83, 8.69, 10.91), "clip, 4 bits": (5.29, 5.99, 7.71, 10.62, 15.79, 37.94),
}  # fmt: skip
SETTINGS = {
    "rquant": HardenedTarget("rquant"), "clip": HardenedTarget("clip", clip=0.1), "normal": HardenedTarget("normal", "normal"),
    "randbet": HardenedTarget("randbet", clip=0.1, randbet=0.01),
    "clip, label smoothing": HardenedTarget("clip, label smoothing", clip=0.1, label_smoothing=1 / 9),
    "randbet, 4 bits": HardenedTarget("randbet, 4 bits", bits=4, clip=0.1, randbet=0.01),
    "randbet, 2 %": HardenedTarget("randbet, 2 %", clip=0.1, randbet=0.02),
    "clip, 4 bits": HardenedTarget("clip, 4 bits", bits=4, clip=0.1),
}  # fmt: skip


def test_the_committed_settings_are_the_targets_as_they_stand() -> None:
    committed = json.loads((RESULTS / "bit_error_robustness.json").read_text())["config"]
    assert committed == json.loads(json.dumps([asdict(tier) for tier in TIERS["cpu"]]))


def test_the_committed_rows_are_those_of_the_targets_rate_by_rate() -> None:
    rows = json.loads((RESULTS / "bit_error_robustness.json").read_text())["rows"]
    for tier in TIERS["cpu"]:
        for target in tier.cells:
            mine = [row for row in rows if (row["data"], row["hardening"]) == (tier.shown, target.name)]
            unseen = [row for row in mine if row["chips_are"] == "unseen"]
            own = [row for row in mine if row["chips_are"] == "trained on"]
            assert [row["rate"] for row in unseen] == list(tier.rates)
            assert [row["rate"] for row in own] == (list(tier.rates) if target.pattern is not None else [])
            assert [row["published"] for row in unseen] == [target.published.get(rate) for rate in tier.rates]
            for row in mine:
                assert (row["bits"], row["scheme"], row["chips"]) == (target.bits, target.scheme, 50 if row in unseen else 1)


def test_the_tier_for_a_gpu_is_the_published_table() -> None:
    (tier,) = TIERS["gpu"]
    assert [target.name for target in tier.cells] == list(LARGE)
    for target in tier.cells:
        assert target.published == dict(zip(RATES, LARGE[target.name], strict=False))
        assert replace(target, published={}) == SETTINGS[target.name]
    assert (tier.data, tier.shown, tier.target) == ("data/cifar10-jpeg", "CIFAR-10 (JPEG)", "simplenet")
    assert (tier.rates, tier.images, tier.seeds, tier.chips, tier.device) == (RATES[1:], 9000, (0,), 50, "cuda")
    assert tier.recipe == Recipe(
        87_890, 128, 0.05, 5e-4, shift=4, mirror=True, each=True, bfloat16=True, optimizer="sgd", schedule="steps", cutout=16
    )  # 250 times 45,000 images in batches of 128


def test_the_small_tiers_are_fitted_and_measured_as_stated() -> None:
    digits, cifar = TIERS["cpu"]
    assert digits == TargetGroup("digits", "digits", "digits", DIGITS, RECIPE, (0.01, 0.05, 0.1, 0.15), 360)
    recipe = Recipe(3000, weight_decay=0.05, shift=4, mirror=True, each=True)
    assert cifar == TargetGroup("data/cifar10-jpeg", "CIFAR-10 (JPEG)", "resnet8", CIFAR, recipe, (0.005, 0.01, 0.025), 500)
    assert (digits.seeds, digits.chips, digits.device) == ((0,), 50, "cpu")
    assert bit_error_robustness.SLACK == 0.1


def test_a_target_is_plain_8_bit_quantization_if_nothing_else_is_said() -> None:
    recipe = HardenedTarget("x").recipe(Recipe(7))
    stored = Quantization(8, symmetric=False, signed=False)
    assert recipe == Recipe(7, hardening=Hardening(stored, "parameters"))
    assert recipe.label_smoothing == 0.0
    assert (HardenedTarget("x").norm, HardenedTarget("x").published) == ("gn", {})


@pytest.mark.parametrize("scheme", ["normal", "rquant"])
def test_a_target_passes_all_its_settings_to_the_training(scheme: str) -> None:
    target = HardenedTarget("x", scheme, 4, 0.3, 0.07, None, 5, "mean", "global", 0.2)  # type: ignore[arg-type]
    recipe = target.recipe(Recipe(9, lr=0.4))
    codes = {
        "normal": Quantization(4, rounding=False, ranges="global"),
        "rquant": Quantization(4, symmetric=False, signed=False, ranges="global"),
    }[scheme]
    hardening = Hardening(codes, "parameters", clip=0.3, rate=0.07, pattern=5, gradients="mean")
    assert recipe == Recipe(9, lr=0.4, label_smoothing=0.2, hardening=hardening)
    attacked = HardenedTarget("x", advbet=13).recipe(Recipe())
    assert attacked.hardening is not None
    assert (attacked.hardening.flips, attacked.hardening.rate) == (13, None)
