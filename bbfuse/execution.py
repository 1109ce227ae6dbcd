"""Execute a run, or plan one: from a configuration to a run folder with a summary, a report and a trained fuse."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from backends.base import Backend, InputError, TargetError
from backends.datasets.base import Dataset
from backends.datasets.loading import load
from backends.kinds.base import BACKENDS
from backends.registry import shown
from bbfuse.callbacks.base import Callback, Callbacks
from bbfuse.config import RunConfig, to_dict, validate
from bbfuse.config.sections import RayConfig
from bbfuse.costs import bytes_on_the_wire, energy, price
from bbfuse.objective.step import Scorer
from bbfuse.opening import described, open_backend, owned_data, with_server
from bbfuse.progress import ProgressDisplay
from bbfuse.querying.budget import BudgetSpentError
from bbfuse.querying.cache import ResponseCache
from bbfuse.querying.journal import Journal
from bbfuse.querying.ledger import Ledger
from bbfuse.runs.folder import RunFolder
from bbfuse.runs.log_files import read_log
from bbfuse.runs.report import write_report
from bbfuse.runs.versions import changed, versions
from bbfuse.training.planning import Queries
from bbfuse.training.trainer import Trainer

__all__ = ["SCHEMA", "Outcome", "execute", "forecast", "outcome"]

SCHEMA = 1
"""Version of the keys of ``summary.json``."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A run that has ended: its folder and its summary."""

    folder: Path
    summary: dict[str, Any]


def execute(
    config: RunConfig, callbacks: Sequence[Callback] = (), display: ProgressDisplay | None = None
) -> dict[str, Any]:  # fmt: skip
    """The summary of the run that `outcome` executes.

    Raises:
        InputError, TargetError: as `outcome`.
    """
    return outcome(config, callbacks, display).summary


def outcome(
    config: RunConfig, callbacks: Sequence[Callback] = (), display: ProgressDisplay | None = None, bench: Backend | None = None
) -> Outcome:
    """Execute the run that ``config`` describes, or continue the one in ``config.resume``.

    ``display`` shows the progress, on standard error if not given. ``bench`` is the backend of a session, which stops a run by an
    error of its own; a checkpoint is written after every step then.

    Raises:
        InputError: the run was refused before its first query.
        TargetError: the target failed; the run folder can be resumed.
    """
    display, callback = display or ProgressDisplay(), Callbacks(callbacks)
    folder, config = _folder(config)
    with contextlib.closing(folder):
        summary = folder.summary()
        if summary is None:
            _note_versions(folder, display)
            summary = _train(config, folder, display, callback, bench)
    display.say(f"run folder: {folder.path}")
    return Outcome(folder.path, summary)


def forecast(config: RunConfig) -> dict[str, Any]:
    """What the run that ``config`` describes would send and cost. No query is sent, nothing is written.

    ``purposes`` are exact without retries, an upper bound if ``exact`` is false; ``kept_back`` images of the budget are reserved
    for retries. ``bytes`` are approximate, ``None`` without a network.

    Raises:
        InputError: the run would be refused.
    """
    if config.resume is not None:
        raise InputError("`plan` is for a new run: drop `resume`, or give the settings of that run")
    validate(config)
    torch.set_num_threads(config.threads)
    data, backend = owned_data(config), described(config)
    trainer = Trainer(config, backend.info, data, Ledger(_Described(backend.info), limit=0), folder=None)
    purposes = trainer.plan.sent(trainer.objective)
    total = sum(purposes.values(), Queries())
    return {
        "schema": SCHEMA,
        "config": to_dict(config),
        "steps": trainer.plan.steps,
        "exact": trainer.plan.exact,
        "purposes": {name: dataclasses.asdict(sent) for name, sent in purposes.items()},
        "kept_back": config.budget - total.images,
        "queries": {**dataclasses.asdict(total), "budget": config.budget, "cost": price(config, total.requests), "kept": 0},
        "bytes": bytes_on_the_wire(backend.dialect, trainer.data.train.images, total) if backend.dialect else None,
    }


@dataclasses.dataclass(frozen=True)
class _Described:
    """A backend for planning, which accepts no query."""

    info: Any

    def query(self, *_: Any) -> Any:
        raise TargetError(f"{self.info.name} is used for planning only")

    def close(self) -> None: ...


def _folder(config: RunConfig) -> tuple[RunFolder, RunConfig]:
    """The run folder, new or of the run to continue, and the settings in use."""
    if config.resume is None:
        validate(config)
        return RunFolder.create(config.out or _new_path(config), config), config
    if dataclasses.replace(config, resume=None, trust=False, json=False, workers=0, ray=RayConfig()) != type(config)():
        raise InputError("`resume` takes all settings from the run folder: give no others than `trust`, `json`, `workers`, `ray`")
    folder, written = RunFolder.open(config.resume, config.trust)
    kept = ("resume", "trust", "json", "workers", "ray")
    config = dataclasses.replace(written, **{name: getattr(config, name) for name in kept})
    validate(config)
    return folder, config


def _note_versions(folder: RunFolder, display: ProgressDisplay) -> None:
    """Record the library versions, and report if a resumed run has others than it began with."""
    earlier, now = folder.versions(), versions()
    if earlier and (difference := changed(earlier[-1], now)):
        display.say(
            f"library versions differ from the start of this run: {difference}; its results may differ from an uninterrupted run"
        )
    if not earlier or earlier[-1] != now:
        folder.write_versions([*earlier, now])


def _train(
    config: RunConfig, folder: RunFolder, display: ProgressDisplay, callback: Callback, bench: Backend | None
) -> dict[str, Any]:  # fmt: skip
    began = time.monotonic()
    torch.set_num_threads(config.threads)
    with contextlib.ExitStack() as stack:
        try:
            trainer = _prepared(config, folder, display, stack, bench)
        except InputError:
            if config.resume is None:
                folder.discard()
            raise
        try:
            with display:
                seconds = 10.0 if bench is None else 0.0
                accuracy = trainer.run(display.update, checkpoint_seconds=seconds, say=display.say, callback=callback)
        except BudgetSpentError as error:
            raise TargetError(
                f"retries used up the budget before the closing report: {error}; {_how_to_resume(folder)}"
            ) from error
        except TargetError as error:
            raise TargetError(f"{error}; {_how_to_resume(folder)}") from error
        summary = _summary(config, folder, trainer, accuracy, time.monotonic() - began)
        images = trainer.data.test.images
        folder.write_fuse(trainer.trained())
        folder.write_training()
        write_report(folder.path, summary, images.cpu(), trainer.fused(images).cpu())
        folder.write_summary(summary)
        callback.on_end(summary)
    return summary


def _prepared(
    config: RunConfig, folder: RunFolder, display: ProgressDisplay, stack: contextlib.ExitStack, bench: Backend | None
) -> Trainer:  # fmt: skip
    """The trainer of a run with everything opened; ``stack`` closes it."""
    data = owned_data(config)  # a data set that cannot be used is refused before a server is started or queried
    at = with_server(config, display.say, stack)
    backend = bench or open_backend(at, display.say, stack)
    ledger = _ledger(config, backend, folder.path, stack)
    trainer = Trainer(config, backend.info, data, ledger, folder, _scorer(at, ledger, data, stack))
    if config.remote.store is not None:
        ledger.cache = ResponseCache(Path(config.remote.store), f"{config.remote.url} {backend.info.name}")
        stack.callback(ledger.cache.close)
    if config.responses is not None:
        ledger.cache = read_log(config, load(config.data), data, backend.info, folder.path)
    if config.init is not None:
        display.say(f"starting from the fuse {'and the head ' if trainer.heads.warm_started else ''}of {config.init}")
    if (note := trainer.smaller_report()) is not None:
        display.say(note)
    return trainer


def _summary(
    config: RunConfig, folder: RunFolder, trainer: Trainer, accuracy: dict[str, Any], seconds: float
) -> dict[str, Any]:  # fmt: skip
    ledger, recorded = trainer.ledger, folder.versions()
    with_fuse = accuracy.get("kept", accuracy["perturbed_fused"])
    return {
        "schema": SCHEMA,
        "config": to_dict(config),
        "accuracy": accuracy,
        "recovered_points": 100 * (with_fuse["mean"] - accuracy["perturbed"]["mean"]),
        "lost_points": None if config.no_chip else 100 * (accuracy["clean"] - accuracy["perturbed"]["mean"]),
        "queries": {
            "images": ledger.images,
            "requests": ledger.requests,
            "budget": config.budget,
            "cost": price(config, ledger.requests),
            "kept": ledger.kept,
        },
        "answers": ledger.kind,
        "target": trainer.drift.summary(ledger.kind),
        "trust": trainer.stages.optimizer.trust,
        "grown_at_step": trainer.stages.grown_at_step,
        "report": {"images": len(trainer.data.test), "chips": trainer.report.chips},
        "energy": energy(config, trainer.fuse, trainer.data.image_shape, trainer.data.form),
        "seconds": seconds,
        "stopped": "budget",
        **({} if trainer.kept_parts is None else {"kept_parts": trainer.kept_parts}),
        "versions": recorded[-1],
        "earlier_versions": recorded[:-1],
    }


def _ledger(config: RunConfig, backend: Backend, folder: Path, stack: contextlib.ExitStack) -> Ledger:
    """Responses over a network are paid: they are recorded in a journal, and several requests are in flight at once."""
    if not BACKENDS[config.backend].over_network:
        return Ledger(backend, config.budget)
    journal = Journal(folder / "answers.jsonl")
    stack.callback(journal.close)
    return Ledger(backend, config.budget, journal, in_flight=config.remote.in_flight)


def _scorer(config: RunConfig, ledger: Ledger, data: Dataset, stack: contextlib.ExitStack) -> Scorer | None:
    """The workers, if there are any; otherwise Ray is not imported."""
    if not config.workers:
        return None
    from bbfuse.distributed.cluster import Cluster

    cluster = Cluster(config, ledger, data.train.images)
    stack.callback(cluster.close)
    return cluster


def _how_to_resume(folder: RunFolder) -> str:
    return f"the training so far is saved, continue with `resume={folder.path}`"


def _new_path(config: RunConfig) -> Path:
    chip = "healthy" if config.no_chip else "population" if config.chip is None else f"chip{config.chip_seed}"
    names = (config.data, config.backend, config.optimizer)
    parts = [shown(name).replace("/", "-").replace(":", "-") for name in names]
    name = "-".join([time.strftime("%Y%m%d-%H%M%S"), *parts, chip])
    paths = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
