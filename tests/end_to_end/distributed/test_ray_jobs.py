"""A run as a job of a cluster: as Kubernetes is asked for it, and as a Ray with its job server carries it out."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from backends.base import InputError
from bbfuse.cli.run import parse
from bbfuse.config.checks import validate
from bbfuse.execution import execute
from tests.helpers.documents.pages import ROOT

MANIFEST = ROOT / "experiments" / "rayjob.yaml"


def closed(required: str, **properties: Any) -> dict[str, Any]:
    """An object with these properties and no others."""
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


TEXT, SWITCH, COUNT = {"type": "string", "minLength": 1}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
# Kubernetes' labels of parts, and its quantities
LABEL = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
QUANTITY = {"anyOf": [COUNT, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$"}]}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
SECRET = closed("key", name=TEXT, key=TEXT, optional=SWITCH)
CONTAINER = closed(
    "name image", name=LABEL, image=TEXT,
    env={"type": "array", "items": closed("name", name=TEXT, value=TEXT, valueFrom=closed("", secretKeyRef=SECRET))},
    ports={"type": "array", "items": closed("containerPort", containerPort={"type": "integer", "maximum": 65535}, name=LABEL)},
    resources=closed("", limits=QUANTITIES, requests=QUANTITIES),
    volumeMounts={"type": "array", "items": closed("mountPath name", mountPath=TEXT, name=LABEL, readOnly=SWITCH)},
)  # fmt: skip
POD = closed("spec", metadata={"type": "object"}, spec=closed(
    "containers", containers={"type": "array", "minItems": 1, "items": CONTAINER},
    volumes={"type": "array", "items": closed("name", name=LABEL, emptyDir={"type": "object"})},
))  # fmt: skip
RAY_JOB = closed(
    "apiVersion kind metadata spec", apiVersion={"const": "ray.io/v1"}, kind={"const": "RayJob"},
    metadata=closed("name", name=LABEL, namespace=LABEL, labels=TEXTS),
    spec=closed(
        "entrypoint rayClusterSpec", activeDeadlineSeconds=COUNT, backoffLimit=COUNT, clusterSelector=TEXTS, entrypoint=TEXT,
        entrypointNumCpus={"type": "number"}, entrypointNumGpus={"type": "number"}, entrypointResources=TEXT, jobId=TEXT,
        metadata=TEXTS, runtimeEnvYAML=TEXT, shutdownAfterJobFinishes=SWITCH, ttlSecondsAfterFinished=COUNT, suspend=SWITCH,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]}, submitterPodTemplate=POD,
        rayClusterSpec=closed(
            "headGroupSpec", rayVersion=TEXT, enableInTreeAutoscaling=SWITCH,
            headGroupSpec=closed("rayStartParams template", serviceType=TEXT, rayStartParams=TEXTS, template=POD),
            workerGroupSpecs={"type": "array", "items": closed(
                "groupName maxReplicas minReplicas rayStartParams template", groupName=LABEL, replicas=COUNT, minReplicas=COUNT,
                maxReplicas=COUNT, numOfHosts=COUNT, rayStartParams=TEXTS, template=POD,
            )},
        ),
    ),
)  # fmt: skip


def test_the_manifest_is_a_ray_job() -> None:
    """By a schema of our own, written after the fields that KubeRay documents for `ray.io/v1` (types, and those required in any
    version of it) and cut down to those that a run needs: the definition that a cluster holds, of a megabyte, is not here."""
    jsonschema.validate(yaml.safe_load(MANIFEST.read_text()), RAY_JOB)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("apiVersion",), "v1"),
        (("spec", "entryPoint"), "python"),
        (("spec", "ttlSecondsAfterFinished"), "600"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"), -1),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers"), []),
    ],
)
def test_the_schema_refuses_what_a_cluster_would(path: tuple[str | int, ...], value: Any) -> None:
    manifest = yaml.safe_load(MANIFEST.read_text())
    place = manifest
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, RAY_JOB)


def test_the_manifest_asks_for_a_run_that_can_be_and_has_room_for_its_workers() -> None:
    spec = yaml.safe_load(MANIFEST.read_text())["spec"]
    words = shlex.split(spec["entrypoint"])
    assert words[:3] == ["python", "-m", "bbfuse.run"]
    config = parse(words[3:])
    validate(config)
    (head,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert group["replicas"] * int(worker["resources"]["limits"]["cpu"]) >= config.workers * config.threads
    assert head["env"] == worker["env"]  # one token for all of them
    assert head["image"] == worker["image"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def is_up(url: str, token: str) -> bool:
    request = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5.0) as answer:
        return bool(answer.status == 200)
    return False


RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass(frozen=True)
class Head:
    """A Ray on loopback."""

    jobs: str
    """The address of its job server."""
    client: str
    """That of its clients."""
    environment: dict[str, str]
    """Of those who know its token."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    if any(importlib.util.find_spec(name) is None for name in ("aiohttp_cors", "opencensus", "grpc")):
        pytest.skip("Ray's servers are not installed: python -m pip install 'ray[default]'")
    # not pytest's folder: the paths of its sockets must be short
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        url, client, token = f"http://127.0.0.1:{free_port()}", free_port(), secrets.token_hex(32)
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        words = [
            *RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus", "2", "--object-store-memory", "100000000",
            "--port", str(free_port()), "--ray-client-server-port", str(client), "--dashboard-agent-listen-port", "0",
            "--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", url.rpartition(":")[2],
        ]  # fmt: skip
        environment = {**os.environ, **known}
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(words, env=environment, cwd=folder, **quiet) as process:
            try:
                deadline = time.monotonic() + 180.0
                while not is_up(url, token):
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
                yield Head(url, f"ray://127.0.0.1:{client}", environment)
            finally:
                process.send_signal(signal.SIGTERM)


RUN = [
    sys.executable, "-m", "bbfuse.run", "--chip-seed", "0", "--optimizer", "nes", "--nes.pairs", "2", "--head", "none",
    "--budget", "3000",
]  # fmt: skip


def summary_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    del found["seconds"]
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run comes to without Ray."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    subprocess.run([*RUN, "--out", str(folder)], cwd=ROOT, check=True, capture_output=True)
    return summary_in(folder)


@pytest.mark.ray
@pytest.mark.xdist_group("head")
def test_a_run_is_a_job_of_a_cluster_that_knows_its_token(head: Head, alone: dict[str, Any], tmp_path: Path) -> None:
    words = [*RUN, "--workers", "2", "--ray.address", "auto", "--out", str(tmp_path / "run")]
    submit = [*RAY, "job", "submit", "--address", head.jobs, "--working-dir", str(ROOT), "--", *words]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{head.jobs}/api/jobs/")
    done = subprocess.run(submit, env=head.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary_in(tmp_path / "run") == alone


@pytest.mark.ray
@pytest.mark.xdist_group("head")
def test_a_run_joins_a_cluster_by_its_client(head: Head, alone: dict[str, Any], tmp_path: Path) -> None:
    words = [*RUN, "--workers", "2", "--ray.address", head.client, "--out", str(tmp_path / "run")]
    for _ in range(3):  # Ray gives a client's server half a minute to start, whatever else runs
        done = subprocess.run(words, env=head.environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
        if "Initialization failure from server" not in done.stderr:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary_in(tmp_path / "run") == alone


@pytest.mark.ray
def test_where_the_client_is_not_installed_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "ray.util.client.worker", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as one:
        address = f"ray://127.0.0.1:{one.getsockname()[1]}"
        with pytest.raises(InputError, match=r"cannot be reached: .* requires pip package `ray\[client\]`") as error:
            execute(parse([*RUN[3:], "--workers", "2", "--ray.address", address, "--out", str(tmp_path / "run")]))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
