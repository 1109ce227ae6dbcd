"""``bbfuse.fit``: the same run as on the command line, with names or objects for everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bbfuse
from backends.base import Access, BackendInfo
from backends.simulated import SimulatedBackend
from bbfuse.callbacks import Callback, Status
from bbfuse.config.sections import ValidationConfig
from bbfuse.fuse.generators.small import mlp
from bbfuse.heads.base import HEADS
from bbfuse.optimizers.spsa import Spsa, SpsaConfig
from tests.helpers.documents.pages import ROOT
from tests.unit.interface.conftest import Arrays

ITS_OWN = ("seconds", "config", "versions")
CHIP = bbfuse.Chip(0.2, 3)


def numbers(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in ITS_OWN}


@pytest.mark.parametrize(
    ("chip", "flags"),
    [
        (bbfuse.Chip(0.03, 2), ["--chip-seed", "2", "--bit-error-rate", "0.03", "--report.images", "50"]),
        (bbfuse.Population(0.05), ["--population", "--report.images", "50", "--report.chips", "2"]),
    ],
)  # fmt: skip
def test_the_summary_is_that_of_the_command_line(chip: Any, flags: list[str], tmp_path: Path) -> None:
    report = {"images": 50, "chips": 2} if "--population" in flags else {"images": 50}
    result = bbfuse.fit(
        "digits", "digits", chip=chip, optimizer="spsa", budget=4_000, spsa={"c": 0.03}, report=report, out=tmp_path / "python"
    )  # fmt: skip
    flags = [*flags, "--optimizer", "spsa", "--budget", "4000", "--spsa.c", "0.03", "--out", str(tmp_path / "shell")]
    done = subprocess.run(
        [sys.executable, "-m", "bbfuse.run", *flags, "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    shell = json.loads(done.stdout)
    for summary in (result.summary, shell):
        del summary["seconds"]
    assert result.summary == shell
    parts = [torch.load(tmp_path / name / "fuse.pt", weights_only=True)["fuse"] for name in ("python", "shell")]
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])


def test_names_classes_and_settings_are_the_same(own: nn.Module, arrays: Arrays, quick: dict[str, Any], tmp_path: Path) -> None:
    forms: list[dict[str, Any]] = [
        {"optimizer": "spsa", "spsa": {"c": 0.03}, "generator": "MLP", "head": "affine"},
        {"optimizer": Spsa, "spsa": SpsaConfig(c=0.03), "generator": mlp, "head": HEADS["affine"]},
        {"optimizer": SpsaConfig(c=0.03), "generator": lambda shape: mlp(shape), "validation": ValidationConfig(20, 2)},
    ]
    summaries = [
        bbfuse.fit(own, arrays, chip=CHIP, out=tmp_path / str(number), **{**quick, **form}).summary
        for number, form in enumerate(forms)
    ]
    assert numbers(summaries[0]) == numbers(summaries[1]) == numbers(summaries[2])
    assert {summary["config"]["optimizer"] for summary in summaries} == {"spsa"}
    assert {summary["config"]["spsa"]["c"] for summary in summaries} == {0.03}


def test_a_backend_of_the_users_own_is_queried_as_it_is(
    own: nn.Module, arrays: Arrays, quick: dict[str, Any], tmp_path: Path
) -> None:
    class Counting(SimulatedBackend):
        images = 0

        def query(self, images: Any, chip: Any, sending: Any) -> Any:
            self.images += len(images)
            return super().query(images, chip, sending)

    backend = Counting("mine", own, (1, 8, 8), 4)
    assert backend.info == BackendInfo("mine", Access.LOGITS, (1, 8, 8), 4)
    result = bbfuse.fit(backend, arrays, chip=CHIP, out=tmp_path / "run", **quick)
    assert result.summary["queries"]["images"] == backend.images <= 1_500


def test_a_function_has_no_chip_by_default(arrays: Arrays, quick: dict[str, Any], tmp_path: Path) -> None:
    result = bbfuse.fit(lambda x: x.flatten(1)[:, :32:8], arrays, out=tmp_path / "run", **quick)
    assert result.summary["config"]["no_chip"]
    assert result.summary["lost_points"] is None


def test_an_interrupted_run_goes_on_with_the_objects_given_again(
    own: nn.Module, arrays: Arrays, quick: dict[str, Any], tmp_path: Path
) -> None:
    class Stop(Callback):
        def on_step(self, status: Status) -> None:
            if status.step == 4:
                raise KeyboardInterrupt

    whole = bbfuse.fit(own, arrays, chip=CHIP, out=tmp_path / "whole", **quick)
    with pytest.raises(KeyboardInterrupt):
        bbfuse.fit(own, arrays, chip=CHIP, out=tmp_path / "run", callbacks=[Stop()], **quick)
    assert not (tmp_path / "run" / "summary.json").exists()
    resumed = bbfuse.fit(own, arrays, resume=tmp_path / "run")
    assert numbers(resumed.summary) == numbers(whole.summary)


def test_a_resumed_run_in_another_process_is_given_its_objects_again(arrays: Arrays, tmp_path: Path) -> None:
    script = """
import sys, torch, bbfuse
from torch import nn
torch.manual_seed(0)
net, own = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), type("Own", (nn.Conv2d,), {})
class Stop(bbfuse.callbacks.Callback):
    def on_step(self, status):
        if status.step == 3:
            raise KeyboardInterrupt
data = (torch.rand(80, 1, 8, 8), torch.arange(80) % 4)
make = lambda shape: nn.Conv2d(1, 1, 3, padding=1)
given = {} if sys.argv[1] == "again" else dict(chip=bbfuse.Chip(0.05, 0), optimizer="spsa", budget=1200,
    validation={"images": 10})
where = {"resume": "run"} if sys.argv[1] == "again" else {"out": "run", "callbacks": [Stop()]}
try:
    print(bbfuse.fit(net, data, generator=make, **given, **where))
except KeyboardInterrupt:
    print("interrupted")
"""
    outputs = []
    for word in ("first", "again"):
        done = subprocess.run(
            [sys.executable, "-c", script, word], cwd=tmp_path, capture_output=True, text=True, check=True,
            env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
        )  # fmt: skip
        outputs.append(done.stdout.strip())
    assert outputs[0] == "interrupted"
    assert outputs[1].startswith("<bbfuse.Result run: ")


def test_a_plan_sends_nothing_and_says_what_the_run_sends(
    own: nn.Module, arrays: Arrays, quick: dict[str, Any], tmp_path: Path
) -> None:
    plan = bbfuse.fit(own, arrays, chip=CHIP, plan=True, out=tmp_path / "run", **quick)
    assert not (tmp_path / "run").exists()
    result = bbfuse.fit(own, arrays, chip=CHIP, out=tmp_path / "run", **quick)
    assert plan["queries"]["images"] == result.summary["queries"]["images"]


def test_inputs_without_labels_are_reported_by_agreement_with_the_nominal_target(
    own: nn.Module, arrays: Arrays, quick: dict[str, Any], tmp_path: Path
) -> None:
    result = bbfuse.fit(own, arrays[0], classes=4, labels="target", chip=CHIP, out=tmp_path / "run", **quick)
    assert result.summary["accuracy"]["clean"] == 1.0
    assert result.summary["accuracy"]["perturbed"]["mean"] < 1.0
