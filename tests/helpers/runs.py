"""Whole runs on a closed-form target, one of each kind, and a run's folder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from backends.base import Access
from backends.datasets.base import Dataset
from bbfuse.config.checks import validate
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import HEADS
from bbfuse.heads.standardize import StandardizeConfig
from bbfuse.objective.eopm import EopmConfig
from bbfuse.optimizers.base import OPTIMIZERS
from bbfuse.optimizers.rge import RgeConfig
from bbfuse.optimizers.surrogate.follow import FollowConfig
from bbfuse.optimizers.surrogate.network import SurrogateConfig
from bbfuse.optimizers.surrogate.transfer import TransferConfig
from bbfuse.querying.cache import ResponseCache
from bbfuse.querying.journal import Journal
from bbfuse.querying.ledger import Ledger
from bbfuse.runs.folder import RunFolder
from bbfuse.training.planning import Queries
from bbfuse.training.trainer import Trainer

TRAINED = ("affine", "net")


BASE = RunConfig(
    budget=6_000, chip_seed=3, batch=16, validation=ValidationConfig(images=40, times=3), report=ReportConfig(share=1.0)
)  # fmt: skip
SURROGATE = SurrogateConfig("perceptron", steps=20, rounds=1, updates=1, memory=10)
STRICT = [name for name, method in OPTIMIZERS.items() if method.access == Access.LOGITS]
RUNS: dict[str, RunConfig] = {
    "rge, no head": dataclasses.replace(BASE, head="none", sampling="uniform"),
    **{name: dataclasses.replace(BASE, optimizer=name) for name in STRICT if not OPTIMIZERS[name].uses_surrogate},
    **{name: dataclasses.replace(BASE, batch=64, optimizer=name, surrogate=SURROGATE) for name in ("follow", "guided")},
    "follow, statistics that move": dataclasses.replace(
        BASE, batch=64, optimizer="follow", generator="UNetS", surrogate=SURROGATE
    ),
    "transfer": dataclasses.replace(
        BASE, optimizer="transfer", surrogate=SURROGATE, transfer=TransferConfig(steps=20, images=100)
    ),
    "follow, population": dataclasses.replace(
        BASE,
        chip_seed=None,
        batch=64,
        optimizer="follow",
        surrogate=SURROGATE,
        follow=FollowConfig(every=2),
        report=ReportConfig(share=1.0, chips=3),
        standardize=StandardizeConfig(images=20),
    ),
    "rge, plain": dataclasses.replace(BASE, rge=RgeConfig(broyden=False, directions=2)),
    "rge, parameters": dataclasses.replace(BASE, rge=RgeConfig(space="parameters")),
    "spsa, standardize": dataclasses.replace(BASE, optimizer="spsa", head="standardize"),
    "growing": dataclasses.replace(BASE, grow="Filter"),
    "warm-up and growing, cma": dataclasses.replace(BASE, optimizer="cma", head="none", warm_up=500, grow="Filter"),
    "augmented": dataclasses.replace(BASE, optimizer="spsa", augment=True),
    "net head": dataclasses.replace(BASE, head="net"),
    "clean term": dataclasses.replace(BASE, eopm=EopmConfig(clean_weight=1.0)),
    "labels of the target": dataclasses.replace(BASE, labels="target", images=300),
    "population": dataclasses.replace(
        BASE, chip_seed=None, report=ReportConfig(share=1.0, chips=3), standardize=StandardizeConfig(images=20)
    ),
    "population, all terms, two chips a step": dataclasses.replace(
        BASE,
        chip_seed=None,
        eopm=EopmConfig(chips=2, terms="all"),
        report=ReportConfig(share=1.0, chips=3),
        standardize=StandardizeConfig(images=20),
    ),
}


def run(
    config: RunConfig, folder: Path, backend: Any, data: Dataset, paid: bool = True, seconds: float = 1e9,
    store: Path | None = None, in_flight: int = 1, say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    validate(config)
    records = RunFolder.open(folder)[0] if (folder / "config.json").exists() else RunFolder.create(folder, config)
    journal = Journal(folder / "answers.jsonl") if paid else None
    kept = ResponseCache(store, "endpoint") if store else None
    ledger = Ledger(backend, config.budget, journal, kept, in_flight)
    try:
        trainer = Trainer(config, backend.info, data.owned(config.images), ledger, records)
        accuracy = trainer.run(lambda _: None, checkpoint_seconds=seconds, say=say)
        trainer.save()
    finally:
        records.close()
        for opened in (journal, kept):
            if opened:
                opened.close()
    head = [] if trainer.heads.trained is None else [p.detach().flatten() for p in trainer.heads.trained.parameters()]
    state = torch.cat([*(tensor.flatten().double() for tensor in trainer.fuse.state_dict().values()), *head])
    return {
        "accuracy": accuracy,
        "images": ledger.images,
        "requests": ledger.requests,
        "state": state,
        "lost": ledger.lost,
        "kept": ledger.kept,
        "target": trainer.drift.summary(ledger.kind),
        "planned": sum(trainer.plan.sent(trainer.objective).values(), Queries()),
        "exact": trainer.plan.exact,
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[name] == b[name] for name in ("accuracy", "images", "requests")) and torch.equal(a["state"], b["state"])


def run_folder(path: Path, head: str = "affine", chip_seed: int | None = 3, answers: str = "logits") -> Path:
    """A run's folder with a fuse, and a head, that do something."""
    config = RunConfig(chip_seed=chip_seed, head=head)  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(7)
    fuse = Fuse("MLP", (1, 8, 8), rng)
    learnt = HEADS[head](10, 0.0) if head in TRAINED else None
    with torch.no_grad():
        for parameter in [*fuse.parameters(), *(learnt.parameters() if learnt else ())]:
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    kept = learnt.state_dict() if learnt else {} if head == "none" else None
    heads = {"reference": torch.randn(0 if learnt else 20, 10, generator=rng), "kept": kept, "first": None}
    with contextlib.closing(RunFolder.create(path, config)) as folder:
        folder.write_fuse({
            "generator": fuse.name, "image_shape": list((1, 8, 8)), "fuse": fuse.state_dict(), "heads": heads, "answers": answers,
        })  # fmt: skip
    return path
