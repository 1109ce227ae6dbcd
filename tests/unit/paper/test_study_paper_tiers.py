"""The tiers of the study of NeuralFuse's tables: their sizes, and the runs that they are made of."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from backends.targets import checkpoint
from bbfuse.compare.command import tier_result
from bbfuse.compare.tasks import configs_of
from bbfuse.config.checks import validate
from experiments.paper import tiers
from experiments.paper.tiers import TIERS
from tests.helpers.studies.drawn import committed

ALL = ("ConvL", "ConvS", "DeConvL", "DeConvS", "UNetL", "UNetS")
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {
        "targets": {"digits-residual": "resnet18", "digits": "vgg19"}, "smaller": "digits-small",
        "rates": {0.05: 0.01, 0.02: 0.005}, "grid": (0.005, 0.01, 0.03, 0.1), "chips": 50, "tested": None,
        "generators": {0.05: ALL, 0.02: ALL}, "images": 360_000, "fixed": 5, "few": (200,),
        "bits": (8, 7, 6, 5, 4, 3, 2), "both": True,
    },
    "cifar10": {
        "targets": {"resnet20": "resnet18", "vgg11": "vgg11"}, "smaller": "resnet8-bn", "rates": {0.01: 0.01, 0.005: 0.005},
        "grid": (0.002,), "chips": 10, "tested": 1_000, "generators": {0.01: ("UNetL",)}, "images": 300_000, "fixed": 3,
        "few": (500, 2000), "bits": (8, 6, 4), "both": False,
    },
    "gpu": {
        "targets": {"resnet18": "resnet18", "vgg19": "vgg19", "resnet50": "resnet50"}, "smaller": "resnet20",
        "rates": {0.01: 0.01, 0.005: 0.005}, "grid": (0.001, 0.002, 0.015, 0.02), "chips": 10, "tested": None,
        "generators": {0.01: ALL, 0.005: ALL}, "images": 6_400_000, "fixed": 5, "few": (500, 2000),
        "bits": (8, 7, 6, 5, 4, 3, 2), "both": True,
    },
}  # fmt: skip
STRICT = {  # images sent for training: for the population, and for one chip
    "cpu": (
        {"follow": (10_000, 30_000), "follow, standardize": (30_000,), "follow, UNetL": (30_000,), "rge": (30_000, 100_000)},
        {"follow": (2_500, 10_000), "follow, affine": (10_000,), "rge, affine": (10_000,), "backprop, affine": (10_000,)},
    ),
    "cifar10": ({"follow, standardize": (30_000,)}, {"follow, affine": (30_000,), "backprop, affine": (30_000,)}),
    "gpu": ({"follow": (100_000, 300_000), "follow, standardize": (300_000,)}, {"follow, affine": (30_000, 100_000)}),
}  # fmt: skip


@pytest.mark.parametrize("name", TIERS)
def test_a_tier_is_as_large_as_it_is_said_to_be(name: str) -> None:
    tier = TIERS[name]
    assert {key: getattr(tier, key) for key in SIZES[name]} == SIZES[name]
    assert next(iter(tier.rates)) == max(tier.rates)
    assert ({k: v[1] for k, v in tier.strict.items()}, {k: v[1] for k, v in tier.owned_chip.items()}) == STRICT[name]
    assert vars(tiers.Tier)["__dataclass_params__"].frozen
    assert tier.root == Path("runs") / "paper" / name
    folder, suffix = f"runs/paper/{name}/targets", checkpoint.SUFFIX
    assert tier.file_of("A+B") == f"{folder}/A{suffix}+{folder}/B{suffix}"


def test_targets_on_a_gpu_are_fitted_for_sixty_epochs() -> None:
    recipe = TIERS["gpu"].recipe
    assert recipe.steps * recipe.batch / 45_000 == pytest.approx(60, abs=0.5)
    assert (recipe.batch, recipe.lr, recipe.weight_decay, recipe.optimizer) == (256, 0.2, 5e-4, "sgd")
    relaxed = TIERS["gpu"].relaxed
    # an image goes through the fuse once and the target five times
    assert TIERS["gpu"].images / (relaxed.batch * 5) == 10_000
    assert (relaxed.batch, relaxed.device, relaxed.augment, relaxed.backprop.lr) == (128, "cuda", True, 1e-3)
    assert (relaxed.eopm.chips, relaxed.eopm.terms, relaxed.eopm.pool) == (4, "all", 300)
    for settings, _ in (*TIERS["gpu"].strict.values(), *TIERS["gpu"].owned_chip.values()):
        assert (settings.generator, settings.device, settings.validation.times) == ("UNetS", "cuda", 0)


@pytest.mark.parametrize("name", ["cpu", "cifar10"])
def test_the_committed_settings_are_those_of_the_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = committed(tier_result("paper", name))["config"]
    monkeypatch.setattr(tiers, "_tested", lambda tier: tier.tested or 360)
    assert configs_of(config) == [task.config for task in tiers.tasks(TIERS[name])]
    assert config["recipe"] == json.loads(json.dumps(asdict(TIERS[name].recipe)))


@pytest.mark.parametrize(("name", "tested"), [("cpu", 360), ("cifar10", 1000), ("gpu", 10_000)])
def test_every_run_sends_its_images_and_the_report(name: str, tested: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(tiers, "load", lambda data: seen.append(data) or type("Data", (), {"test": range(tested)}))
    tier = TIERS[name]
    tasks = tiers.tasks(tier)
    high = max(tier.rates)
    kinds = Counter((task.labels["study"], len(task.labels)) for task in tasks)
    trained = sum(len(generators) for generators in tier.generators.values()) * len(tier.targets)
    assert kinds["relaxed", 4] == trained + (2 if tier.both else 0)
    for task in tasks:
        label, config = task.labels, task.config
        validate(config)
        assert config.memory.errors == "neuralfuse-map"
        assert (config.report.images, config.validation.times) == (tier.tested, 0)
        assert config.bit_error_rate == label["rate"]
        assert config.target == tier.file_of(label["target"])
        if "chip" not in label:
            assert (config.budget, config.report.chips, config.chip_seed) == (tier.images + 2 * tested * 2, 1, None)
            assert (config.generator, config.backend) == (label["generator"], "whitebox")
        elif label["chip"] is None:
            warm = 50 * tier.chips if config.head == "standardize" else 0
            assert config.budget == label["images"] + 2 * tested * (1 + tier.chips) + warm
            assert (config.report.chips, label["rate"]) == (tier.chips, high)
        else:
            assert (config.budget, config.chip_seed) == (label["images"] + 2 * tested * 2, label["chip"])
            assert (label["study"] == "relaxed") == (config.backend == "whitebox")
    both = [task.labels["generator"] for task in tasks if "+" in task.labels["target"]]
    assert both == (["ConvL", "UNetL"] if tier.both else [])
    chips = {task.labels["chip"] for task in tasks if "chip" in task.labels} - {None}
    assert chips == set(range(50_000, 50_000 + tier.fixed))
    population, one = STRICT[name]
    wanted = sum(map(len, population.values())) + tier.fixed * sum(map(len, one.values()))
    assert sum("chip" in task.labels for task in tasks) == wanted * len(tier.targets)
    assert bool(seen) == (tier.tested is None)


def test_a_target_is_fitted_where_its_file_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    tier, made = TIERS["cpu"], []
    monkeypatch.setattr(tiers, "load", lambda data: data)
    monkeypatch.setattr(tiers, "fit_to", lambda *given: made.append(given))
    there = Path(tier.file_of("digits"))
    there.parent.mkdir(parents=True)
    there.touch()
    tiers.fit_targets(tier)
    assert made == [
        (Path(tier.file_of(target)), target, "digits", tier.recipe, "cpu") for target in ("digits-residual", "digits-small")
    ]  # fmt: skip
