"""A server that is not ours: MLServer, in an environment of its own, serves the digits target; only the time may differ."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from torch import nn

import bbfuse
from backends.base import Chip
from backends.datasets.base import Dataset
from backends.http.backend import RemoteBackend
from backends.memory.simulator import Simulator
from tests.helpers.documents.pages import ROOT
from tests.helpers.http.servers import command

pytestmark = [pytest.mark.peer, pytest.mark.xdist_group("mlserver")]

VERSION = "1.7.1"
# read when this file is imported: later the tests have a cache of their own, which does not outlive them
CACHE = Path(os.environ.get("BBFUSE_CACHE") or Path.home() / ".cache" / "bbfuse")

RUNTIME = """
import torch
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput

from backends.datasets.loading import load
from backends.simulated import SimulatedBackend
from backends.targets.fit import fitted
from backends.http.codecs.oip_json import chip_of, named_tensor, tensor_of


class Digits(MLModel):
    async def load(self) -> bool:
        torch.set_num_threads(1)
        data = load("digits")
        self._backend = SimulatedBackend("digits", fitted("digits", data), data.image_shape, data.classes)
        return True

    async def predict(self, payload):
        (entry,) = payload.inputs
        inputs = [{"datatype": entry.datatype, "shape": entry.shape, "data": list(entry.data)}]
        chip = chip_of(payload.parameters.model_dump() if payload.parameters else None)
        logits = self._backend.query(tensor_of(inputs, "inputs"), chip, lambda _: None)
        output = ResponseOutput(**named_tensor("logits", logits), parameters={"content_type": "np"})
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])
"""
SETTINGS = {
    "name": "digits", "implementation": "runtime.Digits", "platform": "torch",
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 8, 8], "parameters": {"content_type": "np"}}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def environment() -> Path:
    """The interpreter of an environment with MLServer, made once for each version of it and of Python."""
    home = CACHE / f"mlserver-{VERSION}-py{sys.version_info.major}{sys.version_info.minor}"
    python = home / "bin" / "python"
    if not (home / "whole").exists():
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"mlserver=={VERSION}"]
        subprocess.run(words, check=True, timeout=600)
        (home / "whole").touch()
    return python


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


@pytest.fixture(scope="module")
def mlserver(environment: Path, network: nn.Module, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLServer that has the digits target, the very code and weights of this process."""
    folder = tmp_path_factory.mktemp("mlserver")
    (folder / "runtime.py").write_text(RUNTIME)
    (folder / "model-settings.json").write_text(json.dumps(SETTINGS))
    http, grpc, metrics = free_ports(3)
    server = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps(server))
    # what its own environment lacks, torch above all, comes from this one: no second copy, and the same numbers
    (site,) = environment.parent.parent.glob("lib/python*/site-packages")
    script = f"import sys; sys.path[1:1] = {[str(site), str(ROOT)]}; sys.path.append({sysconfig.get_path('purelib')!r})"
    start = f"{script}; from mlserver.cli import main; sys.argv = ['mlserver', 'start', '.']; main()"
    surroundings = {**os.environ, "BBFUSE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    with (folder / "words").open("w") as words:
        process = subprocess.Popen([str(environment), "-c", start], cwd=folder, env=surroundings, stdout=words, stderr=words)
    url = f"http://127.0.0.1:{http}"
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{url}/v2/models/digits/ready", timeout=5).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"MLServer did not start: {(folder / 'words').read_text()[-2000:]}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def summary_of(folder: Path, *words: str) -> dict[str, Any]:
    """What ``python -m bbfuse.run`` with ``words`` says it came to."""
    budget = ["--chip-seed", "3", "--budget", "4000", "--json", "--out", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "bbfuse.run", *budget, *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


@pytest.fixture(scope="module")
def run_there(mlserver: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run against MLServer: its folder and its summary."""
    folder = tmp_path_factory.mktemp("there") / "run"
    return folder, summary_of(
        folder, "--backend", "remote", "--remote.url", mlserver, "--remote.watch", "0", "--remote.model", "digits"
    )


def test_a_run_against_it_is_the_local_run_number_for_number(run_there: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    there, here = run_there[1], summary_of(tmp_path / "run")
    its_own = {"seconds", "queries", "config", "energy"}
    assert {name: there[name] for name in there.keys() - its_own} == {name: here[name] for name in here.keys() - its_own}
    assert set(there["energy"].values()) == {None}  # nobody knows what the server keeps where
    assert all(there["queries"][name] == here["queries"][name] for name in ("images", "requests", "budget"))
    whose = {"backend", "remote"}
    assert all(there["config"][name] == here["config"][name] for name in here["config"].keys() - whose)
    ours, theirs = (torch.load(folder / "fuse.pt", weights_only=True) for folder in (tmp_path / "run", run_there[0]))
    for mine, yours in ((ours["fuse"], theirs["fuse"]), (ours["heads"]["kept"], theirs["heads"]["kept"])):
        assert mine.keys() == yours.keys()
        assert all(torch.equal(mine[name], yours[name]) for name in mine)
    assert there["accuracy"]["perturbed_fused"]["mean"] > there["accuracy"]["perturbed"]["mean"]


def test_the_proxy_in_front_of_it_answers_as_the_fuse_in_process(
    mlserver: str, run_there: tuple[Path, dict[str, Any]], network: nn.Module, digits: Dataset
) -> None:
    folder, chip, simulator = run_there[0], Chip(0.05, 3), Simulator(network)
    images = digits.test.images[:50]
    trained = bbfuse.load(folder)
    expected = trained(images, lambda fused: simulator.logits(fused, chip))
    with command("--run", str(folder), "--upstream", mlserver) as url:
        backend = RemoteBackend(url, "digits", 30.0, 1)
        answers = backend.query(images, chip, lambda _: None)
        backend.close()
        direct, proxied = (requests.get(f"{address}/v2/models/digits", timeout=10) for address in (mlserver, url))
        errors = [
            requests.post(f"{address}/v2/models/nobody/infer", json={"inputs": []}, timeout=10) for address in (mlserver, url)
        ]
    assert torch.equal(answers, expected)
    assert not torch.equal(answers, simulator.logits(images, chip))
    assert direct.json() == proxied.json()
    assert errors[0].status_code == errors[1].status_code == 404
    assert errors[0].text == errors[1].text
