"""What a misleading surrogate costs, and whether the run says that it was not trusted.

Digits, 5 % bit errors, chips 0 to 4 with seeds 0 to 4, no head, 20,000 images sent for training, no validation. `rge` has no
surrogate; `guided` and `follow` begin with one of five:

* ``honest``: fitted to the labels, as they do by themselves;
* ``shuffled``: fitted to the same images with their labels dealt out anew at random;
* ``inverted``: fitted to the labels, and the last layer negated: every slope points the wrong way;
* ``foreign``: fitted to other images, ten random patterns under noise, a class each;
* ``frozen``: as ``shuffled``, and ``--surrogate.updates 0``: it never learns better.

The others go on learning from the target's answers, as by default. ``trust_early`` is the mean trust over the first tenth of the
steps, ``trust_end`` that of the summary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table

from backends.datasets.base import Split
from backends.datasets.loading import load
from backends.files import write_torch
from backends.training.fitting import RECIPE, fit
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig, ValidationConfig
from bbfuse.optimizers.settings import SurrogateConfig
from bbfuse.optimizers.surrogate.network import ARCHITECTURES
from bbfuse.runs.figures import legend_beside, svg, without_frame
from bbfuse.runs.folder import events
from bbfuse.seeds import stream
from bbfuse.training.evaluation import report_images
from experiments.study import RESULTS, Study

__all__ = ["LIMIT", "STUDY", "misleading"]

CHIPS = range(5)
IMAGES = 20_000
LIMIT = 5.0
"""Points that a misleading surrogate may cost on a chip, against none."""
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
"""What each is fitted to, by the seed of the run."""
SURROGATES = ("honest", *MISLEADING, "frozen")


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
    for path, name, seed in ((_weights(name, seed), name, seed) for name in MISLEADING for seed in CHIPS):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_torch(path, misleading(name, seed))


def _tasks() -> list[Task]:
    arms = [("rge", "none"), *((method, name) for method in WITH_SURROGATE for name in SURROGATES)]
    return [Task({"method": method, "surrogate": name, "seed": seed}, _config(method, name, seed))
            for method, name in arms for seed in CHIPS]  # fmt: skip


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
    arms: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        arms.setdefault((row["method"], row["surrogate"]), []).append(row)
    table = Table(
        "method", "surrogate", "won back", "less rge", "worst chip", "less honest", "trust early", "end", padding=(0, 0)
    )
    for (method, name), mine in arms.items():
        found = [row["recovered"] for row in mine]
        cells = [f"{mean(found):.1f} ± {pstdev(found):.1f}"]
        if method in WITH_SURROGATE:
            rge, honest = ([points - row["recovered"] for points, row in zip(found, arms[other], strict=True)]
                           for other in (("rge", "none"), (method, "honest")))  # fmt: skip
            cells += [f"{value:+.1f}" for value in (mean(rge), min(rge), mean(honest))]
            cells += [f"{mean(row[key] for row in mine):.2f}" for key in ("trust_early", "trust_end")]
        table.add_row(method, name, *cells)
    table.caption = (
        f"points won back, mean ± sd of {len(CHIPS)} chips, {IMAGES:,} images sent for training; less those of rge on the same "
        "chips, mean and worst, and of the honest one; trust in [0, 1], early: first tenth of the steps"
    )
    return table


def _drawn(rows: list[dict[str, Any]], folders: list[Path]) -> None:
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for method, axes in zip(WITH_SURROGATE, panels, strict=True):
        for name, colour in zip(SURROGATES, ("#555555", "#c44e52", "#8172b3", "#4c72b0", "#dd8452"), strict=True):
            runs = [
                [(line["images"], line["trust"]) for line in events(folder)]
                for row, folder in zip(rows, folders, strict=True) if (row["method"], row["surrogate"]) == (method, name)
            ]  # fmt: skip
            images, trust = np.array(runs).mean(0)[:: len(runs[0]) // 60].T
            axes.plot(images, trust, color=colour, label=name)
        axes.set_title(method, fontsize=10)
        axes.set_xscale("log")
        axes.set_xlabel("images sent")
        without_frame(axes)
    panels[0].set_ylabel("trust")
    legend_beside(panels[1])
    (RESULTS / "misled.svg").write_text(svg(figure))


STUDY = Study("misled", _tasks, _record, _table, draw=_drawn, prepare=_write_weights)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
