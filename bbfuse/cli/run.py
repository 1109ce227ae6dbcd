"""Command line: ``python -m bbfuse.run``. Exit code 0, 2 for bad input, 1 for a failed target."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import flags
from backends.base import Backend, InputError, TargetError
from bbfuse.config.schema import RayConfig, RunConfig, to_dict, validate
from bbfuse.runs.versions import changed, versions

if TYPE_CHECKING:
    from backends.datasets.base import Dataset
    from bbfuse.cli.console import Show
    from bbfuse.querying.ledger import Ledger
    from bbfuse.runs.folder import RunFolder
    from bbfuse.training.scoring import Scorer

__all__ = ["SCHEMA", "execute", "forecast", "main", "parse"]

SCHEMA = 1
EMBEDDED_DEFAULT = ["--chip-seed", "0"]


def main(arguments: list[str]) -> int:
    """Do what ``arguments`` ask for; the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        if not arguments:
            arguments = EMBEDDED_DEFAULT
            print(f"no arguments: running python -m bbfuse.run {' '.join(arguments)}", file=sys.stderr)
        config = parse(arguments)
        result = forecast(config) if config.plan else execute(config)
        if config.json:
            print(json.dumps(result, indent=2))
        else:
            from bbfuse.cli.console import closing_table, plan_table

            (plan_table if config.plan else closing_table)(result)
    except InputError as error:
        return flags.refused(error)
    except TargetError as error:
        return flags.refused(error, code=1)
    except KeyboardInterrupt:
        print("interrupted; go on with --resume and the run folder", file=sys.stderr)
        return 130
    return 0


def parse(arguments: list[str]) -> RunConfig:
    """The configuration that ``arguments`` ask for.

    Raises:
        InputError: a flag or value that does not exist, in one line.
        SystemExit: ``--help`` was asked for and has been printed.
    """
    return flags.parse(RunConfig, "python -m bbfuse.run", arguments)


def execute(config: RunConfig) -> dict[str, Any]:
    """Carry out the run that ``config`` describes, or go on with the one in ``config.resume``; the summary, as written.

    Raises:
        InputError: nothing was begun.
        TargetError: the target failed on the way; the run folder can be resumed.
    """
    from bbfuse.cli.console import Show
    from bbfuse.runs.folder import RunFolder

    show = Show()
    if config.resume is not None:
        if dataclasses.replace(config, resume=None, json=False, workers=0, ray=RayConfig()) != RunConfig():
            raise InputError("--resume takes its settings from the run folder: give no others than --json, --workers and --ray")
        folder, as_written = RunFolder.open(config.resume)
        config = dataclasses.replace(
            as_written, resume=config.resume, json=config.json, workers=config.workers, ray=config.ray
        )  # fmt: skip
        validate(config)
    else:
        validate(config)
        folder = RunFolder.create(config.out or _fresh_path(config), config)
    with contextlib.closing(folder):
        summary = folder.summary()
        if summary is None:
            _note_versions(folder, show)
            summary = _train(config, folder, show)
    show.say(f"run folder: {folder.path}")
    return summary


def _note_versions(folder: RunFolder, show: Show) -> None:
    """Say it where a run goes on with other libraries than it was begun with, and record these."""
    earlier, now = folder.versions(), versions()
    if earlier and (difference := changed(earlier[-1], now)):
        show.say(f"other versions than this run was begun with: {difference}; it may end with other numbers than uninterrupted")
    if not earlier or earlier[-1] != now:
        folder.write_versions([*earlier, now])


def forecast(config: RunConfig) -> dict[str, Any]:
    """What the run that ``config`` describes would send and cost. Nothing is sent that costs, nothing written.

    ``purposes`` are exact for a run in which no request has to be sent again, an upper bound if ``exact`` is false; ``kept_back``
    images stay within the budget for those that have to. ``bytes`` are rough, and ``None`` where nothing goes over a wire.

    Raises:
        InputError: the run would be refused.
    """
    if config.resume is not None:
        raise InputError("--plan is for a run that has not begun: drop --resume, or give the settings of that run")
    validate(config)
    import torch

    from bbfuse.build import bytes_on_the_wire, described, owned_data
    from bbfuse.querying.ledger import Ledger
    from bbfuse.training.planning import Queries
    from bbfuse.training.trainer import Trainer

    torch.set_num_threads(config.threads)
    backend = described(config)
    trainer = Trainer(config, backend.info, owned_data(config), Ledger(backend, limit=0), folder=None)
    purposes = trainer.plan.sent(config)
    total = sum(purposes.values(), Queries())
    return {
        "schema": SCHEMA,
        "config": to_dict(config),
        "steps": trainer.plan.steps,
        "exact": trainer.plan.exact,
        "purposes": {name: dataclasses.asdict(sent) for name, sent in purposes.items()},
        "kept_back": config.budget - total.images,
        "queries": {**dataclasses.asdict(total), "budget": config.budget, "cost": _cost(config, total.requests), "kept": 0},
        "bytes": bytes_on_the_wire(backend.dialect, trainer.data.train.images, total) if backend.dialect else None,
    }


def _cost(config: RunConfig, requests: int) -> float | None:
    """What ``requests`` cost, ``None`` if nobody named a price."""
    return None if config.remote.price is None else config.remote.price * requests / 1000


def _train(config: RunConfig, folder: RunFolder, show: Show) -> dict[str, Any]:
    import torch

    from bbfuse.build import energy, open_backend, owned_data, served
    from bbfuse.cli.console import LABELS
    from bbfuse.querying.cache import Store
    from bbfuse.querying.ledger import BudgetSpentError
    from bbfuse.runs.report import write_report
    from bbfuse.training.trainer import Trainer

    began = time.monotonic()
    torch.set_num_threads(config.threads)
    with contextlib.ExitStack() as stack:
        try:
            data = owned_data(config)  # a data set that cannot be used is refused before any server is started or asked
            at = served(config, show.say, stack)
            backend = open_backend(at, show.say, stack)
            ledger = _ledger(config, backend, folder.path, stack)
            trainer = Trainer(config, backend.info, data, ledger, folder, _scorer(at, ledger, data, stack))
            if config.remote.store is not None:
                ledger.store = Store(Path(config.remote.store), f"{config.remote.url} {backend.info.name}")
                stack.callback(ledger.store.close)
            if config.init is not None:
                show.say(f"starting from the fuse {'and the head ' if trainer.heads.taken else ''}of {config.init}")
        except InputError:
            if config.resume is None:
                folder.discard()
            raise
        try:
            with show:
                accuracy = trainer.run(show.watch, say=show.say)
        except BudgetSpentError as error:
            raise TargetError(
                f"retries used up the budget before the closing report: {error}; {_how_to_go_on(folder)}"
            ) from error
        except TargetError as error:
            raise TargetError(f"{error}; {_how_to_go_on(folder)}") from error
        images = trainer.data.test.images
        fused, images = trainer.fused(images).cpu(), images.cpu()
        lost = accuracy["clean"] - accuracy["perturbed"]["mean"]
        summary = {
            "schema": SCHEMA,
            "config": to_dict(config),
            "accuracy": accuracy,
            "recovered_points": 100 * (accuracy["perturbed_fused"]["mean"] - accuracy["perturbed"]["mean"]),
            "lost_points": 100 * lost,
            "queries": {
                "images": ledger.images,
                "requests": ledger.requests,
                "budget": config.budget,
                "cost": _cost(config, ledger.requests),
                "kept": ledger.kept,
            },
            "answers": ledger.kind,
            "target": trainer.watch.found(ledger.kind),
            "trust": trainer.stages.method.trust,
            "grown_at_step": trainer.stages.grown_at_step,
            "energy": energy(config, trainer.fuse, backend.info.image_shape),
            "seconds": time.monotonic() - began,
            "stopped": "budget",
            "versions": folder.versions()[-1],
            "earlier_versions": folder.versions()[:-1],
        }
        folder.write_fuse(trainer.trained())
        write_report(folder.path, summary, LABELS, images, fused)
        folder.write_summary(summary)
    return summary


def _ledger(config: RunConfig, backend: Backend, folder: Path, stack: contextlib.ExitStack) -> Ledger:
    """A remote target is asked several questions at once, and what was paid for kept; a simulator is asked again at no cost."""
    from bbfuse.querying.journal import Journal
    from bbfuse.querying.ledger import Ledger

    if config.backend != "remote":
        return Ledger(backend, config.budget)
    journal = Journal(folder / "answers.jsonl")
    stack.callback(journal.close)
    return Ledger(backend, config.budget, journal, in_flight=config.remote.in_flight)


def _scorer(config: RunConfig, ledger: Ledger, data: Dataset, stack: contextlib.ExitStack) -> Scorer | None:
    """Workers if ``config`` wants some; Ray is not imported otherwise."""
    if not config.workers:
        return None
    from bbfuse.distributed.cluster import Cluster

    cluster = Cluster(config, ledger, data.train.images)
    stack.callback(cluster.close)
    return cluster


def _how_to_go_on(folder: RunFolder) -> str:
    return f"what was learned is kept, go on with --resume {folder.path}"


def _fresh_path(config: RunConfig) -> Path:
    chip = "population" if config.chip_seed is None else f"chip{config.chip_seed}"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.data}-{config.backend}-{config.optimizer}-{chip}"
    paths = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
