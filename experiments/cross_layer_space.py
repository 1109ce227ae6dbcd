"""The variables of a design across layers, their ranges, and the families of designs that have some of them."""

from __future__ import annotations

from collections.abc import Mapping

from backends.memory.protection.policy import CODES, Protection
from experiments.cross_layer_designs import CLIPS, Design

__all__ = ["BUILT", "EVERYTHING", "FAMILIES", "NOTHING", "RANGES", "VOLTAGES", "Values", "completed", "design_of"]

Values = dict[str, int | str]
BUILT = [code for code in CODES if code != "void"]
RANGES: dict[str, tuple[int, int]] = {
    "important": (0, 10), "inner": (0, 8), "outer": (0, 8), "logic": (0, 16), "recomputed": (0, 10), "width": (1, 64),
    "restricted": (0, 1), "clip": (0, len(CLIPS) - 1), "bits": (4, 8), "voltage": (0, 7),
}  # fmt: skip
"""Integers from the first to the last; shares are in tenths, ``clip`` and ``voltage`` are places in `CLIPS` and `VOLTAGES`."""
VOLTAGES = (0.0, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1)
"""As the bit error rates that they cause."""
NOTHING: Values = {
    "code": "tmr", "important": 10, "inner": 0, "outer": 0, "logic": 0, "recomputed": 0, "width": 8, "restricted": 0, "clip": 0,
    "bits": 8, "voltage": 0, "fuse": "none",
}  # fmt: skip
EVERYTHING: Values = {**NOTHING, "inner": 8, "outer": 8, "logic": 16}
_LAYERS = ("code", *(name for name in RANGES if name not in ("bits", "voltage")))
FAMILIES: dict[str, tuple[str, ...]] = {
    "bits only": ("code", "inner", "logic"),
    "neurons only": ("code", "important", "recomputed", "width"),
    "quantization only": ("restricted", "clip"),
    "cross-layer": _LAYERS,
    "cross-layer with fuse": (*_LAYERS, "fuse"),
    "free voltage": (*_LAYERS, "bits", "voltage", "fuse"),
}
"""The variables of each family; all others are as in `NOTHING`. Area is minimized, or energy if the voltage is a variable."""


def completed(family: str, values: Mapping[str, int | str]) -> Values:
    """``values`` of ``family`` with all others, so that they mean the same in every family."""
    whole = {**NOTHING, **values}
    if family == "bits only":
        whole["outer"] = whole["inner"]
    if family == "neurons only":
        whole["inner"] = 8
    return whole


def design_of(family: str, values: Mapping[str, int | str]) -> Design:
    """The design with these ``values``. Important channels never have fewer protected bits than others."""
    chosen = completed(family, values)
    number = {name: int(value) for name, value in chosen.items() if name not in ("code", "fuse")}
    policy = Protection(
        chosen["code"], number["important"] / 10, max(number["inner"], number["outer"]), number["outer"], number["logic"],  # type: ignore[arg-type]
        number["recomputed"] / 10, number["width"], bool(number["restricted"]),
    )  # fmt: skip
    return Design(policy, CLIPS[number["clip"]], number["bits"], str(chosen["fuse"]))
