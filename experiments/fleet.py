"""A fleet of 20 chips, each calibrated with at most 5,000 images from a fuse that was trained once, for the population.

Digits, 5 % bit errors, all by `follow`. The fuse for the population is trained with 20,000 images, all at nominal voltage, and
simulated chips. Then it is placed before chips 35,000 to 35,019, whose seeds are in no range that is trained, validated or
reported on (`bbfuse.seeds`). ``arm``:

* ``population``: that fuse unchanged; nothing is sent to the chip;
* ``head alone``: an affine head fitted to the chip's responses to all 1,150 owned images, no fuse;
* ``fresh``: a fuse trained for the chip from scratch;
* ``from population``: the same with ``--init``, from the fuse for the population.

``images`` are those sent to calibrate one chip: for the head and for training, which gets what the head leaves of the 5,000;
nothing is validated. The closing report, 1,440 images a chip, is not counted, nor are the 20,000 of the population.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.table import Table

from backends.base import Chip
from backends.datasets.loading import load
from backends.memory.simulator import Simulator
from backends.targets.fit import fitted
from bbfuse.compare.display.plots import BLUE, GREY, panels
from bbfuse.compare.display.shares import share
from bbfuse.compare.display.tables import grouped, least, rows_where, spread, table
from bbfuse.compare.executor import run_all
from bbfuse.compare.tasks import Task, grid
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ValidationConfig
from bbfuse.fuse.module import Fuse
from bbfuse.training.evaluation import accuracy, report_images
from experiments.study import RESULTS, Study

__all__ = ["CHIPS", "IMAGES", "STUDY"]

CHIPS = range(35_000, 35_020)
IMAGES = 5_000
SHARED = 20_000
"""Images sent for the fuse that is trained once."""
HEADS = ("none", "affine")
ARMS = ("fresh", "from population")
ROOT = Path("runs") / "fleet"


def _config(images: int, reported: int, **settings: Any) -> RunConfig:
    """A run that sends at most ``images`` before it reports on ``reported`` chips."""
    return RunConfig(optimizer="follow", budget=images + _report(reported), validation=ValidationConfig(times=0), **settings)


def _report(chips: int) -> int:
    return report_images(len(load("digits").test), chips)


def _population() -> Task:
    return Task({"arm": "population"}, _config(SHARED, RunConfig().report.chips, head="none"))


def _tasks() -> list[Task]:
    start = _population().folder(ROOT)

    def config(arm: str, head: str, chip: int) -> RunConfig:
        return _config(IMAGES, 1, head=head, chip_seed=chip, init=start if arm == "from population" else None)

    runs = [
        Task({"chip": task.labels["chip"], **task.labels}, task.config) for task in grid(config, arm=ARMS, head=HEADS, chip=CHIPS)
    ]
    return [_population(), *runs]


def _train_population() -> None:
    run_all(ROOT, [_population()])


def _record(summary: dict[str, Any], folder: object) -> dict[str, Any]:
    found = summary["accuracy"]
    return {
        "images": summary["queries"]["images"] - _report(found["perturbed"]["chips"]), "clean": found["clean"],
        "perturbed": found["perturbed"]["mean"], "head_alone": found["perturbed_head"]["mean"],
        "recovered": summary["recovered_points"], "lost": summary["lost_points"],
    }  # fmt: skip


def _rows(records: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
    runs = records[1:]
    rows = [_row(run, "population", "none", 0, found) for run, found in zip(runs, _as_it_is(folders[0]), strict=False)]
    heads = rows_where(runs, arm="fresh", head="affine")
    rows += [_row(run, "head alone", "affine", len(load("digits").train), run["head_alone"]) for run in heads]
    rows += [_row(run, run["arm"], run["head"], run["images"], run["perturbed"] + run["recovered"] / 100) for run in runs]
    _draw(rows)
    return rows


def _as_it_is(folder: Path) -> Iterator[float]:
    """Held-out accuracy of the fuse in ``folder`` on each chip."""
    torch.set_num_threads(1)
    data = load("digits")
    simulator = Simulator(fitted("digits", data))
    with torch.no_grad():
        fused = Fuse.load(folder / "fuse.pt")(data.test.images)
    rate = RunConfig().bit_error_rate
    for chip in CHIPS:
        yield accuracy(simulator.logits(fused, Chip(rate, chip)), data.test.labels)


def _row(run: dict[str, Any], arm: str, head: str, images: int, fused: float) -> dict[str, Any]:
    points = 100 * (fused - run["perturbed"])
    return {
        "chip": run["chip"], "arm": arm, "head": head, "images": images, "clean": run["clean"], "perturbed": run["perturbed"],
        "fused": fused, "recovered": points, "lost": run["lost"], "share": share(points, run["lost"]),
    }  # fmt: skip


COLUMNS = {
    "images": lambda rows: f"{max(row['images'] for row in rows):,}", "accuracy, %": spread("fused"),
    "recovered": spread("recovered", 1), "least": least("recovered", 1), "share, %": spread("share"), "least, %": least("share"),
}  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Table:
    low, clean = (100 * mean(row[key] for row in rows) for key in ("perturbed", "clean"))
    caption = (
        f"mean ± sd, and the least, of {len(CHIPS)} chips: points recovered, and their share of those lost; {low:.1f} % "
        f"unprotected, {clean:.1f} % at nominal voltage. The population took {SHARED:,} images, once"
    )
    return table(rows, ("arm", "head"), COLUMNS, caption=caption, padding=(0, 0))


def _draw(rows: list[dict[str, Any]]) -> None:
    bare = [{**row, "fused": row["perturbed"]} for row in rows[: len(CHIPS)]]
    groups = {("no fuse", "none"): bare, **grouped(rows, "arm", "head")}
    with panels(RESULTS / "fleet.svg", 8.4, 3.2, legend=False) as (axes,):
        for place, mine in enumerate(groups.values()):
            values = [100 * row["fused"] for row in mine]
            axes.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.35, markersize=5)
            axes.plot(mean(values), place, "|", color="#222222", markersize=16, markeredgewidth=2)
        axes.axvline(100 * rows[0]["clean"], linestyle="--", color=GREY, lw=1)
        axes.set_yticks(range(len(groups)), [arm if head == "none" else f"{arm}, {head}" for arm, head in groups])
        axes.invert_yaxis()
        axes.set_xlabel("held-out accuracy of each chip and their mean, %; dashed: nominal voltage")


STUDY = Study("fleet", _tasks, _record, _table, _rows, prepare=_train_population)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
