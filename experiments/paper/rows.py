"""The committed rows, from the runs, the evaluated cells and the controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from backends.datasets.loading import load
from backends.memory.energy import saving, voltage, weight_reads
from backends.targets.networks import build
from bbfuse.compare.baselines import control, network
from bbfuse.compare.cells import Cell, evaluate
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.module import Fuse
from bbfuse.training.evaluation import Spread
from experiments.paper import published
from experiments.paper.tiers import CARRIED, MEMORY, STANDARDIZED, Tier

__all__ = ["KEYS", "rows"]

Trained = Sequence[tuple[Task, dict[str, Any], Path]]
"""Tasks, their summaries and their folders."""
KEYS = (
    "study", "data", "target", "source", "generator", "method", "head", "rate", "trained_rate", "bits", "owned", "images",
    "chips", "clean", "clean_fused", "perturbed_mean", "perturbed_sd", "fused_mean", "fused_sd", "saving", "paper_target",
    "paper_rate", "paper_fused_mean",
)  # fmt: skip
"""Keys of a row; values that do not apply are ``None``."""


def rows(tier: Tier, records: Trained) -> list[dict[str, Any]]:
    """All committed rows, from the runs: tasks, their summaries and folders."""
    runs = {tuple(task.labels.values()): str(folder) for task, _, folder in records if "chip" not in task.labels}
    sent = {str(folder): tier.images for folder in runs.values()}
    high, low = tier.rates
    wanted: list[dict[str, Any]] = []
    for (_, source, generator, trained), run in runs.items():
        common = {"run": run, "generator": generator, "trained_rate": trained}
        if source in tier.targets:
            wanted.append({"study": "relaxed", "target": source, "rate": trained, **common})
        if trained != high or generator not in CARRIED:
            continue
        for target in tier.targets:
            if target != source:
                wanted += [
                    {"study": "restricted", "source": source, "target": target, "rate": rate, **common} for rate in tier.rates
                ]
                continue
            wanted += [{"study": "rates", "target": target, "rate": rate, **common} for rate in (low, *tier.grid)]
            wanted += [{"study": "precision", "target": target, "rate": low, "bits": bits, **common} for bits in tier.bits]
    for target in tier.targets:
        wanted += [{"study": "precision", "target": target, "rate": low, "bits": bits, "run": None} for bits in tier.bits]
    for target in (*tier.targets, tier.smaller):
        wanted += [{"study": "alternatives", "target": target, "rate": rate, "run": None} for rate in (*tier.rates, *tier.grid)]
    cells = [_cell(tier, row["target"], row["rate"], run, row.get("bits", 8)) for row in wanted for run in (None, row["run"])]
    answers = iter(evaluate(tier.root / "cells", cells))
    found = [_row(tier, row, next(answers), next(answers), sent.get(row["run"], 0)) for row in wanted]
    return [*found, *_of_runs(tier, records), *_of_controls(tier)]


def _cell(tier: Tier, target: str, rate: float, run: str | None, bits: int) -> Cell:
    return Cell(
        tier.data, tier.file_of(target), replace(MEMORY, bits=bits), rate, tier.chips, tier.tested, run, tier.relaxed.device
    )  # fmt: skip


def _row(tier: Tier, wanted: dict[str, Any], bare: dict[str, Any], fused: dict[str, Any], images: int) -> dict[str, Any]:
    """The row of a ``bare`` and a ``fused`` cell; a smaller target has no fuse but is used instead."""
    target, generator, rate = wanted["target"], wanted.get("generator"), wanted["rate"]
    method = "backprop" if generator else "smaller target" if target == tier.smaller else "no fuse"
    paper_target, paper_rate = tier.targets.get(target), tier.rates.get(rate)
    source = "+".join(tier.targets.get(part, "") for part in wanted.get("source", "").split("+"))
    paper = {
        "relaxed": published.RELAXED.get((paper_target, generator, paper_rate)),
        "restricted": published.TRANSFER.get((source, paper_target, generator, paper_rate)),
        "precision": published.PRECISION.get((paper_target, generator, wanted.get("bits"))),
        "alternatives": published.BARE.get((paper_target, paper_rate)),
    }.get(wanted["study"])  # fmt: skip
    with_fuse = {} if generator is None else {
        "source": wanted.get("source", target), "clean_fused": fused["clean"],
        "fused_mean": fused["mean"], "fused_sd": fused["sd"],
    }  # fmt: skip
    return _record(
        tier, target, generator, rate, study=wanted["study"], method=method, trained_rate=wanted.get("trained_rate"),
        bits=wanted.get("bits", 8), images=images, chips=tier.chips, clean=bare["clean"], perturbed_mean=bare["mean"],
        perturbed_sd=bare["sd"], paper_fused_mean=None if paper is None else paper / 100, **with_fuse,
    )  # fmt: skip


def _record(tier: Tier, target: str, generator: str | None, rate: float, **known: Any) -> dict[str, Any]:
    paper = {"paper_target": tier.targets.get(target), "paper_rate": tier.rates.get(rate)}
    common = {"data": tier.label, "target": target, "generator": generator, "rate": rate, "head": "none", "bits": 8, "images": 0}
    return {**dict.fromkeys(KEYS), **common, "saving": _saving(tier, target, generator, rate), **paper, **known}


def _of_runs(tier: Tier, records: Trained) -> Iterator[dict[str, Any]]:
    """Rows from the runs' own reports; single chips are combined, with the head alone beside strict access."""
    groups: dict[tuple[Any, ...], list[tuple[RunConfig, dict[str, Any]]]] = {}
    for task, summary, _ in records:
        if "chip" in task.labels:
            of = task.labels
            key = (of["study"], of["target"], of["method"], of["chip"] is None, of["images"])
            groups.setdefault(key, []).append((task.config, summary["accuracy"]))
    for (study, target, method, population, images), each in groups.items():
        config = each[0][0]
        for part, name in (("perturbed_fused", method), ("perturbed_head", f"head alone, {config.head_name}")):
            if part == "perturbed_head" and (config.head_name == "none" or not method.startswith("follow")):
                continue
            taken = images if part == "perturbed_fused" else min(images, config.affine.images) if not population else STANDARDIZED
            bare, fused = (_spread([accuracy[which] for _, accuracy in each]) for which in ("perturbed", part))
            clean_fused = mean(accuracy["clean_fused"] for _, accuracy in each) if part == "perturbed_fused" else None
            generator = config.generator if part == "perturbed_fused" else None
            yield _record(
                tier, target, generator, config.bit_error_rate, study=study, trained_rate=config.bit_error_rate,
                method=name + (" (population)" if population else " (one chip)"), head=config.head_name, images=taken,
                chips=bare[2], clean=each[0][1]["clean"], clean_fused=clean_fused, perturbed_mean=bare[0], perturbed_sd=bare[1],
                fused_mean=fused[0], fused_sd=fused[1],
            )  # fmt: skip


def _spread(parts: list[dict[str, Any]]) -> tuple[float, float, int]:
    """Mean, sd and number of chips: of one run's report on many, or of many runs' on one each."""
    one, *others = parts
    if not others:
        return one["mean"], one["sd"], one["chips"]
    spread = Spread.of([part["mean"] for part in parts])
    return spread.mean, spread.sd, spread.chips


def _of_controls(tier: Tier) -> Iterator[dict[str, Any]]:
    """Classifiers used instead of each target, at nominal voltage."""
    shape = load(tier.data).image_shape
    for owned in (*tier.few, None):
        clean = control(tier.data, owned, tested=tier.tested)
        for target in tier.targets:
            cost = weight_reads(network(shape, 10), shape) / weight_reads(build(target, shape), shape)
            yield _record(
                tier, target, None, 0.0, study="alternatives", method="classifier of a fuse's size", owned=owned, chips=0,
                clean=clean, perturbed_mean=clean, perturbed_sd=0.0, saving=1.0 - cost,
            )  # fmt: skip


def _saving(tier: Tier, target: str, generator: str | None, rate: float) -> float | None:
    """Share of the energy saved of reading the target's weights at nominal voltage (NeuralFuse, Eq. 6); a smaller target's is
    beside the last one of ``tier.targets``, which is of its kind."""
    volts, shape = voltage(rate), load(tier.data).image_shape
    if volts is None:
        return None
    reads = weight_reads(build(target, shape), shape)
    if target == tier.smaller:
        return 1.0 - volts**2 * reads / weight_reads(build(list(tier.targets)[-1], shape), shape)
    fuse = Fuse(generator, shape, torch.Generator()) if generator else None
    return saving(volts**2, reads, weight_reads(fuse, shape) if fuse else 0.0)
