"""Execute tasks as trials of Ray Tune, with one of their recorded values as the metric."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from backends.base import InputError
from bbfuse.compare.executor import connected, run_all, run_task, summaries_of
from bbfuse.compare.tasks import Outcome, Row, Task

__all__ = ["run_trials"]


def run_trials(
    root: Path, tasks: Sequence[Task], ray_address: str | None, record: Callable[[dict[str, Any], Path], Row],
    metric: str = "accuracy",
) -> tuple[list[dict[str, Any]], list[Path]]:  # fmt: skip
    """As `run_all`; with ``ray_address`` every task is a trial of Ray Tune there, whose own files lie in ``root/tune``.

    ``record`` gives the values that a trial reports, from its summary and run folder; ``metric`` is the one to maximize.

    Raises:
        InputError: the Ray at ``ray_address`` cannot be reached, or Ray Tune is not installed here.
        TargetError: at least one run failed; all others are done and kept.
    """
    if ray_address is None:
        return run_all(root, tasks)
    try:
        from ray import tune
    except ImportError as error:
        raise InputError("`ray_address` needs Ray Tune here: python -m pip install -e '.[tune]'") from error
    root = root.resolve()  # a trial has a working directory of its own
    folders = [task.folder(root) for task in tasks]

    def trial(config: dict[str, Any]) -> dict[str, Any]:
        task, folder = tasks[config["place"]], folders[config["place"]]
        return {**task.labels, **record(run_task(task, folder), folder)}

    with connected(ray_address), redirect_stdout(sys.stderr):  # Tune writes its progress to standard output
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": max(task.config.threads for task in tasks)}),
            param_space={"place": tune.grid_search(list(range(len(tasks))))},
            tune_config=tune.TuneConfig(metric=metric, mode="max"),
            run_config=tune.RunConfig(name="tune", storage_path=str(root), verbose=0),
        )
        results = tuner.fit()
    found = []
    for place, folder in enumerate(folders):
        if (failure := results[place].error) is None:
            found.append(Outcome(json.loads((folder / "summary.json").read_text())))
        else:
            found.append(Outcome(None, str(failure).strip().splitlines()[-1]))
    return summaries_of(tasks, found), folders
