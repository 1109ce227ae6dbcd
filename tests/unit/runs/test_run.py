"""The arithmetic of the summary and of the plan, and the order in which the command does things, on a run that costs nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, InputError, TargetError
from backends.kinds.remote import RemoteConfig
from bbfuse import execution
from bbfuse.callbacks.base import Status
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import RayConfig, ReportConfig, ValidationConfig
from bbfuse.execution import execute, forecast
from bbfuse.querying.budget import BudgetSpentError
from bbfuse.runs.folder import RunFolder
from bbfuse.training.trainer import Trainer
from tests.helpers.targets import LinearBackend

ACCURACY: dict[str, Any] = {
    "clean": 0.931, "clean_fused": 0.917,
    "perturbed": {"mean": 0.412, "sd": 0.0, "chips": 1}, "perturbed_head": {"mean": 0.583, "sd": 0.0, "chips": 1},
    "perturbed_fuse": {"mean": 0.647, "sd": 0.0, "chips": 1}, "perturbed_fused": {"mean": 0.799, "sd": 0.0, "chips": 1},
}  # fmt: skip
CONFIG = RunConfig(chip_seed=3, head="none", budget=5_300, report=ReportConfig(images=7))


@pytest.fixture
def linear() -> LinearBackend:
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.rand((40, 1, 8, 8), generator=rng), torch.arange(40) % 10
    split = SimpleNamespace(images=images, labels=labels)
    return LinearBackend(SimpleNamespace(train=split))  # type: ignore[arg-type]


@pytest.fixture
def opened(linear: LinearBackend, monkeypatch: pytest.MonkeyPatch) -> LinearBackend:
    """The target of a run whose training is to send 140 and 37 images, in three requests, and to reach `ACCURACY`."""

    def trained(self: Trainer, show: Callable[[Status], None], **_: Any) -> dict[str, Any]:
        self.ledger.limit = self.config.budget
        for images in (140, 37):
            self.ledger.query(self.data.train.images[:images], NOMINAL)
        return ACCURACY

    monkeypatch.setattr("bbfuse.execution.open_backend", lambda *_: linear)

    def reported(folder: Path, summary: dict[str, Any], before: Tensor, after: Tensor) -> None:
        shown = {"accuracy": summary["accuracy"], "before": [*before.shape], "after": [*after.shape]}
        (folder / "report.html").write_text(json.dumps(shown))

    monkeypatch.setattr("bbfuse.execution.write_report", reported)
    monkeypatch.setattr(Trainer, "run", trained)
    return linear


def test_points_and_costs_of_the_summary_are_those_of_the_run(
    opened: LinearBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([1_000.0, 1_083.5])
    monkeypatch.setattr(execution, "time", SimpleNamespace(monotonic=lambda: next(times)))
    folder = tmp_path / "run"
    summary = execute(dataclasses.replace(CONFIG, out=folder))
    assert capsys.readouterr().err == f"run folder: {folder}\n"
    assert summary["accuracy"] == ACCURACY
    assert summary["recovered_points"] == pytest.approx(38.7)
    assert summary["lost_points"] == pytest.approx(51.9)
    assert summary["queries"] == {"images": 177, "requests": 3, "budget": 5_300, "cost": None, "kept": 0}
    assert opened.received == 177
    assert summary["seconds"] == 83.5
    assert (summary["schema"], summary["stopped"], summary["answers"]) == (1, "budget", "logits")
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert {"config.json", "events.jsonl", "fuse.pt", "report.html", "summary.json"} <= {path.name for path in folder.iterdir()}
    shown = json.loads((folder / "report.html").read_text())
    assert shown == {"accuracy": ACCURACY, "before": [7, 1, 8, 8], "after": [7, 1, 8, 8]}


@pytest.mark.parametrize(("price", "cost"), [(None, None), (0.0, 0.0), (3.5, 0.0105)])
def test_a_price_is_for_a_thousand_requests(
    price: float | None, cost: float | None, opened: LinearBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bbfuse.execution.with_server", lambda config, *_: config)
    config = dataclasses.replace(CONFIG, backend="remote", remote=RemoteConfig(price=price), out=tmp_path / "run")
    assert execute(config)["queries"] == {
        "images": 177, "requests": 3, "budget": 5_300, "cost": pytest.approx(cost) if cost else cost, "kept": 0,
    }  # fmt: skip
    assert (tmp_path / "run" / "answers.jsonl").exists()


def test_a_finished_run_is_not_done_again(opened: LinearBackend, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    summary = execute(dataclasses.replace(CONFIG, out=folder))
    assert execute(RunConfig(resume=folder, json=True)) == summary
    assert opened.received == 177


@pytest.mark.parametrize(("latest", "said"), [("1.5", False), ("1.4", True)])
def test_other_versions_than_the_latest_are_recorded_and_said(
    latest: str,
    said: bool,
    opened: LinearBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(execution, "versions", lambda: {"torch": "1.5"})
    monkeypatch.setattr(execution, "changed", lambda before, now: "" if before == now else f"torch {before['torch']}")
    earlier = [{"torch": "1.1"}, {"torch": "1.2"}, {"torch": latest}]
    with contextlib.closing(RunFolder.create(tmp_path / "run", CONFIG)) as folder:
        folder.write_versions(earlier)
    summary = execute(RunConfig(resume=tmp_path / "run"))
    *others, last = earlier if latest == "1.5" else [*earlier, {"torch": "1.5"}]
    assert (summary["earlier_versions"], summary["versions"]) == (others, last)
    first = "library versions differ from the start of this run: torch 1.4; its results may differ from an uninterrupted run\n"
    assert capsys.readouterr().err == (first if said else "") + f"run folder: {tmp_path / 'run'}\n"


@pytest.mark.parametrize("change", [{"budget": 5_300}, {"out": Path("x")}, {"plan": True}, {"seed": 1}])
def test_a_run_that_goes_on_takes_no_other_settings(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^`resume` takes all settings from the run folder"):
        execute(RunConfig(resume=tmp_path, **change))


def test_a_run_that_goes_on_may_have_other_workers(
    opened: LinearBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, optimizer="spsa")
    RunFolder.create(tmp_path / "run", config).close()
    seen: list[RunConfig] = []
    monkeypatch.setattr(execution, "_scorer", lambda config, *_: seen.append(config))
    ray = RayConfig(cpus=0.3)
    execute(RunConfig(resume=tmp_path / "run", json=True, workers=3, ray=ray))
    assert seen == [dataclasses.replace(config, resume=tmp_path / "run", json=True, workers=3, ray=ray)]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BudgetSpentError("3 images too many"), "retries used up the budget before the closing report: 3 images too many; the"),
        (TargetError("no answer"), "no answer; the"),
    ],
)
def test_a_target_that_fails_says_how_to_go_on(
    error: Exception, words: str, opened: LinearBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Trainer, "run", fails)
    folder = tmp_path / "run"
    with pytest.raises(TargetError) as told:
        execute(dataclasses.replace(CONFIG, out=folder))
    assert str(told.value) == f"{words} training so far is saved, continue with `resume={folder}`"
    assert (folder / "config.json").exists()


def test_a_run_that_cannot_begin_leaves_nothing_but_what_was_there(opened: LinearBackend, tmp_path: Path) -> None:
    small = dataclasses.replace(CONFIG, budget=50)
    with pytest.raises(InputError, match="does not allow one step"):
        execute(dataclasses.replace(small, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    RunFolder.create(tmp_path / "begun", small).close()
    with pytest.raises(InputError, match="does not allow one step"):
        execute(RunConfig(resume=tmp_path / "begun"))
    assert (tmp_path / "begun" / "config.json").exists()


def test_the_plan_adds_up() -> None:
    config = RunConfig(
        backend="remote", optimizer="spsa", chip_seed=3, head="none", budget=5_300, batch=23, remote=RemoteConfig(price=3.5),
        report=ReportConfig(images=77), validation=ValidationConfig(images=31, times=3),
    )  # fmt: skip
    plan = forecast(config)
    # report: 77 raw and fused, at nominal voltage and on the chip; validation: thrice; one request of 128 is kept back
    report, validation = 4 * 77, 3 * 31
    steps = (5_300 - report - validation - 128) // (2 * 23)
    assert plan["steps"] == steps
    assert plan["purposes"] == {
        "watch": {"images": 0, "requests": 0}, "warm_up": {"images": 0, "requests": 0},
        "training": {"images": 2 * 23 * steps, "requests": 2 * steps},
        "validation": {"images": validation, "requests": 3}, "report": {"images": report, "requests": 4},
    }  # fmt: skip
    images, requests = 2 * 23 * steps + validation + report, 2 * steps + 3 + 4
    assert plan["queries"] == {
        "images": images, "requests": requests, "budget": 5_300, "cost": pytest.approx(0.0035 * requests), "kept": 0,
    }  # fmt: skip
    assert plan["kept_back"] == 5_300 - images
    assert (plan["schema"], plan["exact"]) == (1, True)
    assert images * 256 < plan["bytes"]["up"] < images * 256 + 1000 * requests  # 8 x 8 pixels of 4 bytes each, and what is around


def test_a_simulator_costs_nothing_and_sends_nothing_over_a_wire() -> None:
    plan = forecast(CONFIG)
    assert plan["bytes"] is None
    assert plan["queries"]["cost"] is None


def test_a_run_that_has_begun_is_not_planned(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^`plan` is for a new run"):
        forecast(RunConfig(resume=tmp_path, plan=True))


@pytest.mark.parametrize(
    ("chip_seed", "there", "name"),
    [
        (None, 0, "20260102-030405-digits-local-rge-population"), (0, 0, "20260102-030405-digits-local-rge-chip0"),
        (7, 1, "20260102-030405-digits-local-rge-chip7-2"), (7, 2, "20260102-030405-digits-local-rge-chip7-3"),
    ],
)  # fmt: skip
def test_a_run_without_a_folder_gets_a_name_that_is_free(
    chip_seed: int | None, there: int, name: str, opened: LinearBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MadeError(Exception):
        pass

    def created(path: Path, config: RunConfig) -> RunFolder:
        raise MadeError(str(path))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execution, "time", SimpleNamespace(strftime=lambda layout: {"%Y%m%d-%H%M%S": "20260102-030405"}[layout]))
    monkeypatch.setattr(RunFolder, "create", created)
    taken = "20260102-030405-digits-local-rge-chip7"
    for number in range(there):
        (tmp_path / "runs" / (taken + (f"-{number + 1}" if number else ""))).mkdir(parents=True)
    with pytest.raises(MadeError) as made:
        execute(RunConfig(chip_seed=chip_seed))
    assert str(made.value) == f"runs/{name}"
