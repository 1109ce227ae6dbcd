"""The size of the study in each tier, and its runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from backends.datasets.loading import load
from backends.memory.config import Memory, Quantization
from backends.targets import checkpoint
from backends.targets.fit import fit_to
from backends.training.hardening import Hardening
from backends.training.recipe import LARGE_RECIPE, RECIPE, Recipe
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.objective.eopm import EopmConfig
from bbfuse.optimizers.backprop import BackpropConfig
from bbfuse.seeds import reporting_chips
from bbfuse.training.evaluation import report_images

__all__ = ["CARRIED", "GENERATORS", "MEMORY", "STANDARDIZED", "TIERS", "Tier", "fit_targets", "tasks"]

GENERATORS = ("ConvL", "ConvS", "DeConvL", "DeConvS", "UNetL", "UNetS")
CARRIED = ("ConvL", "UNetL")
"""Generators that the paper transfers to other targets and precisions."""
AWARE = Hardening(Quantization(), stored="weights")
"""Quantization-aware training, in the paper's number format."""
MEMORY = Memory(errors="neuralfuse-map")
STANDARDIZED = 50


@dataclass(frozen=True)
class Tier:
    """The size of the study."""

    name: str
    data: str
    label: str
    """the data's name in the records"""
    targets: dict[str, str]
    """architectures, and the paper's targets whose numbers are shown beside theirs"""
    smaller: str
    """a cheaper architecture, instead of a low voltage"""
    recipe: Recipe
    rates: dict[float, float]
    """bit error rates, and the paper's rates whose numbers are shown beside them; the first is that of `rates` and `precision`"""
    grid: tuple[float, ...]
    """further rates at which fuses and targets without a fuse are evaluated"""
    chips: int
    """that are reported on"""
    tested: int | None
    """held-out images; all if not given"""
    generators: dict[float, tuple[str, ...]]
    """trained through each target, by rate"""
    relaxed: RunConfig
    """white-box settings for the population"""
    images: int
    """sent for its training, or for that through two targets"""
    strict: dict[str, tuple[RunConfig, tuple[int, ...]]]
    """settings for the population by name, and images sent for training"""
    owned_chip: dict[str, tuple[RunConfig, tuple[int, ...]]]
    """the same for one chip"""
    fixed: int
    """number of single chips"""
    few: tuple[int, ...]
    """images owned by the classifiers that are used instead, besides all images"""
    bits: tuple[int, ...] = tuple(range(8, 1, -1))
    """a weight, at the lower rate"""
    both: bool = True
    """whether fuses are trained through all targets together, too"""

    @property
    def root(self) -> Path:
        """The folder of its runs, targets and cells."""
        return Path("runs") / "paper" / self.name

    def file_of(self, target: str) -> str:
        """The checkpoint of a target, relative to the working directory; of several, ``A+B``, theirs."""
        return "+".join(str(self.root / "targets" / f"{each}{checkpoint.SUFFIX}") for each in target.split("+"))


_STRICT = RunConfig(memory=MEMORY, head="none", validation=ValidationConfig(times=0))
_RELAXED = replace(
    _STRICT, backend="whitebox", optimizer="backprop", batch=64, sampling="uniform", eopm=EopmConfig(chips=4, terms="all"),
)  # fmt: skip
TIERS = {
    "cpu": Tier(
        name="cpu", data="digits", label="digits", targets={"digits-residual": "resnet18", "digits": "vgg19"},
        smaller="digits-small",
        recipe=replace(RECIPE, hardening=AWARE), rates={0.05: 0.01, 0.02: 0.005}, grid=(0.005, 0.01, 0.03, 0.1), chips=50,
        tested=None, generators=dict.fromkeys((0.05, 0.02), GENERATORS), relaxed=_RELAXED, images=360_000,
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
            "backprop, affine": (replace(_STRICT, backend="whitebox", optimizer="backprop", head="affine"), (10_000,)),
        },
        fixed=5, few=(200,),
    ),
    "cifar10": Tier(
        name="cifar10", data="data/cifar10-jpeg", label="CIFAR-10 (JPEG)", targets={"resnet20": "resnet18", "vgg11": "vgg11"},
        smaller="resnet8-bn",
        recipe=replace(LARGE_RECIPE, optimizer="sgd", lr=0.1, weight_decay=5e-4, steps=3_000, hardening=AWARE),  # 9 epochs
        rates={0.01: 0.01, 0.005: 0.005}, grid=(0.002,), chips=10, tested=1_000,
        generators={0.01: ("UNetL",)},
        relaxed=replace(_RELAXED, precision="bfloat16"), images=300_000,
        strict={
            "follow, standardize": (replace(_STRICT, optimizer="follow", generator="UNetXS", head="standardize"), (30_000,)),
        },
        owned_chip={
            "follow, affine": (replace(_STRICT, optimizer="follow", generator="UNetXS", head="affine"), (30_000,)),
            "backprop, affine": (
                replace(_STRICT, backend="whitebox", optimizer="backprop", generator="UNetXS", head="affine", batch=32), (30_000,)
            ),
        },
        fixed=3, few=(500, 2000), bits=(8, 6, 4), both=False,
    ),
    "gpu": Tier(
        name="gpu", data="data/cifar10-jpeg", label="CIFAR-10 (JPEG)", smaller="resnet20",
        targets={"resnet18": "resnet18", "vgg19": "vgg19", "resnet50": "resnet50"},
        recipe=replace(
            LARGE_RECIPE, optimizer="sgd", lr=0.2, weight_decay=5e-4, batch=256, steps=10_500, hardening=AWARE,  # 60 epochs
        ),
        rates={0.01: 0.01, 0.005: 0.005}, grid=(0.001, 0.002, 0.015, 0.02), chips=10, tested=None,
        generators=dict.fromkeys((0.01, 0.005), GENERATORS),
        # an image goes through the fuse once and the target five times: 6.4 million are 10,000 steps, 28 epochs of the fuse;
        # with ConvL 15 PFLOP on ResNet18, 11 on VGG19, 34 on ResNet50, two to four minutes at 150 TFLOP/s
        relaxed=_RELAXED.replaced(
            device="cuda", precision="bfloat16", batch=128, augment=True, backprop=BackpropConfig(lr=1e-3),
            eopm=EopmConfig(chips=4, terms="all", pool=300),
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
    """Through the target, and through all targets together at the rate at which the paper transfers fuses."""
    report = report_images(_tested(tier), 1)
    common = replace(
        tier.relaxed, data=tier.data, budget=tier.images + report, report=ReportConfig(chips=1, images=tier.tested)
    )  # fmt: skip
    for rate, generators in tier.generators.items():
        for target, generator in product(tier.targets, generators):
            named = {"study": "relaxed", "target": target, "generator": generator, "rate": rate}
            yield Task(named, replace(common, target=tier.file_of(target), generator=generator, bit_error_rate=rate))
    both, rate = "+".join(tier.targets), next(iter(tier.rates))
    for generator in CARRIED if tier.both else ():
        named = {"study": "relaxed", "target": both, "generator": generator, "rate": rate}
        yield Task(named, replace(common, target=tier.file_of(both), generator=generator, bit_error_rate=rate))


def _strict(tier: Tier) -> Iterator[Task]:
    rate = next(iter(tier.rates))
    for target in tier.targets:
        common: dict[str, Any] = {"data": tier.data, "target": tier.file_of(target), "bit_error_rate": rate}
        for method, (settings, budgets) in tier.strict.items():
            for images in budgets:
                report = report_images(_tested(tier), tier.chips, STANDARDIZED if settings.head_name == "standardize" else 0)
                named = {"study": "strict", "target": target, "method": method, "rate": rate, "images": images, "chip": None}
                whole = ReportConfig(chips=tier.chips, images=tier.tested)
                yield Task(named, replace(settings, **common, budget=images + report, report=whole))
        for method, (settings, budgets) in tier.owned_chip.items():
            for images in budgets:
                for chip in reporting_chips(tier.fixed):
                    study = "relaxed" if settings.backend == "whitebox" else "strict"
                    named = {"study": study, "target": target, "method": method, "rate": rate, "images": images, "chip": chip}
                    budget = images + report_images(_tested(tier), 1)
                    whole = ReportConfig(images=tier.tested)
                    yield Task(named, replace(settings, **common, budget=budget, report=whole, chip_seed=chip))


def _tested(tier: Tier) -> int:
    return tier.tested or len(load(tier.data).test)


def fit_targets(tier: Tier) -> None:
    """Write all targets to files, trained as the paper's are: on the weights as they will be stored."""
    data = load(tier.data)
    for target in (*tier.targets, tier.smaller):
        if not Path(tier.file_of(target)).exists():
            fit_to(Path(tier.file_of(target)), target, data, tier.recipe, tier.relaxed.device)
