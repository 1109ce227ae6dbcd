"""Targets trained to tolerate bit errors: how each is trained, and the errors that Stutz et al. (MLSys 2021) publish for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from backends.datasets.base import Dataset
from backends.memory.config import PRESETS, Memory
from backends.memory.simulator import Simulator
from backends.targets.fit import fitted
from backends.training.hardening import Hardening
from backends.training.recipe import LARGE_RECIPE, RECIPE, Recipe

__all__ = ["CIFAR", "DIGITS", "TIERS", "HardenedTarget", "TargetGroup", "error"]


@dataclass(frozen=True)
class HardenedTarget:
    """How a target is hardened, and the published error and robust errors by bit error rate, in percent."""

    name: str
    scheme: Literal["normal", "rquant"] = "rquant"
    bits: int = 8
    clip: float | None = None
    randbet: float | None = None
    advbet: int | None = None
    pattern: int | None = None
    gradients: Literal["sum", "mean"] = "sum"
    ranges: Literal["tensor", "global"] = "tensor"
    label_smoothing: float = 0.0
    norm: Literal["gn", "bn"] = "gn"
    published: dict[float, float] = field(default_factory=dict)
    """rate 0 for the error"""

    def recipe(self, usual: Recipe) -> Recipe:
        """How it is trained, if an unhardened target is trained by ``usual``."""
        preset, stored = PRESETS[self.scheme]
        hardening = Hardening(
            replace(preset, bits=self.bits, ranges=self.ranges), stored, self.clip, self.randbet, self.advbet, self.pattern,
            gradients=self.gradients,
        )  # fmt: skip
        return replace(usual, label_smoothing=self.label_smoothing, hardening=hardening)

    def simulator(self, architecture: str, data: Dataset, usual: Recipe, device: str = "cpu") -> Simulator:
        """The target, trained, in the memory that it is trained for."""
        recipe = self.recipe(usual)
        assert recipe.hardening is not None
        network = fitted(f"{architecture}-{self.norm}", data, recipe, device).to(device)
        return Simulator(network, Memory(stored=recipe.hardening.stored), recipe.hardening.quantization)


@dataclass(frozen=True)
class TargetGroup:
    """Hardened targets of one data set and architecture, how they are trained, and the rates and images of the measurement."""

    data: str
    shown: str
    target: str
    cells: tuple[HardenedTarget, ...]
    recipe: Recipe
    rates: tuple[float, ...]
    images: int
    seeds: tuple[int, ...] = (0,)
    chips: int = 50
    device: str = "cpu"


def error(logits: Tensor, labels: Tensor) -> float:
    """Share of rows of ``logits`` whose largest entry is not the label's, in percent."""
    return 100 * (logits.argmax(1) != labels).double().mean().item()


def _mnist(base: HardenedTarget, *errors: float, **changes: object) -> HardenedTarget:
    return replace(base, published=dict(zip((0, 0.01, 0.05, 0.1, 0.15), errors, strict=False)), **changes)  # type: ignore[arg-type]


def _cifar(base: HardenedTarget, *errors: float, **changes: object) -> HardenedTarget:
    rates = (0, 0.001, 0.005, 0.01, 0.015, 0.025)
    return replace(base, published=dict(zip(rates, errors, strict=False)), **changes)  # type: ignore[arg-type]


NORMAL, RQUANT, CLIP = HardenedTarget("normal", "normal"), HardenedTarget("rquant"), HardenedTarget("clip", clip=0.1)
RANDBET = replace(CLIP, name="randbet", randbet=0.01)
HIGH = replace(RANDBET, name="randbet, 10 %", randbet=0.1)
SMOOTHED = replace(CLIP, name="clip, label smoothing", label_smoothing=1 / 9)
RQUANT_BN, CLIP_BN = (replace(base, name=f"{base.name}, batch norm", norm="bn") for base in (RQUANT, CLIP))
DIGITS = (
    _mnist(NORMAL, 0.39, 0.77, 86.37, 89.92, 89.81), _mnist(RQUANT, 0.40, 0.69, 85.96, 90.20, 90.10),
    _mnist(CLIP, 0.39, 0.48, 18.21, 88.93, 90.06), _mnist(RANDBET, 0.36, 0.44, 3.41, 86.29, 89.85),
    HIGH, SMOOTHED, replace(NORMAL, name="normal, one range", ranges="global"), RQUANT_BN, CLIP_BN,
    HardenedTarget("fixed pattern", randbet=0.05, pattern=0),
    _mnist(CLIP, 0.38, 0.51, 38.75, 88.33, 89.57, name="clip, 4 bits", bits=4),
    _mnist(HIGH, 0.40, 0.47, 0.64, 1.22, 16.72, name="randbet, 10 %, 4 bits", bits=4),
    _mnist(RQUANT, 0.36, 0.72, 87.21, 90.23, 89.88, name="rquant, 4 bits", bits=4),
    _mnist(CLIP, 0.47, 3.82, 89.19, 89.92, 90.14, name="clip, 2 bits", bits=2),
    replace(HIGH, name="randbet, 10 %, 2 bits", bits=2),
    replace(HIGH, name="randbet, 10 %, mean of gradients", gradients="mean"),
    HardenedTarget("advbet", advbet=20), replace(CLIP, name="clip, advbet", advbet=20),
)  # fmt: skip
_BOTH = (
    _cifar(RQUANT, 4.32, 5.54, 11.28, 32.05, 68.65, 89.01), _cifar(CLIP, 4.82, 5.58, 6.95, 8.93, 12.22, 27.02),
    _cifar(NORMAL, 4.36, 6.37, 24.76, 72.65, 87.40, 90.15), _cifar(RANDBET, 4.90, 5.43, 6.36, 7.41, 8.65, 27.21),
    _cifar(SMOOTHED, 4.82, 6.10, 7.36, 10.59, 18.31),
    _cifar(RANDBET, 5.39, 5.96, 7.04, 8.34, 9.77, 14.91, name="randbet, 4 bits", bits=4),
)  # fmt: skip
CIFAR = (
    *_BOTH, _cifar(RQUANT_BN, 3.83, 6.36, 52.52), _cifar(CLIP_BN, 4.46, 5.32, 8.25),
    HardenedTarget("fixed pattern", randbet=0.01, pattern=0),
)  # fmt: skip
"""Trained on the small architecture."""
LARGE = (
    *_BOTH, _cifar(RANDBET, 5.71, 6.22, 7.00, 7.83, 8.69, 10.91, name="randbet, 2 %", randbet=0.02),
    _cifar(CLIP, 5.29, 5.99, 7.71, 10.62, 15.79, 37.94, name="clip, 4 bits", bits=4),
)  # fmt: skip
EPOCHS = 250
PUBLISHED_RECIPE = Recipe(
    steps=EPOCHS * 45_000 // 128, lr=0.05, weight_decay=5e-4, shift=4, mirror=True, each=True, bfloat16=True, optimizer="sgd",
    schedule="steps", cutout=16,
)  # fmt: skip
_JPEG = ("data/cifar10-jpeg", "CIFAR-10 (JPEG)")
SMALL_RECIPE = replace(LARGE_RECIPE, steps=3000, bfloat16=False)
TIERS: dict[str, tuple[TargetGroup, ...]] = {
    "cpu": (
        TargetGroup("digits", "digits", "digits", DIGITS, RECIPE, (0.01, 0.05, 0.1, 0.15), 360),
        TargetGroup(*_JPEG, "resnet8", CIFAR, SMALL_RECIPE, (0.005, 0.01, 0.025), 500),
    ),
    "gpu": (
        TargetGroup(
            *_JPEG, "simplenet", LARGE, PUBLISHED_RECIPE, (0.001, 0.005, 0.01, 0.015, 0.025), 9000, device="cuda"
        ),
    ),
}  # fmt: skip
