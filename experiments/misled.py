"""The cost of a misleading surrogate, and whether the run reports that it was not trusted.

Digits, 5 % bit errors, chips 0 to 4 with seeds 0 to 4, no head, 20,000 images sent for training, no validation. `rge` has no
surrogate; `guided` and `follow` start with one of five:

* ``honest``: fitted to the labels, the default;
* ``shuffled``: fitted to the same images with randomly permuted labels;
* ``inverted``: fitted to the labels, then the last layer negated: every slope points the wrong way;
* ``foreign``: fitted to other images, ten random patterns under noise, a class each;
* ``frozen``: as ``shuffled``, and ``--surrogate.updates 0``: it is never updated.

The others are updated from the target's responses, as by default. ``trust_early`` is the mean trust over the first tenth of the
steps, ``trust_end`` that of the summary.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from rich.table import Table

from backends.datasets.base import Split
from backends.datasets.loading import load
from backends.training.fitting import fit
from backends.training.recipe import RECIPE
from bbfuse.compare.display.plots import BLUE, GREY, ORANGE, PURPLE, RED, panels
from bbfuse.compare.display.tables import average, grouped, mean_sd
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ValidationConfig
from bbfuse.optimizers.surrogate.network import ARCHITECTURES, SurrogateConfig
from bbfuse.runs.folder import events
from bbfuse.seeds import stream
from bbfuse.training.evaluation import report_images
from experiments.study import RESULTS, Study

__all__ = ["LIMIT", "STUDY", "misleading"]

CHIPS = range(5)
IMAGES = 20_000
LIMIT = 5.0
"""Points that a misleading surrogate may cost on a chip, compared with none."""
WITH_SURROGATE = ("guided", "follow")
_ARCHITECTURE = "plain"


def _labels(seed: int) -> Split:
    return load("digits").train


def _shuffled(seed: int) -> Split:
    train = load("digits").train
    return Split(train.images, train.labels[torch.randperm(len(train), generator=stream(seed, "shuffled"))])


def _foreign(seed: int) -> Split:
    """As many images as are owned; patterns and noise have pixels of sd 0.5."""
    rng, train = stream(seed, "foreign"), load("digits").train
    labels = torch.randint(10, (len(train),), generator=rng)
    patterns, noise = (0.5 * torch.randn(n, *train.images.shape[1:], generator=rng) for n in (10, len(train)))
    return Split((patterns[labels] + noise).clamp(-1.0, 1.0), labels)


MISLEADING: dict[str, Callable[[int], Split]] = {"shuffled": _shuffled, "inverted": _labels, "foreign": _foreign}
"""The data that each is fitted to, by the seed of the run."""
SURROGATES = ("honest", *MISLEADING, "frozen")
COLOURS = (GREY, RED, PURPLE, BLUE, ORANGE)


def misleading(name: str, seed: int) -> dict[str, torch.Tensor]:
    """The state dict of the misleading surrogate ``name`` for the run with ``seed``."""
    network = ARCHITECTURES[_ARCHITECTURE](load("digits").image_shape, 10)
    fit(network, MISLEADING[name](seed), replace(RECIPE, seed=seed))
    if name == "inverted":
        with torch.no_grad():
            for p in network.last.parameters():
                p.neg_()
    state: dict[str, torch.Tensor] = network.state_dict()
    return state


def _weights(name: str, seed: int) -> Path:
    return Path("runs") / "misled" / f"{name}-{seed}.pt"


def _write_weights() -> None:
    for name, seed in product(MISLEADING, CHIPS):
        if not (path := _weights(name, seed)).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(misleading(name, seed), path.with_suffix(".new"))
            os.replace(path.with_suffix(".new"), path)


def _tasks() -> list[Task]:
    arms = [("rge", "none"), *product(WITH_SURROGATE, SURROGATES)]
    return [
        Task({"method": method, "surrogate": name, "seed": seed}, _config(method, name, seed))
        for (method, name), seed in product(arms, CHIPS)
    ]


def _config(method: str, name: str, seed: int) -> RunConfig:
    fitted = "shuffled" if name == "frozen" else name
    weights = str(_weights(fitted, seed)) if fitted in MISLEADING else None
    updates = 0 if name == "frozen" else SurrogateConfig().updates
    return RunConfig(
        optimizer=method, head="none", chip_seed=seed, seed=seed, budget=IMAGES + report_images(len(load("digits").test), 1),
        surrogate=SurrogateConfig(weights=weights, updates=updates), validation=ValidationConfig(times=0),
    )  # fmt: skip


def _record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    trusts = [line["trust"] for line in events(folder) if "trust" in line]
    return {
        "images": summary["queries"]["images"], "lost": summary["lost_points"], "recovered": summary["recovered_points"],
        "trust_early": mean(trusts[: len(trusts) // 10]) if trusts else None, "trust_end": summary["trust"],
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Table:
    caption = (
        f"points recovered, mean ± sd of {len(CHIPS)} chips, {IMAGES:,} images sent for training; less those of rge on the same "
        "chips, mean and worst, and of the honest one; trust in [0, 1], early: first tenth of the steps"
    )
    names = ("method", "surrogate", "recovered", "less rge", "worst chip", "less honest", "trust early", "end")
    table, arms = Table(*names, padding=(0, 0), caption=caption), grouped(rows, "method", "surrogate")
    points = {arm: [row["recovered"] for row in mine] for arm, mine in arms.items()}
    for (method, name), mine in arms.items():
        cells = [mean_sd(points[method, name])]
        if method in WITH_SURROGATE:
            rge, honest = (
                [own - other for own, other in zip(points[method, name], points[arm], strict=True)]
                for arm in (("rge", "none"), (method, "honest"))
            )
            cells += [f"{value:+.1f}" for value in (mean(rge), min(rge), mean(honest))]
            cells += [average(key, ".2f")(mine) for key in ("trust_early", "trust_end")]
        table.add_row(method, name, *cells)
    return table


def _draw(rows: list[dict[str, Any]], folders: list[Path]) -> None:
    with panels(RESULTS / "misled.svg", 8.4, 3.2, 2, sharey=True) as both:
        for method, axes in zip(WITH_SURROGATE, both, strict=True):
            for name, colour in zip(SURROGATES, COLOURS, strict=True):
                arm = (method, name)
                mine = [f for row, f in zip(rows, folders, strict=True) if (row["method"], row["surrogate"]) == arm]
                runs = [[(line["images"], line["trust"]) for line in events(folder)] for folder in mine]
                images, trust = np.array(runs).mean(0)[:: len(runs[0]) // 60].T
                axes.plot(images, trust, color=colour, label=name)
            axes.set(xscale="log", xlabel="images sent")
            axes.set_title(method, fontsize=10)
        both[0].set_ylabel("trust")


STUDY = Study("misled", _tasks, _record, _table, draw=_draw, prepare=_write_weights)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
