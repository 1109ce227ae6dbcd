"""What a plan says is what a run sends: images and requests to the last one, and nothing is sent to know it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import requests

from backends.base import InputError
from backends.datasets.base import Dataset
from backends.http.codecs.oip_json import chip_of, named_tensor, tensor_of
from backends.kinds.remote import RemoteConfig
from backends.server.subprocess_server import OwnServer
from bbfuse.cli.run import main
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.execution import execute, forecast
from bbfuse.heads.standardize import StandardizeConfig
from bbfuse.objective.eopm import EopmConfig
from bbfuse.optimizers.surrogate.follow import FollowConfig
from bbfuse.optimizers.surrogate.network import SurrogateConfig
from bbfuse.optimizers.surrogate.transfer import TransferConfig
from bbfuse.querying.ledger import Ledger
from bbfuse.training.planning import Queries
from bbfuse.training.trainer import Trainer
from tests.helpers.http.faults import script
from tests.helpers.runs import BASE, run
from tests.helpers.targets import LinearBackend

FEW_CHIPS = ReportConfig(chips=2, images=130)
QUICK = SurrogateConfig(arch="perceptron", steps=5, updates=1)
EDGES: dict[str, RunConfig] = {
    "a batch of two requests": dataclasses.replace(BASE, batch=150, head="none"),
    "one step": dataclasses.replace(BASE, budget=2_815, validation=ValidationConfig(images=10, times=6), report=ReportConfig()),
    "no validation": dataclasses.replace(BASE, validation=ValidationConfig(times=0)),
    "heads of two requests": dataclasses.replace(
        BASE, chip_seed=None, standardize=StandardizeConfig(images=150), report=FEW_CHIPS, budget=9_000
    ),
    "no head, terms drawn": dataclasses.replace(
        BASE, chip_seed=None, head="none", eopm=EopmConfig(clean_weight=3.0, chips=2), report=FEW_CHIPS
    ),
    "steps that ask nothing": dataclasses.replace(
        BASE, optimizer="transfer", surrogate=QUICK, transfer=TransferConfig(steps=7, images=130)
    ),
    "every third step asks, terms drawn": dataclasses.replace(
        BASE, optimizer="follow", surrogate=QUICK, follow=FollowConfig(every=3), eopm=EopmConfig(clean_weight=3.0)
    ),
    "simulated chips": dataclasses.replace(
        BASE, chip_seed=None, optimizer="follow", follow=FollowConfig(every=3), surrogate=QUICK, report=FEW_CHIPS
    ),
    "growing": dataclasses.replace(BASE, grow="Filter"),
    "a reserve": dataclasses.replace(BASE, backend="remote", remote=RemoteConfig(reserve=0.3)),
    "warm-up and growing, terms drawn": dataclasses.replace(
        BASE, optimizer="spsa", grow="Filter", warm_up=1_000, eopm=EopmConfig(clean_weight=3.0)
    ),
    "warm-up and population": dataclasses.replace(
        BASE, chip_seed=None, warm_up=1_000, budget=9_000, standardize=StandardizeConfig(images=20), report=FEW_CHIPS
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "simulated chips" else name for name in EDGES]
)
def test_at_the_edges_a_run_sends_what_its_plan_says(name: str, tmp_path: Path, linear: LinearBackend, digits: Dataset) -> None:
    config = EDGES[name]
    trainer = Trainer(config, linear.info, digits.owned(config.images), Ledger(linear, 0), folder=None)
    sent = trainer.plan.sent(trainer.objective)
    assert linear.received == 0
    assert trainer.plan.exact
    told = run(config, tmp_path / "run", linear, digits)
    assert sum(sent.values(), Queries()) == Queries(told["images"], told["requests"])
    assert told["images"] <= config.budget


def test_a_server_that_takes_few_images_at_once_is_planned_with_its_limit(linear: LinearBackend, tmp_path: Path) -> None:
    metadata = {
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
        "max_batch_size": 50,
    }

    def answer(request: Any) -> tuple[int, bytes]:
        logits = linear.query(tensor_of(request["inputs"], "inputs"), chip_of(request["parameters"]), lambda _: None)
        return 200, json.dumps({"outputs": [named_tensor("logits", logits)]}).encode()

    with script(metadata, [answer]) as (url, got):
        config = dataclasses.replace(BASE, backend="remote", remote=RemoteConfig(url=url), report=ReportConfig(images=130))
        plan = forecast(config)
        summary = execute(dataclasses.replace(config, out=tmp_path / "run"))
    assert summary["queries"] == plan["queries"]
    assert plan["queries"]["requests"] == len(got)
    assert plan["purposes"]["report"] == {"images": 520, "requests": 4 * 4}  # 128 images go as 50, 50 and 28


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--plan", "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    plan: dict[str, Any] = json.loads(told.out)
    return plan


@pytest.mark.parametrize(
    "arguments", ["--chip-seed 1 --budget 6000", "--backend whitebox --optimizer backprop --report.images 90"]
)
def test_the_command_says_it_sends_nothing_and_leaves_no_folder(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as closed:
        closed.setattr("backends.targets.fit.fitted", lambda *_: pytest.fail("a plan needs no fitted target"))
        plan = planned(capsys, *arguments.split())
        assert main([*arguments.split(), "--plan"]) == 0
        table = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert plan["bytes"] is None
    assert plan["queries"]["cost"] is None
    assert plan["queries"]["images"] + plan["kept_back"] == plan["queries"]["budget"]
    for part in (plan["queries"], *plan["purposes"].values()):
        assert f"{part['images']:,}" in table
        assert f"{part['requests']:,}" in table
    assert main([*arguments.split(), "--out", "run", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["queries"] == plan["queries"]
    assert summary["config"] == plan["config"]


@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_a_server_is_asked_for_its_metadata_alone_and_bytes_and_money_are_foretold(
    pixels: Any, server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanged: list[tuple[str | None, int, int]] = []
    send = requests.Session.send

    def counted(session: requests.Session, request: requests.PreparedRequest, **how: Any) -> requests.Response:
        response = send(session, request, **how)
        exchanged.append((request.method, len(request.body or b""), int(response.headers["Content-Length"])))
        return response

    monkeypatch.setattr(requests.Session, "send", counted)
    remote = RemoteConfig(url=server.url, price=2.5) if pixels == "float32" else RemoteConfig(pixels=pixels, price=2.5)
    config = RunConfig(backend="remote", chip_seed=0, head="none", budget=4_000, remote=remote, report=ReportConfig(images=100))
    plan = forecast(config)
    assert {method for method, *_ in exchanged} == ({"GET"} if remote.url else set())
    summary = execute(dataclasses.replace(config, out=tmp_path / "run"))
    posts = [sizes for method, *sizes in exchanged if method == "POST"]
    assert len(posts) == plan["queries"]["requests"]
    assert summary["queries"] == plan["queries"]
    assert plan["queries"]["cost"] == pytest.approx(2.5e-3 * len(posts))
    up, down = (sum(sizes[side] for sizes in posts) for side in (0, 1))
    assert plan["bytes"]["up"] == pytest.approx(up, rel=0.15)
    assert plan["bytes"]["down"] == pytest.approx(down, rel=0.05)


def test_what_would_be_refused_is_refused() -> None:
    for config, words in (
        (RunConfig(budget=100), "does not allow one step"),
        (RunConfig(target="alexnet"), "`target` must be one of"),
        (RunConfig(resume=Path("runs/a")), "drop `resume`"),
        (RunConfig(backend="remote", remote=RemoteConfig(price=-1.0)), "`remote.price` must be 0 or more"),
    ):
        with pytest.raises(InputError, match=words) as error:
            forecast(config)
        assert "\n" not in str(error.value)
