"""NeuralFuse's study (Sun et al., NeurIPS 2024) by this project's code, and what strict access reaches in its place.

``study``: `relaxed`, a fuse trained through the target for the population of chips; `restricted`, one trained through another
target, or two, and transferred; `strict`, one trained from queries to the target, for the population or for one chip; `rates`,
trained at one rate and used at others; `precision`, used with fewer bits a weight; `alternatives`: no fuse at a higher voltage, a
smaller target, and a classifier of a fuse's size trained on the owned images, used instead.

All errors are those of NeuralFuse's code (``--memory.errors neuralfuse-map``: half of the marked cells change their bit); chips
are the paper's 50000, 50001, ... ``paper_fused_mean`` is the paper's accuracy for CIFAR-10 with ``paper_target`` at
``paper_rate``; without a fuse it is the paper's without one. Accuracies are fractions.

Tiers of the same study. `cpu`: digits of 8x8 pixels and two small targets, for two cores; with a five-hundredth of the weights,
they lose at four to five times these rates what the paper's lose. `cifar10`: CIFAR-10 (JPEG) at the paper's rates, one of its
networks (VGG11) and a small residual one, two hours of two cores, few runs of each kind. `gpu`: CIFAR-10 (JPEG) and the paper's
networks, on one large GPU. Settings were chosen on validation images and chips.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from backends.targets import checkpoint
from bbfuse.compare.command import tier_result
from bbfuse.compare.display.tables import grouped, percent
from bbfuse.compare.executor import run_all
from bbfuse.compare.tasks import settings_of
from experiments.paper.figures import draw
from experiments.paper.rows import rows
from experiments.paper.tiers import TIERS, fit_targets, tasks
from experiments.study import tiered

__all__ = ["main"]


def compute(name: str) -> tuple[Any, list[dict[str, Any]]]:
    """The config and rows of tier ``name``; missing runs are executed."""
    tier = TIERS[name]
    fit_targets(tier)
    trained = tasks(tier)
    summaries, folders = run_all(tier.root, trained)
    found = rows(tier, list(zip(trained, summaries, folders, strict=True)))
    draw(found, tier_result("paper", name))
    held = {target: checkpoint.read(Path(tier.file_of(target))).validation_accuracy for target in (*tier.targets, tier.smaller)}
    return {"tier": name, "recipe": asdict(tier.recipe), "validation": held, **settings_of(trained)}, found


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return tiered("paper", compute, _table, arguments, tuple(TIERS))


def _table(found: list[dict[str, Any]]) -> Group:
    """A table for each study and target; a column in which nothing differs is left out."""
    parts = []
    for (study, target), mine in grouped(found, "study", "target").items():
        cells = [_cells(row) for row in mine]
        shown = [name for name in cells[0] if len({row[name] for row in cells}) > 1 or name in ("bare", "fused")]
        table = Table(*shown, title=f"{study}: {target}")
        for row in cells:
            table.add_row(*(row[name] for name in shown))
        parts.append(table)
    return Group(*parts, "percent of held-out images, mean ± sd over chips; energy saved of weight reads")


def _cells(row: dict[str, Any]) -> dict[str, str]:
    fuse = (row["generator"] or "") + (f" from {row['source']}" if row["source"] not in (None, row["target"]) else "")
    owned = "" if row["owned"] is None else f", {row['owned']} owned"
    return {
        "fuse": fuse, "by": row["method"] + owned, "rate": f"{100 * row['rate']:g} %", "bits": str(row["bits"]),
        "sent": f"{row['images']:,}", "bare": _percent(row["perturbed_mean"], row["perturbed_sd"]),
        "fused": _percent(row["fused_mean"], row["fused_sd"]), "paper": _percent(row["paper_fused_mean"]),
        "saved": "" if row["saving"] is None else percent(row["saving"], 0, " %"),
    }  # fmt: skip


def _percent(mean: float | None, sd: float | None = None) -> str:
    return "" if mean is None else percent(mean) + ("" if sd is None else f" ± {percent(sd)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
