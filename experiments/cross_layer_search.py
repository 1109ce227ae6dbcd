"""The search for designs: Bayesian optimization by Optuna's samplers against random search with as many evaluations.

Area is minimized subject to accuracy at a bit error rate, accuracy without errors, and time. A named search is stored in a
journal under ``runs/cross_layer`` and resumes where it was interrupted. ``sampler``: `tpe` (tree-structured Parzen estimators of
all parameters together, which the studies use) or `random`. One row for each seed: the smallest area among the designs that were
feasible on validation images and chips, ``null`` if none was. Both start from full TMR. Digits, 5 % bit errors, the space of
`cross-layer`, 150 images and three chips.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from typing import Any

from rich.table import Table

from backends.base import InputError
from bbfuse.compare.display.tables import average, rows_where, table
from bbfuse.compare.tasks import Row
from experiments.cross_layer_designs import ARITHMETIC, CLIPS, DIGITS, FOLDER, FULL, Design, DesignBench
from experiments.cross_layer_space import BUILT, EVERYTHING, FAMILIES, RANGES, VOLTAGES, Values, design_of
from experiments.study import Measurement

__all__ = ["RESULT", "Requirements", "Trial", "best", "requirements_of", "search"]

SAMPLERS = ("tpe", "random")
SEEDS = range(10)
EVALUATIONS = 80
RATE = 0.05
TIME = 1.25
"""Most cycles an image, relative to no protection."""
TOLERANCE = 0.01
"""Most loss of accuracy on validation: against full TMR at the same rate, and against the target without errors."""


@dataclass(frozen=True)
class Requirements:
    """What a feasible design meets."""

    accuracy: float
    clean: float
    time: float = TIME


@dataclass(frozen=True)
class Trial:
    """A design that was evaluated on validation data."""

    values: Values
    cost: float
    """what is minimized: area or energy"""
    accuracy: float
    feasible: bool


def search(
    name: str | None, family: str, bench: DesignBench, rate: float, required: Requirements, evaluations: int,
    sampler: str = "tpe", seed: int = 0, first: Sequence[Values] = (), known: dict[tuple[Design, float], float] | None = None,
) -> list[Trial]:  # fmt: skip
    """The trials of a search over ``family``, the ``first`` designs among them.

    A search without a name is not stored. ``known`` holds accuracies that are not measured again. Each trial has a sampler with
    its own seed, so that an interrupted search continues as if it had not been interrupted.

    Raises:
        InputError: Optuna is not installed.
    """
    study, samplers = _opened(name, f"{name}-{family}-{rate:g}-{sampler}-{seed}")
    known = {} if known is None else known
    while (done := len(study.get_trials(states=_states("COMPLETE")))) < evaluations:
        study.sampler = samplers[sampler](10_000 * seed + done)
        if done < len(first) and not study.get_trials(states=_states("WAITING")):
            study.enqueue_trial({key: first[done][key] for key in FAMILIES[family]})
        trial = study.ask()
        values = {key: _suggested(trial, key, bench) for key in FAMILIES[family]}
        design, free = design_of(family, values), "voltage" in values
        at = VOLTAGES[int(values["voltage"])] if free else rate
        price = bench.price(design, at)
        if (design, at) not in known:
            known[design, at] = bench.validated(design, at)
        trial.set_constraint("accuracy", required.accuracy - known[design, at])
        trial.set_constraint("clean", required.clean - bench.clean(design))
        trial.set_constraint("time", price.time - required.time)
        trial.set_user_attr("accuracy", known[design, at])
        study.tell(trial, price.energy if free else price.area)
    return [
        Trial(dict(one.params), one.value, one.user_attrs["accuracy"], all(v <= 0 for v in one.constraints.values()))
        for one in study.get_trials(states=_states("COMPLETE"))[:evaluations]
        if one.value is not None
    ]


def _opened(name: str | None, title: str) -> tuple[Any, dict[str, Callable[[int], Any]]]:
    """Optuna's study called ``title``, in the journal of ``name`` if it has one, and its samplers by name, from seeds."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        raise InputError(
            "the search needs the library optuna, which is not installed: python -m pip install -e '.[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    if name is not None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = str((FOLDER / f"{name}.log").resolve())
        # the lock of a killed process is broken after five seconds
        storage = optuna.storages.JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path, grace_period=5)))
    study = optuna.create_study(storage=storage, study_name=title, load_if_exists=True)
    for killed in study.get_trials(states=_states("RUNNING")):
        study.tell(killed.number, state=_states("FAIL")[0])
    return study, {
        "tpe": lambda n: optuna.samplers.TPESampler(seed=n, multivariate=True),
        "random": lambda n: optuna.samplers.RandomSampler(seed=n),
    }


def _states(name: str) -> tuple[Any, ...]:
    from optuna.trial import TrialState

    return (TrialState[name],)


def _suggested(trial: Any, key: str, bench: DesignBench) -> int | str:
    if key in RANGES:
        return int(trial.suggest_int(key, *RANGES[key], log=key == "width"))
    return str(trial.suggest_categorical(key, BUILT if key == "code" else ["none", "head", *bench.fuses]))


def best(trials: Sequence[Trial]) -> Trial | None:
    """The cheapest feasible trial, of two the more accurate one; ``None`` if none is feasible."""
    return min((trial for trial in trials if trial.feasible), key=lambda trial: (trial.cost, -trial.accuracy), default=None)


def requirements_of(bench: DesignBench, rate: float) -> Requirements:
    """As accurate as full TMR at that rate, and as the target without errors, within `TOLERANCE`."""
    return Requirements(bench.validated(FULL, rate) - TOLERANCE, bench.clean(Design()) - TOLERANCE)


@cache
def _setting() -> tuple[DesignBench, Requirements]:
    bench = replace(DIGITS, validation_images=150, validation_chips=3)
    return bench, requirements_of(bench, RATE)


def _rows() -> list[Row]:
    known: dict[tuple[Design, float], float] = {}
    (bench, required), rows = _setting(), []
    for seed in SEEDS:
        for sampler in SAMPLERS:
            trials = search(None, "cross-layer", bench, RATE, required, EVALUATIONS, sampler, seed, [EVERYTHING], known)
            found = best(trials)
            rows.append({"data": "digits", "rate": RATE, "sampler": sampler, "seed": seed, "evaluations": EVALUATIONS,
                         "feasible": sum(trial.feasible for trial in trials), "area": found and found.cost})  # fmt: skip
    return rows


def _settings() -> dict[str, Any]:
    return {
        "limits": vars(_setting()[1]), "space": RANGES, "codes": BUILT, "clips": CLIPS, "arithmetic": ARITHMETIC,
        "evaluations": EVALUATIONS,
    }  # fmt: skip


def _table(rows: list[Row]) -> Table:
    random = {row["seed"]: row["area"] or inf for row in rows_where(rows, sampler="random")}

    def areas(group: list[Row]) -> list[float]:
        return [row["area"] for row in group if row["area"] is not None]

    return table(rows, ["sampler"], {
        "mean area": average("area", ".3f"),
        "smallest": lambda group: f"{min(areas(group)):.3f}",
        "largest": lambda group: f"{max(areas(group)):.3f}",
        "none feasible": lambda group: str(len(group) - len(areas(group))),
        "better than random": lambda group: f"{sum((row['area'] or inf) < random[row['seed']] for row in group)} of {len(group)}",
        "feasible designs": lambda group: f"{average('feasible')(group)} of {EVALUATIONS}",
    })  # fmt: skip


RESULT = Measurement("cross_layer_search", _settings, _rows, _table)

if __name__ == "__main__":
    from experiments.cross_layer_search import RESULT

    sys.exit(RESULT.main(sys.argv[1:]))
