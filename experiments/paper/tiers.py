"""How large the study is, tier by tier, and the runs that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.data import load
from backends.fitting import LARGE_RECIPE, RECIPE, Recipe
from backends.hardening import Hardening
from backends.memory.scheme import Memory, Quantization
from backends.targets import checkpoint
from backends.targets.fit import fit_to
from bbfuse.config import EopmConfig, ReportConfig, RunConfig, ValidationConfig
from bbfuse.measure import report_images
from bbfuse.methods import BackpropConfig
from bbfuse.seeds import reporting_chips
from experiments.study import Task

__all__ = ["CARRIED", "GENERATORS", "MEMORY", "ROOT", "STANDARDIZED", "TIERS", "Tier", "file_of", "fit_targets", "tasks"]

GENERATORS = ("ConvL", "ConvS", "DeConvL", "DeConvS", "UNetL", "UNetS")
CARRIED = ("ConvL", "UNetL")
"""Generators that the paper carries over to other targets and precisions."""
AWARE = Hardening(Quantization(), stored="weights")
"""Quantization-aware training, in the paper's number format."""
MEMORY = Memory(errors="neuralfuse-map")
STANDARDIZED = 50
ROOT = Path("runs") / "paper"


@dataclass(frozen=True)
class Tier:
    """How large the study is."""

    data: str
    label: str
    """the data's name in the records"""
    targets: dict[str, str]
    """architectures, and the paper's whose numbers stand beside theirs"""
    smaller: str
    """a cheaper architecture, instead of a low voltage"""
    recipe: Recipe
    rates: dict[float, float]
    """bit error rates, and the paper's whose numbers stand beside them; the first one is that of `rates` and `precision`"""
    grid: tuple[float, ...]
    """further rates at which fuses and bare targets are looked at"""
    chips: int
    """that are reported on"""
    tested: int | None
    """held-out images; all if not given"""
    relaxed: RunConfig
    """settings of the white box for the population"""
    images: int
    """sent for its training, or for that through two targets"""
    strict: dict[str, tuple[RunConfig, tuple[int, ...]]]
    """settings for the population by what they are called, and images sent for training"""
    owned_chip: dict[str, tuple[RunConfig, tuple[int, ...]]]
    """the same for the one chip that is there"""
    fixed: int
    """such chips"""
    few: tuple[int, ...]
    """images owned by the classifiers that are used instead; all besides"""


_STRICT = RunConfig(memory=MEMORY, head="none", validation=ValidationConfig(times=0))
_RELAXED = replace(_STRICT, backend="whitebox", optimizer="backprop", batch=64, backprop=BackpropConfig(lr=1e-3))  # its rate
TIERS = {
    "cpu": Tier(
        data="digits", label="digits", targets={"digits-residual": "resnet18", "digits": "vgg19"}, smaller="digits-small",
        recipe=replace(RECIPE, hardening=AWARE), rates={0.05: 0.01, 0.02: 0.005}, grid=(0.005, 0.01, 0.03, 0.1), chips=50,
        tested=None, relaxed=_RELAXED, images=120_000,
        strict={
            "follow": (replace(_STRICT, optimizer="follow"), (10_000, 30_000)),
            "follow, standardize": (replace(_STRICT, optimizer="follow", head="standardize"), (30_000,)),
            "follow, UNetL": (replace(_STRICT, optimizer="follow", generator="UNetL"), (30_000,)),
            "rge": (_STRICT, (30_000, 100_000)),
        },
        owned_chip={
            "follow": (replace(_STRICT, optimizer="follow"), (2_500, 10_000)),
            "follow, affine": (replace(_STRICT, optimizer="follow", head="affine"), (10_000,)),
            "rge, affine": (replace(_STRICT, head="affine"), (10_000,)),
        },
        fixed=5, few=(200,),
    ),
    "gpu": Tier(
        data="data/cifar10-jpeg", label="CIFAR-10 (JPEG)", smaller="resnet20",
        targets={"resnet18": "resnet18", "vgg19": "vgg19", "resnet50": "resnet50"},
        recipe=replace(
            LARGE_RECIPE, optimizer="sgd", lr=0.2, weight_decay=5e-4, batch=256, steps=10_500, hardening=AWARE,  # 60 epochs
        ),
        rates={0.01: 0.01, 0.005: 0.005}, grid=(0.001, 0.002, 0.015, 0.02), chips=10, tested=None,
        # an image goes through the fuse once and through the target five times: 6.4 million, 142 epochs, are 1.3 million
        # through the fuse; ResNet18 stays within ten minutes if the device does 150 TFLOP/s
        relaxed=replace(
            _RELAXED, device="cuda", precision="bfloat16", batch=128, sampling="uniform", augment=True,
            eopm=EopmConfig(chips=4, terms="all", pool=500),
        ),
        images=6_400_000,
        strict={
            "follow": (replace(_STRICT, optimizer="follow", generator="UNetS", device="cuda"), (100_000, 300_000)),
            "follow, standardize": (
                replace(_STRICT, optimizer="follow", generator="UNetS", head="standardize", device="cuda"), (300_000,)
            ),
        },
        owned_chip={
            "follow, affine": (
                replace(_STRICT, optimizer="follow", generator="UNetS", head="affine", device="cuda"), (30_000, 100_000)
            ),
        },
        fixed=5, few=(500, 2000),
    ),
}  # fmt: skip


def tasks(tier: Tier) -> list[Task]:
    """The runs that train."""
    return [*_relaxed(tier), *_strict(tier)]


def _relaxed(tier: Tier) -> Iterator[Task]:
    """Through the target, and through all targets together at the rate that the paper carries over."""
    report = report_images(_tested(tier), 1)
    common = replace(
        tier.relaxed, data=tier.data, budget=tier.images + report, report=ReportConfig(chips=1, images=tier.tested)
    )  # fmt: skip
    for rate in tier.rates:
        for target in tier.targets:
            for generator in GENERATORS:
                named = {"study": "relaxed", "target": target, "generator": generator, "rate": rate}
                yield Task(named, replace(common, target=file_of(target), generator=generator, bit_error_rate=rate))
    both, rate = "+".join(tier.targets), next(iter(tier.rates))
    for generator in CARRIED:
        named = {"study": "relaxed", "target": both, "generator": generator, "rate": rate}
        files = "+".join(map(file_of, tier.targets))
        yield Task(named, replace(common, target=files, generator=generator, bit_error_rate=rate))


def _strict(tier: Tier) -> Iterator[Task]:
    rate = next(iter(tier.rates))
    for target in tier.targets:
        common: dict[str, Any] = {"data": tier.data, "target": file_of(target), "bit_error_rate": rate}
        for method, (settings, budgets) in tier.strict.items():
            for images in budgets:
                report = report_images(_tested(tier), tier.chips, STANDARDIZED if settings.head_name == "standardize" else 0)
                named = {"study": "strict", "target": target, "method": method, "rate": rate, "images": images, "chip": None}
                whole = ReportConfig(chips=tier.chips, images=tier.tested)
                yield Task(named, replace(settings, **common, budget=images + report, report=whole))
        for method, (settings, budgets) in tier.owned_chip.items():
            for images in budgets:
                for chip in reporting_chips(tier.fixed):
                    named = {"study": "strict", "target": target, "method": method, "rate": rate, "images": images, "chip": chip}
                    budget = images + report_images(_tested(tier), 1)
                    whole = ReportConfig(images=tier.tested)
                    yield Task(named, replace(settings, **common, budget=budget, report=whole, chip_seed=chip))


def _tested(tier: Tier) -> int:
    return tier.tested or len(load(tier.data).test)


def file_of(target: str) -> str:
    """The checkpoint of a target, relative to the working directory."""
    return str(ROOT / "targets" / f"{target}{checkpoint.SUFFIX}")


def fit_targets(tier: Tier) -> None:
    """All targets into files, trained as the paper's are: on the weights as they will be stored."""
    data = load(tier.data)
    for target in (*tier.targets, tier.smaller):
        if not Path(file_of(target)).exists():
            fit_to(Path(file_of(target)), target, data, tier.recipe, tier.relaxed.device)
