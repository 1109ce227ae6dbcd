"""The search for designs: Bayesian optimisation by Optuna's samplers against random search, with as many evaluations each.

Area is minimised subject to accuracy at a bit error rate, accuracy without errors, and time. A study that is kept lies in a
journal under ``runs/cross_layer`` and goes on where it was killed. ``sampler``: `tpe` (tree-structured Parzen estimators of all
parameters together, what the studies use) or `random`. One row for each seed: the smallest area among the designs that were
feasible on validation images and chips, ``null`` if none was. Both begin with full TMR and nothing else. Digits, 5 % bit errors,
the space of `cross-layer`, 150 images and three chips.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import mean
from typing import Any

import torch
from rich.table import Table

from backends.base import InputError
from backends.memory.protection.policy import CODES, Protection
from experiments.cross_layer_designs import ARITHMETIC, CLIPS, FOLDER, FULL, Bench, Design
from experiments.study import command

__all__ = ["FAMILIES", "NOTHING", "VOLTAGES", "Found", "Limits", "best", "design_of", "limits_of", "main", "search"]

Values = dict[str, int | str]
BUILT = [code for code in CODES if code != "void"]
RANGES: dict[str, tuple[int, int]] = {
    "important": (0, 10), "inner": (0, 8), "outer": (0, 8), "logic": (0, 16), "recomputed": (0, 10), "width": (1, 64),
    "restricted": (0, 1), "clip": (0, len(CLIPS) - 1), "bits": (4, 8), "voltage": (0, 7),
}  # fmt: skip
"""Whole numbers from the first to the last; shares are in tenths, ``clip`` and ``voltage`` places in `CLIPS` and `VOLTAGES`."""
VOLTAGES = (0.0, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1)
"""By the bit error rates that they give."""
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
"""What each design may choose; the rest is as in `NOTHING`. Area is made small, energy where the voltage is free."""
SAMPLERS = ("tpe", "random")
SEEDS = range(10)
EVALUATIONS = 80
RATE = 0.05
TIME = 1.25
"""Cycles an image at most, relative to no protection."""
TOLERANCE = 0.01
"""By how much accuracy may lie below that of full TMR at the same rate, on validation; and without errors below the target's."""


@dataclass(frozen=True)
class Limits:
    """What a feasible design keeps to."""

    accuracy: float
    clean: float
    time: float = TIME


@dataclass(frozen=True)
class Found:
    """A design that was tried, and what validation says of it."""

    values: Values
    cost: float
    """what was made small: area or energy"""
    accuracy: float
    feasible: bool


def design_of(family: str, values: Mapping[str, int | str]) -> Design:
    """The design that ``values`` name. Important channels never have fewer protected bits than others."""
    chosen = {**NOTHING, **values}
    number = {name: int(value) for name, value in chosen.items() if name not in ("code", "fuse")}
    if family == "bits only":
        number["outer"] = number["inner"]
    if family == "neurons only":
        number["inner"] = 8
    policy = Protection(
        chosen["code"], number["important"] / 10, max(number["inner"], number["outer"]), number["outer"], number["logic"],  # type: ignore[arg-type]
        number["recomputed"] / 10, number["width"], bool(number["restricted"]),
    )  # fmt: skip
    return Design(policy, CLIPS[number["clip"]], number["bits"], str(chosen["fuse"]))


def search(
    name: str | None, family: str, bench: Bench, rate: float, limits: Limits, evaluations: int, sampler: str = "tpe",
    seed: int = 0, first: Sequence[Values] = (), known: dict[tuple[Design, float], float] | None = None,
) -> list[Found]:  # fmt: skip
    """All designs of ``family`` that a study called ``name`` has tried, the ``first`` ones among them.

    Without a name the study is not kept. ``known`` accuracies are looked up before a design is measured. Each trial has a sampler
    of its own seed, so that a study that was killed goes on as if nothing had happened.

    Raises:
        InputError: Optuna is not there.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
        from optuna.trial import TrialState
    except ImportError as error:
        raise InputError(
            "the search needs the library optuna, which is not here: python -m pip install -e '.[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = {} if known is None else known
    samplers: dict[str, Callable[[int], Any]] = {
        "tpe": lambda n: optuna.samplers.TPESampler(seed=n, multivariate=True),
        "random": lambda n: optuna.samplers.RandomSampler(seed=n),
    }
    storage = None
    if name is not None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = str((FOLDER / f"{name}.log").resolve())
        # a lock that a killed process left is broken after five seconds
        storage = optuna.storages.JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path, grace_period=5)))
    study = optuna.create_study(storage=storage, study_name=f"{name}-{family}-{rate:g}-{sampler}-{seed}", load_if_exists=True)
    for killed in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(killed.number, state=TrialState.FAIL)
    while (done := len(study.get_trials(states=(TrialState.COMPLETE,)))) < evaluations:
        study.sampler = samplers[sampler](10_000 * seed + done)
        if done < len(first) and not study.get_trials(states=(TrialState.WAITING,)):
            study.enqueue_trial({key: first[done][key] for key in FAMILIES[family]})
        trial = study.ask()
        values: Values = {}
        for key in FAMILIES[family]:
            if key in RANGES:
                values[key] = trial.suggest_int(key, *RANGES[key], log=key == "width")
            else:
                names = BUILT if key == "code" else ["none", "head", *bench.fuses]
                values[key] = str(trial.suggest_categorical(key, names))
        design = design_of(family, values)
        free = "voltage" in values
        at = VOLTAGES[int(values["voltage"])] if free else rate
        price = bench.price(design, at)
        if (design, at) not in known:
            known[design, at] = bench.validated(design, at)
        clean = bench.clean(design)
        trial.set_constraint("accuracy", limits.accuracy - known[design, at])
        trial.set_constraint("clean", limits.clean - clean)
        trial.set_constraint("time", price.time - limits.time)
        trial.set_user_attr("accuracy", known[design, at])
        study.tell(trial, price.energy if free else price.area)
    return [
        Found(dict(one.params), one.value, one.user_attrs["accuracy"], all(v <= 0 for v in one.constraints.values()))
        for one in study.get_trials(states=(TrialState.COMPLETE,))[:evaluations]
        if one.value is not None
    ]


def best(tried: Sequence[Found]) -> Found | None:
    """The cheapest of those that are feasible, the more accurate one of two; ``None`` if none is."""
    return min((found for found in tried if found.feasible), key=lambda found: (found.cost, -found.accuracy), default=None)


def limits_of(bench: Bench, rate: float) -> Limits:
    """As accurate as full TMR at that rate, and as the target without errors, but for `TOLERANCE`."""
    return Limits(bench.validated(FULL, rate) - TOLERANCE, bench.clean(Design()) - TOLERANCE)


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("cross_layer_search", _compute, _table, arguments)


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    from experiments.cross_layer import DIGITS

    torch.set_num_threads(1)
    known: dict[tuple[Design, float], float] = {}
    bench = replace(DIGITS, validation_images=150, validation_chips=3)
    limits, rows = limits_of(bench, RATE), []
    for seed in SEEDS:
        areas = {}
        for sampler in SAMPLERS:
            tried = search(None, "cross-layer", bench, RATE, limits, EVALUATIONS, sampler, seed, [EVERYTHING], known)
            found = best(tried)
            areas[sampler] = found and found.cost
            rows.append({"data": "digits", "rate": RATE, "sampler": sampler, "seed": seed, "evaluations": EVALUATIONS,
                         "feasible": sum(found.feasible for found in tried), "area": areas[sampler]})  # fmt: skip
    return {
        "limits": vars(limits),
        "space": RANGES,
        "codes": BUILT,
        "clips": CLIPS,
        "arithmetic": ARITHMETIC,
        "evaluations": EVALUATIONS,
    }, rows


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("sampler", "area, mean", "smallest", "largest", "none found", "better than random", "feasible designs")
    random = {row["seed"]: row["area"] for row in rows if row["sampler"] == "random"}
    for sampler in SAMPLERS:
        mine = [row for row in rows if row["sampler"] == sampler]
        areas = [row["area"] for row in mine if row["area"] is not None]
        table.add_row(
            sampler, f"{mean(areas):.3f}", f"{min(areas):.3f}", f"{max(areas):.3f}", str(len(mine) - len(areas)),
            f"{sum((row['area'] or inf) < (random[row['seed']] or inf) for row in mine)} of {len(mine)}",
            f"{mean(row['feasible'] for row in mine):.1f} of {EVALUATIONS}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    from experiments.cross_layer_search import main

    sys.exit(main(sys.argv[1:]))
