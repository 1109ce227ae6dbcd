"""The reference server: it does what its OpenAPI document says, in both forms, and asks for its key."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import schemathesis
import torch
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from torch import nn

from backends.base import Chip
from backends.http.codecs.oip_binary import LENGTH, MEDIA_TYPE, packed, unpacked
from backends.http.codecs.oip_json import named_tensor, request_body, tensor_of
from backends.memory.simulator import Simulator
from backends.server.app import application
from backends.simulated import SimulatedBackend
from backends.targets import networks
from tests.helpers.http.reference_server import GOOD, IMAGES, KEY, Served


def document(key: str | None = None) -> Any:
    """What schemathesis reads of an application with one model, whose weights do not matter here."""
    backend = SimulatedBackend("digits", networks.build("digits", (1, 8, 8)).requires_grad_(False), (1, 8, 8), 10)
    return schemathesis.openapi.from_asgi("/openapi.json", application([backend], key=key), headers={"X-API-Key": key or "none"})


OPEN, LOCKED = document(), document(KEY)


def keeps_its_word(case: Any) -> Any:
    """All checks but one: whether data fill a shape no schema can say, so that what fits the schema may still be refused."""
    response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
    if response.status_code >= 400:
        assert list(response.json()) == ["error"]
        assert "\n" not in response.json()["error"]
    return response


few = settings(max_examples=60, suppress_health_check=list(HealthCheck))
many = settings(max_examples=500, suppress_health_check=list(HealthCheck))


@OPEN.parametrize()
@few
def test_the_openapi_document_keeps_its_word(case: Any) -> None:
    keeps_its_word(case)


@pytest.mark.slow
@OPEN.parametrize()
@many
def test_the_openapi_document_keeps_its_word_at_length(case: Any) -> None:
    keeps_its_word(case)


@LOCKED.parametrize()
@settings(few, max_examples=10)
def test_a_stranger_is_told_nothing_but_health(case: Any) -> None:
    response = keeps_its_word(case)
    assert response.status_code == 401 or case.operation.path.startswith("/v2/health/")


def test_a_binary_answer_is_the_json_answer_and_both_are_the_targets(served: Served, network: nn.Module) -> None:
    whole, length = packed(request_body(IMAGES, Chip(0.05, 3), binary=True))
    binary = served.infer(whole, **{LENGTH: str(length), "Content-Type": MEDIA_TYPE})
    assert binary.headers["Content-Type"] == MEDIA_TYPE
    content = unpacked(binary.content, binary.headers[LENGTH])
    answer = served.infer(GOOD).json()
    logits = Simulator(network).logits(IMAGES, Chip(0.05, 3))
    for outputs in (content["outputs"], answer["outputs"]):
        assert torch.equal(tensor_of(outputs, "outputs"), logits)
    assert "parameters" not in answer["outputs"][0]
    nested = {**GOOD, "inputs": [{**named_tensor("images", IMAGES), "data": IMAGES.tolist()}]}
    assert served.infer(nested).json() == answer


@pytest.mark.parametrize(
    ("parameters", "outputs", "binary"),
    [
        ({"binary_data_output": True}, None, True),
        ({}, [{"name": "logits", "parameters": {"binary_data": True}}], True),
        ({"binary_data_output": True}, [{"name": "logits"}], True),
        ({"binary_data_output": True}, [{"name": "logits", "parameters": {"binary_data": False}}], False),
        ({}, [], False),
        (None, None, False),
    ],
)
def test_either_form_may_ask_for_either_form(served: Served, parameters: Any, outputs: Any, binary: bool) -> None:
    for written in (False, True):
        body = {"inputs": [named_tensor("images", IMAGES, written)], "parameters": parameters, "outputs": outputs}
        whole, length = packed(body)
        answer = served.infer(whole, **({LENGTH: str(length)} if written else {}))
        assert answer.status_code == 200, answer.text
        assert (LENGTH in answer.headers) == binary
        content = unpacked(answer.content, answer.headers.get(LENGTH))
        assert tensor_of(content["outputs"], "outputs").shape == (3, 10)


def test_models_and_versions_have_their_paths_and_metadata(served: Served) -> None:
    assert requests.get(f"{served.url}/v2", timeout=9).json()["extensions"] == ["binary_tensor_data"]
    for name in ("digits", "nan"):
        for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1"):
            metadata = requests.get(served.url + path, timeout=9).json()
            assert (metadata["name"], metadata["versions"]) == (name, ["1"])
            assert metadata["parameters"] == {"max_batch_size": 64, "max_body_bytes": 1 << 20}
            assert requests.get(f"{served.url}{path}/ready", timeout=9).json() == {"name": name, "ready": True}
    answer = requests.post(f"{served.url}/v2/models/digits/versions/1/infer", json={"id": "x", **GOOD}, timeout=9).json()
    assert (answer["id"], answer["model_version"]) == ("x", "1")


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"X-API-Key": "wrong"}, {"X-API-Key": KEY + "x"}, {"Authorization": "Bearer wrong"}, 
        {"Authorization": f"Basic {KEY}"}, {"Authorization": "Bearer"}, {"X-API-Key": "\u00e9"},
    ],
)  # fmt: skip
def test_without_the_key_nothing_is_told(locked: Served, headers: dict[str, str]) -> None:
    for path in ("/v2", "/v2/models/digits", "/openapi.json", "/nowhere"):
        answer = requests.get(locked.url + path, headers=headers, timeout=9)
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
        assert KEY not in answer.text
    assert locked.infer(GOOD, **headers).status_code == 401
    assert requests.get(f"{locked.url}/v2/health/ready", headers=headers, timeout=9).json() == {"ready": True}


@pytest.mark.parametrize("headers", [{"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer  {KEY}"}])
def test_with_the_key_everything_is_there(locked: Served, headers: dict[str, str]) -> None:
    assert requests.get(f"{locked.url}/v2/models/digits", headers=headers, timeout=9).status_code == 200
    assert locked.infer(GOOD, **headers).status_code == 200
