"""Every method in its variants, for small problems: by these names tests make them."""

from __future__ import annotations

from typing import Any

from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import OPTIMIZERS, Optimizer, Problem

PROBLEM = Problem(owned=8, classes=3, population=False, seed=0)
VARIANTS: dict[str, dict[str, Any]] = {
    "spsa": {"c": 1e-2, "gamma": 0.0},
    "spsa, 3 pairs": {"c": 1e-2, "gamma": 0.0, "pairs": 3},
    "spsa-gc": {"c": 1e-2, "gamma": 0.0, "pairs": 2},
    "rge, parameters": {"space": "parameters", "smoothing": 1e-2},
    "rge, parameters, 3 directions": {"space": "parameters", "smoothing": 1e-2, "directions": 3},
    "rge, inputs": {"broyden": False, "smoothing": 1e-2},
    "rge, inputs, 3 directions": {"broyden": False, "smoothing": 1e-2, "directions": 3},
    "rge, inputs, coordinates": {"broyden": False, "smoothing": 1e-2, "basis": "coordinates", "directions": 2},
    "rge, inputs, coarse": {"broyden": False, "basis": "coarse"},
    "rge, inputs, dct, broyden": {"basis": "dct"},
    "rge, inputs, broyden": {},
    "fzoo": {},
    "nes": {},
    "pgpe": {},
    "cma": {"subspace": 20},
    "cma, all parameters": {"subspace": None},
    "nevergrad": {"workers": 20, "subspace": 30},
    "nevergrad, all parameters": {},
    "nevergrad, TBPSA in a subspace": {"name": "TBPSA", "subspace": 10},
    "nevergrad, OnePlusOne": {"name": "OnePlusOne", "workers": 1},
    "transfer": {},
    "follow": {"every": 1},
    "guided": {},
    "guided, coarse": {"basis": "coarse"},
    "backprop": {},
}
STRICT = [name for name in VARIANTS if name != "backprop"]
ASKING = [name for name in VARIANTS if name != "transfer"]
"""A method that asks nothing of the target in its steps cannot lose a score, train a head, or learn what is wrong."""


def settings_of(name: str, **changed: Any) -> Any:
    return OPTIMIZERS[name.split(",")[0]].Config(**{**VARIANTS[name], **changed})


def make(name: str, fuse: Fuse, problem: Problem = PROBLEM, **changed: Any) -> Optimizer:
    return OPTIMIZERS[name.split(",")[0]].create(settings_of(name, **changed), problem, fuse)
