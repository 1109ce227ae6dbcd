from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from backends.fitting import LARGE_RECIPE, RECIPE, Recipe
from backends.hardening import Hardening
from backends.memory.scheme import PRESETS

Scheme = Literal["normal", "rquant"]


@dataclass(frozen=True)
class Cell:
    """A target and how it was hardened."""

    name: str
    scheme: Scheme = "rquant"
    bits: int = 8
    clip: float | None = None
    randbet: float | None = None
    advbet: int | None = None
    pattern: int | None = None
    gradients: Literal["sum", "mean"] = "sum"
    ranges: Literal["tensor", "global"] = "tensor"
    label_smoothing: float = 0.0
    norm: Literal["gn", "bn"] = "gn"

    def recipe(self, usual: Recipe) -> Recipe:
        """How it is fitted where an unhardened target is fitted by ``usual``."""
        preset, stored = PRESETS[self.scheme]
        hardening = Hardening(
            replace(preset, bits=self.bits, ranges=self.ranges), stored, self.clip, self.randbet, self.advbet, self.pattern,
            gradients=self.gradients,
        )  # fmt: skip
        return replace(usual, label_smoothing=self.label_smoothing, hardening=hardening)


NORMAL, RQUANT, CLIP = Cell("normal", "normal"), Cell("rquant"), Cell("clip", clip=0.1)
RANDBET = replace(CLIP, name="randbet", randbet=0.01)
CIFAR = (
    RQUANT, CLIP, RANDBET,
    NORMAL,
    replace(RQUANT, name="rquant, batch norm", norm="bn"),
    replace(CLIP, name="clip, batch norm", norm="bn"),
    replace(CLIP, name="clip, label smoothing", label_smoothing=1 / 9),
    Cell("fixed pattern", randbet=0.025, pattern=0),
    replace(RANDBET, name="randbet, 4 bits", bits=4),
    replace(CLIP, name="clip, 4 bits", bits=4),
)  # fmt: skip
HIGH = replace(RANDBET, name="randbet, 10 %", randbet=0.1)
DIGITS = (
    NORMAL, RQUANT, CLIP, RANDBET, HIGH,
    replace(NORMAL, name="normal, one range", ranges="global"),
    replace(RQUANT, name="rquant, batch norm", norm="bn"),
    replace(CLIP, name="clip, batch norm", norm="bn"),
    replace(CLIP, name="clip, label smoothing", label_smoothing=1 / 9),
    Cell("fixed pattern", randbet=0.05, pattern=0),
    replace(CLIP, name="clip, 4 bits", bits=4),
    replace(HIGH, name="randbet, 10 %, 4 bits", bits=4),
    replace(RQUANT, name="rquant, 4 bits", bits=4),
    replace(CLIP, name="clip, 2 bits", bits=2),
    replace(HIGH, name="randbet, 10 %, 2 bits", bits=2),
    replace(HIGH, name="randbet, 10 %, mean of gradients", gradients="mean"),
    Cell("advbet", advbet=20),
    replace(CLIP, name="clip, advbet", advbet=20),
)  # fmt: skip
CIFAR_RECIPE = replace(LARGE_RECIPE, steps=2000, bfloat16=False)
