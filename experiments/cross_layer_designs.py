"""Designs across the layers of a system, their cost and their accuracy: what the studies `cross_layer*` have in common.

A design is a protection policy, a limit on the range of the weights, a precision, and optionally a fuse with a head. ``rate`` is
the bit error rate of the memory; the bit error rate of the 16-bit results of the processing elements is `ARITHMETIC` times that
(our choice). Channels are ranked by gradients, as the maker of the hardware can do. Everything is chosen on validation images and
chips from 40,000 on; reporting chips and test images are used in `DesignBench.reported` alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bbfuse
from backends.base import NOMINAL, Chip
from backends.datasets.base import Dataset, Split
from backends.datasets.loading import load
from backends.memory.config import Memory
from backends.memory.protection.cost import Cost, cost
from backends.memory.protection.policy import Layer, Protection, chosen
from backends.memory.protection.simulator import ProtectedSimulator, Scores, layers_of
from backends.memory.protection.vulnerability import from_gradients
from backends.memory.simulator import Simulator
from backends.targets.fit import fitted
from backends.training.augmentation import moved
from backends.training.recipe import recipe_for
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig
from bbfuse.execution import execute
from bbfuse.heads.standardize import Standardize
from bbfuse.seeds import reporting_chips, validation_chip
from bbfuse.training.evaluation import accuracy

__all__ = ["ARITHMETIC", "CLIPS", "DIGITS", "FULL", "UNPROTECTED", "Design", "DesignBench", "constrained"]

ARITHMETIC = 0.01
CLIPS = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Largest magnitude of a layer's weights, relative to the trained one."""
CALIBRATED = 50
"""Images that calibrate the head `standardize` on each chip; the cost of the head's 20 numbers is neglected."""
T = TypeVar("T")
FOLDER = Path("runs") / "cross_layer"


@dataclass(frozen=True)
class Design:
    """The choices for all layers of a system."""

    protection: Protection = field(default_factory=Protection)
    clip: float = 1.0
    """limit on the weights, relative to the largest of their layer; fine-tuning keeps it"""
    bits: int = 8
    """of a stored weight"""
    fuse: str = "none"
    """generator of a fuse with the head standardize; head for that head alone"""


UNPROTECTED = Design()
FULL = Design(Protection("tmr", inner=8, outer=8, logic=16))


@dataclass(frozen=True)
class DesignBench:
    """Measures designs of one target on its data."""

    data: str
    target: str
    fuses: dict[str, RunConfig] = field(hash=False)
    """the runs that train the fuses, by the names that designs use"""
    validation_images: int
    validation_chips: int
    test_images: int
    steps: int
    """steps of fine-tuning under a limit on the weights"""

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, loaded once."""
        return load(self.data)

    @cached_property
    def _cached(self) -> dict[Any, Any]:
        return {}

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for ``key``."""
        if key not in self._cached:
            self._cached[key] = make()
        found: T = self._cached[key]
        return found

    def network(self, clip: float) -> nn.Module:
        """The target with limited weights; fine-tuned once and cached in ``runs/``."""

        def make() -> nn.Module:
            network = fitted(self.target, self.dataset)
            path = FOLDER / f"{self.target}-{clip}-{self.steps}.pt"
            if clip < 1.0 and path.exists():
                network.load_state_dict(torch.load(path, weights_only=True))
            elif clip < 1.0:
                network = constrained(network, self.dataset.train, clip, self.steps)
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(network.state_dict(), path)
            return network.eval().requires_grad_(False)

        return self._once(("network", clip), make)

    def known(self, clip: float) -> tuple[dict[str, Layer], Scores]:
        """Layers with their ranges on training images, and the vulnerability of each channel, from gradients on them."""

        def make() -> tuple[dict[str, Layer], Scores]:
            network, images = self.network(clip), self.dataset.train.images
            layers = layers_of(network, images[:500])
            stored = Simulator(network).stored.tensors()
            steps = {name: float(stored[f"{name}.weight"].abs().max()) / 127 for name in layers}
            draws = 20 if self.data == "digits" else 4
            rng = torch.Generator().manual_seed(0)
            return layers, Scores(*from_gradients(network, layers, steps, images[500:600], draws, rng))

        return self._once(("known", clip), make)

    def fuse(self, name: str) -> nn.Module:
        """The trained fuse, images to images; trained if its run is missing."""

        def make() -> nn.Module:
            folder = FOLDER / f"{self.target}-fuse-{name}"
            if not (folder / "summary.json").exists():
                begun = (folder / "config.json").exists()
                execute(RunConfig(resume=folder) if begun else replace(self.fuses[name], out=folder))
            return bbfuse.load(folder).fuse

        return self._once(("fuse", name), make)

    def simulator(self, design: Design) -> ProtectedSimulator:
        """The simulated hardware of ``design``."""
        layers, scores = self.known(design.clip)
        return ProtectedSimulator(
            self.network(design.clip), layers, Memory(bits=design.bits), design.protection, scores, ARITHMETIC
        )

    def price(self, design: Design, rate: float) -> Cost:
        """Area, energy and time of ``design`` at the voltage of ``rate``, relative to no protection at nominal voltage."""
        layers, scores = self.known(design.clip)
        policy, image = design.protection, self.dataset.train.images[:1]
        important = chosen(layers, scores.weights, policy.important, "weights")
        recomputed = chosen(layers, scores.results, policy.recomputed, "macs")
        fuse = layers_of(self.fuse(design.fuse), image) if design.fuse in self.fuses else None
        found = cost(layers, design.bits, policy, important, recomputed, rate, fuse)
        none = {name: torch.zeros(layer.channels, dtype=torch.bool) for name, layer in layers.items()}
        base = cost(layers, 8, Protection(), none, none, 0.0)
        return Cost(found.area / base.area, found.energy / base.energy, found.time)

    def accuracies(self, design: Design, chips: Sequence[Chip], part: Split) -> list[float]:
        """Accuracy on each chip; the head is calibrated to each chip with the first training images."""
        simulator = self.simulator(design)
        images, first = part.images, self.dataset.train.images[:CALIBRATED]
        found, fuse = [], self.fuse(design.fuse) if design.fuse in self.fuses else nn.Identity()
        with torch.no_grad():
            images = fuse(images)
            for chip in chips:
                logits = torch.cat([simulator.logits(some, chip) for some in images.split(500)])
                if design.fuse != "none":
                    logits = Standardize(simulator.logits(first, chip), simulator.logits(first, NOMINAL))(logits)
                found.append(accuracy(logits, part.labels))
        return found

    def validated(self, design: Design, rate: float) -> float:
        """Mean accuracy on validation images and chips."""
        part = self.dataset.validation[: self.validation_images]
        chips = [Chip(rate, validation_chip(index)) for index in range(self.validation_chips)] if rate else [NOMINAL]
        return mean(self.accuracies(design, chips, part))

    def clean(self, design: Design) -> float:
        """Accuracy on validation images at nominal voltage, without the fuse."""
        restricted, clip, bits = design.protection.restricted, design.clip, design.bits
        plain = Design(Protection(restricted=restricted), clip, bits)
        return self._once(("clean", clip, bits, restricted), lambda: self.validated(plain, 0.0))

    def reported(self, design: Design, rate: float, chips: int) -> list[float]:
        """Accuracy on test images, on each of the first ``chips`` reporting chips."""
        part = self.dataset.test[: self.test_images]
        return self.accuracies(design, [Chip(rate, seed) for seed in reporting_chips(chips)], part)


DIGITS = DesignBench(
    "digits", "digits",
    {
        name: RunConfig(
            optimizer="follow", generator=name, bit_error_rate=0.05, head="standardize",
            report=ReportConfig(chips=2, share=1.0),
        )
        for name in ("Filters", "MLP", "UNetXS")
    },
    validation_images=287, validation_chips=5, test_images=360, steps=300,
)  # fmt: skip


def constrained(network: nn.Module, data: Split, clip: float, steps: int) -> nn.Module:
    """``network`` with no weight larger than ``clip`` times its layer's largest, fine-tuned by Adam, projected at every step."""
    network = copy.deepcopy(network).train().requires_grad_(True)
    recipe = recipe_for(data.images.shape[1:])
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    limits = [clip * float(weight.detach().abs().max()) for weight in weights]
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(steps):
            _project(weights, limits)
            batch = data[torch.randint(len(data), (128,))]
            images = moved(batch.images, recipe)
            if recipe.bfloat16:
                images = images.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                loss = F.cross_entropy(network(images), batch.labels)
            loss.backward()
            optimizer.step()
            schedule.step()
        _project(weights, limits)
    return network


def _project(weights: Sequence[Tensor], limits: Sequence[float]) -> None:
    with torch.no_grad():
        for weight, limit in zip(weights, limits, strict=True):
            weight.clamp_(-limit, limit)
