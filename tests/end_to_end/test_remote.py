"""The wire, the server's manners, and a client before servers that misbehave."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
import requests
import torch
from hypothesis import given
from torch import nn

from backends.base import NOMINAL, Chip, InputError, TargetError
from backends.datasets.base import Dataset
from backends.http.backend import RemoteBackend
from backends.http.codecs.oip_json import chip_of, request_body, tensor_of
from backends.memory.config import Memory
from backends.memory.simulator import Simulator
from backends.server.subprocess_server import OwnServer
from tests.helpers.http.faults import Reply, script

METADATA = {
    "name": "m",
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 2, 2]}],
    "outputs": [{"shape": [-1, 3]}],
}
IMAGES = torch.zeros(2, 1, 2, 2)
ANSWER = {"outputs": [{"name": "logits", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}]}


@pytest.fixture
def scripted() -> Iterator[Callable[[list[Reply]], tuple[str, list[Any]]]]:
    """A server that gives the scripted replies to inference requests, one after the other, and keeps what it was sent."""
    with contextlib.ExitStack() as stack:
        yield lambda replies: stack.enter_context(script(METADATA, replies))


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    st.floats(0, 1),
    st.integers(0, 2**50),
)
def test_images_and_chips_survive_the_wire_exactly(values: list[float], rate: float, seed: int) -> None:
    tensor = torch.tensor(values).reshape(-1, 1, 1, 1)
    body = json.loads(json.dumps(request_body(tensor, Chip(rate, seed))))
    assert torch.equal(tensor_of(body["inputs"], "inputs"), tensor)
    assert chip_of(body["parameters"]) == Chip(rate, seed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["datatype", "shape", "data", "bit_error_rate", "chip_seed"]), inner)
    ),
    max_leaves=12,
)


@given(json_values)
def test_garbage_is_refused_in_one_line(value: Any) -> None:
    for read in (lambda: tensor_of(value, "inputs"), lambda: tensor_of([value], "inputs"), lambda: chip_of(value)):
        try:
            read()
        except InputError as error:
            assert "\n" not in str(error)


def test_no_parameters_mean_nominal_voltage() -> None:
    assert chip_of(None) == chip_of({}) == NOMINAL


def test_the_server_speaks_the_protocol(server: OwnServer) -> None:
    get = {
        path: requests.get(server.url + path, timeout=10)
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready")
    }
    assert all(response.status_code == 200 for response in get.values())
    assert get["/v2"].json()["name"] == "bbfuse"
    metadata = requests.get(f"{server.url}/v2/models/digits", timeout=10).json()
    assert metadata["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    body = {"id": "x1", **request_body(torch.zeros(2, 1, 8, 8), NOMINAL)}
    answer = requests.post(f"{server.url}/v2/models/digits/infer", json=body, timeout=10).json()
    assert (answer["id"], answer["model_name"], answer["outputs"][0]["shape"]) == ("x1", "digits", [2, 10])


GOOD = request_body(torch.zeros(1, 1, 8, 8), NOMINAL)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("nobody", json.dumps(GOOD), 404, "no model 'nobody'"),
        ("digits", "{", 400, "not JSON"),
        ("digits", "[" * 100_000, 400, "not JSON"),
        ("digits", "[]", 400, "must be a JSON object"),
        ("digits", "{}", 400, "inputs must be a list"),
        ("digits", json.dumps({**GOOD, "parameters": {"bit_error_rate": 2}}), 400, "bit_error_rate must lie in"),
        ("digits", json.dumps({**GOOD, "parameters": {"chip_seed": -1}}), 400, "`chip_seed` must be"),
        ("digits", json.dumps({**GOOD, "parameters": {"bit_error_rate": 10**400}}), 400, "bit_error_rate must lie in"),
        ("digits", json.dumps(request_body(torch.full((1, 1, 8, 8), torch.nan), NOMINAL)), 400, "must lie in [-1, 1]"),
        ("digits", json.dumps(request_body(torch.full((1, 1, 8, 8), 3e38), NOMINAL)), 400, "must lie in [-1, 1]"),
        ("digits", json.dumps(request_body(torch.zeros(1, 1, 9, 8), NOMINAL)), 400, "shape must be"),
        ("digits", json.dumps(request_body(torch.zeros(0, 1, 8, 8), NOMINAL)), 400, "shape must be"),
    ],
)
def test_the_server_refuses_in_the_protocols_shape(server: OwnServer, path: str, body: str, status: int, words: str) -> None:
    response = requests.post(f"{server.url}/v2/models/{path}/infer", data=body, timeout=10)
    assert response.status_code == status
    assert words in response.json()["error"]


def test_busy_servers_are_asked_again_and_every_attempt_is_told(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    url, got = scripted([(503, b'{"error": "busy"}'), (429, b"slow down"), (200, json.dumps(ANSWER).encode())])
    told: list[int] = []
    assert RemoteBackend(url, "m", 5.0, 4).query(IMAGES, NOMINAL, told.append).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert told == [2, 2, 2]
    assert len(got) == 3
    assert got[0]["inputs"][0]["name"] == "pixels"  # as the server's metadata call it


@pytest.mark.parametrize(
    ("reply", "words", "attempts"),
    [
        ((503, b'{"error": "busy"}'), "no valid response in 2 attempts: HTTP 503 busy", 2),
        ((400, b'{"error": "bad shape"}'), "refused a request: HTTP 400 bad shape", 1),
        ((422, b'{"detail": [{"msg": "field required"}]}'), "HTTP 422 .*field required", 1),
        ((401, b'{"error": "who are you"}'), "HTTP 401 who are you; `remote.key_env` and", 1),
        ((307, b""), "HTTP 307 .*redirect, which is not followed", 1),
        (
            (500, b"Traceback (most recent call last):\n  File\nValueError: no such thing"),
            "HTTP 500 ValueError: no such thing",
            2,
        ),
        ((200, b"<html>hello</html>"), "no valid response in 2 attempts: invalid response: the body is not JSON", 2),
        ((200, b"[" * 100_000), "no valid response in 2 attempts: invalid response: the body is not JSON", 2),
        ((200, b"[]"), "must be a JSON object", 2),
        ((200, b"{}"), "outputs must be a list", 2),
        ((200, b'{"outputs": [{"datatype": "FP32", "shape": [2, 3], "data": [1, 2]}]}'), "must hold 6 numbers", 2),
        ((200, b'{"outputs": [{"datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}'), r"shape \(1, 3\) where \(2, 3\)", 2),
        ((200, b'{"outputs": [{"datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, NaN]}]}'), "not finite", 2),
    ],
)
def test_what_is_no_answer_is_said_in_one_line(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, reply: Reply, words: str, attempts: int
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    url, got = scripted([reply])
    with pytest.raises(TargetError, match=words) as error:
        RemoteBackend(url, "m", 5.0, 2).query(IMAGES, NOMINAL, lambda _: None)
    assert "\n" not in str(error.value)
    assert len(got) == attempts


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[", "ftp://127.0.0.1/x"])
def test_an_address_that_leads_nowhere_is_refused_at_opening(url: str) -> None:
    with pytest.raises(InputError, match=r"cannot be reached|must be an http or https address") as error:
        RemoteBackend(url, "m", 5.0, 2)
    assert "\n" not in str(error.value)


def test_a_server_without_that_model_is_refused_at_opening(server: OwnServer) -> None:
    with pytest.raises(InputError, match="does not describe an image classifier called m: HTTP 404"):
        RemoteBackend(server.url, "m", 5.0, 2)


def test_a_server_of_our_own_has_the_memory_that_was_asked_for(network: nn.Module, digits: Dataset) -> None:
    memory = Memory("rquant", 5, errors="column", offset=700)
    own = OwnServer("digits", "digits", memory=memory)
    try:
        backend = RemoteBackend(own.url, "digits", timeout=30.0, attempts=1)
        answers = backend.query(digits.test.images[:5], Chip(0.05, 3), lambda _: None)
        backend.close()
    finally:
        own.close()
    assert torch.equal(answers, Simulator(network, memory).logits(digits.test.images[:5], Chip(0.05, 3)))


def test_a_server_may_take_256_levels_and_every_pixel_is_rounded_to_them(network: nn.Module, digits: Dataset) -> None:
    own = OwnServer("digits", "digits", pixels="uint8")
    images = (digits.test.images[:5] + 0.01 * torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    try:
        backend = RemoteBackend(own.url, "digits", timeout=30.0, attempts=1)
        answers = backend.query(images, Chip(0.05, 3), lambda _: None)
        backend.close()
        refused = requests.post(f"{own.url}/v2/models/digits/infer", json=request_body(images, NOMINAL), timeout=30)
    finally:
        own.close()
    assert backend.info.eight_bits
    seen = backend.info.seen(images)
    assert 0.0 < (seen - images).abs().max() <= 0.5 / 127.5 + 1e-6
    assert torch.equal(seen, backend.info.seen(seen))
    assert torch.equal(answers, Simulator(network).logits(seen, Chip(0.05, 3)))
    assert (refused.status_code, refused.json()["error"]) == (400, "inputs[0].datatype must be UINT8, got 'FP32'")
