"""The proxy: the numbers of the fuse in process, and nothing else between a client and its server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from aiohttp import web
from torch import Tensor, nn

import bbfuse
from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Dataset
from backends.http.codecs.base import Pixels
from backends.http.codecs.oip_binary import LENGTH, packed, unpacked
from backends.http.codecs.oip_json import named_tensor, request_body, tensor_of
from backends.kinds.remote import RemoteConfig
from backends.memory.simulator import Simulator
from backends.server.subprocess_server import OwnServer
from bbfuse.config.schema import RunConfig
from bbfuse.deploy.proxy import application, fused
from bbfuse.deploy.trained import Trained
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from tests.helpers.http.servers import command
from tests.helpers.http.upstream import CHIP, INFER, INFERENCE, SHAPE, Got, Upstream, classifier, logits_of, running
from tests.helpers.runs import run_folder


@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("eight_bits", [False, True], ids=["FP32", "UINT8"])
@pytest.mark.parametrize("binary", [False, True], ids=["JSON", "binary"])
def test_answers_are_those_in_process_number_for_number(
    proxied: tuple[str, Upstream, str], folder: Path, digits: Dataset, images: int, eight_bits: bool, binary: bool
) -> None:
    url, upstream, _ = proxied
    upstream.reply = classifier(binary)
    sent = digits.test.images[:images] * 0.9
    body, length = packed(request_body(sent, CHIP, "pixels", eight_bits, binary))
    headers = {LENGTH: str(length)} if binary else {}
    response = requests.post(url + INFER, data=body, headers=headers, timeout=10)
    assert response.status_code == 200, response.text
    content = unpacked(response.content, response.headers.get(LENGTH))
    answered = tensor_of(content["outputs"], "outputs")

    def seen(images: Tensor) -> Tensor:
        return ((images + 1.0) * 127.5).round() / 127.5 - 1.0 if eight_bits else images

    trained = bbfuse.load(folder)
    assert torch.equal(answered, trained(seen(sent), lambda fused: logits_of(seen(fused))))
    assert not torch.allclose(answered, logits_of(seen(sent)), atol=0.1)
    reached = unpacked(upstream.got[0].body, upstream.got[0].headers.get(LENGTH.lower()))
    assert reached["parameters"] == unpacked(body, headers.get(LENGTH))["parameters"]
    assert {k: v for k, v in reached["inputs"][0].items() if k not in ("data", "parameters")} == {
        "name": "pixels", "datatype": "UINT8" if eight_bits else "FP32", "shape": [images, *SHAPE],
    }  # fmt: skip
    assert (content["model_version"], content["parameters"]) == ("7", {"x": [1]})
    assert content["outputs"][0]["parameters"]["content_type"] == "np"
    assert response.headers.get("X-Served-By") == ("me" if binary else None)


def test_doubles_stay_doubles(proxied: tuple[str, Upstream, str], folder: Path) -> None:
    url, upstream, _ = proxied
    images = torch.linspace(-1, 1, 64).reshape(1, *SHAPE)
    upstream.reply = lambda _: web.json_response(
        {"outputs": [{"name": "y", "datatype": "FP64", "shape": [1, 10], "data": list(range(10))}]}
    )
    entry = {"name": "x", "datatype": "FP64", "shape": [1, *SHAPE], "data": memoryview(images.double().numpy()).cast("B")}
    body, length = packed({"inputs": [entry]})
    answer = requests.post(url + INFER, data=body, headers={LENGTH: str(length)}, timeout=10).json()
    (reached,) = unpacked(upstream.got[0].body, upstream.got[0].headers[LENGTH.lower()])["inputs"]
    trained = bbfuse.load(folder)
    assert reached["datatype"] == answer["outputs"][0]["datatype"] == "FP64"
    assert torch.equal(torch.frombuffer(bytearray(reached["data"]), dtype=torch.float64).float(), trained.fuse(images).flatten())
    assert answer["outputs"][0]["data"] == trained.head(torch.arange(10.0)[None])[0].tolist()


@pytest.mark.parametrize("range", ["signed", "unit", "levels"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_images_may_come_in_every_form_that_a_run_can_send(range: Any, layout: Any, tmp_path: Path) -> None:
    fuse = Fuse("Filters", (2, 4, 6), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in fuse.parameters():
            parameter.add_(0.1)
    config = RunConfig(chip_seed=0, head="none", remote=RemoteConfig(range=None if range == "levels" else range))
    trained = Trained(config, fuse, Head(), torch.zeros(0, 10))
    images = torch.rand((3, 2, 4, 6), generator=torch.Generator().manual_seed(1)) * 2 - 1
    pixels = Pixels(layout, range)
    body, length, count = fused(trained, packed({"inputs": [named_tensor("x", pixels.encoded(images))]})[0], None)
    received = json.loads(body)["inputs"][0]
    assert (count, length) == (3, len(body))
    assert received["shape"] == list(pixels.encoded(images).shape)
    seen = ((images + 1.0) * 127.5).round() / 127.5 - 1.0 if range == "levels" else images
    expected = pixels.encoded(trained.fuse(seen)).flatten()
    assert torch.allclose(torch.tensor(received["data"], dtype=expected.dtype), expected, rtol=0.0, atol=1e-6)
    with pytest.raises(InputError, match=r"inputs\[0\].shape must be \[n, 2, 4, 6\]"):
        fused(trained, packed({"inputs": [named_tensor("x", images.permute(0, 1, 3, 2))]})[0], None)
    if range == "unit":
        with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
            fused(trained, packed({"inputs": [named_tensor("x", pixels.encoded(images) - 0.5)]})[0], None)


def test_without_a_head_answers_are_passed_on_byte_for_byte(tmp_path: Path) -> None:
    upstream = Upstream(reply=lambda _: web.Response(text='{"outputs" :  ["two", 2 ]}'))
    trained = bbfuse.load(run_folder(tmp_path / "none", "none"))
    with running(upstream.app()) as direct, running(application(trained, direct + "/base/", "m", 1.0)) as proxy:
        body = request_body(torch.zeros(1, *SHAPE), NOMINAL)
        response = requests.post(f"{proxy}/v2/models/m/versions/3/infer?a=b%20c", json=body, timeout=10)
    assert response.text == '{"outputs" :  ["two", 2 ]}'
    assert upstream.got[0].path == "/base/v2/models/m/versions/3/infer?a=b%20c"
    assert torch.equal(tensor_of(json.loads(upstream.got[0].body)["inputs"], "inputs"), trained.fuse(torch.zeros(1, *SHAPE)))


OWN = {"Authorization": "Bearer secret", "X-Request-Id": "7", "Cookie": "a=b", "traceparent": "00-1-2-03"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v2", b""),
        ("GET", "/v2/health/live", b""),
        ("GET", "/v2/models/digits?verbose=1", b""),
        ("GET", "/v2/models/digits/infer", b""),
        ("POST", "/v2/models/another/infer", b'{"inputs": [ 1e400, "as it is" ]}'),
        ("POST", "/v2/repository/index", b"{ }"),
        ("PUT", "/any%2Fthing/%C3%A9", bytes(range(256))),
        ("DELETE", "/v2/models/digits", b""),
        ("HEAD", "/v2", b""),
    ],
)
def test_everything_else_is_passed_on_as_it_is(proxied: tuple[str, Upstream, str], method: str, path: str, body: bytes) -> None:
    url, upstream, direct = proxied

    def reply(got: Got) -> web.Response:
        headers = {"X-Served-By": "me", "Location": "http://elsewhere/", "Content-Type": "text/odd", "Content-Encoding": "odd"}
        return web.Response(status=307, reason="Go Away", headers=headers, body=b"<" + got.body + b">")

    upstream.reply = reply
    answers = [
        requests.request(method, address + path, data=body or None, headers=OWN, timeout=10, allow_redirects=False)
        for address in (direct, url)
    ]
    first, second = upstream.got
    own_address = first.headers.pop("host"), second.headers.pop("host")
    assert own_address == (direct.removeprefix("http://"), direct.removeprefix("http://"))
    assert first.headers.pop("connection") == "keep-alive"  # of the hop
    assert first == second
    assert (second.method, second.path, second.body) == (method, path, body)
    plain, passed = ({k: v for k, v in answer.headers.items() if k not in ("Date", "Server")} for answer in answers)
    assert plain == passed
    assert (answers[0].status_code, answers[0].reason, answers[0].content) == (
        answers[1].status_code, answers[1].reason, answers[1].content,
    )  # fmt: skip


def test_headers_and_the_rest_of_the_body_go_with_an_inference(proxied: tuple[str, Upstream, str]) -> None:
    url, upstream, _ = proxied
    upstream.reply = classifier(False)
    headers = {**OWN, "Connection": "X-Hop", "X-Hop": "1"}
    assert requests.post(url + INFER, json=INFERENCE, headers=headers, timeout=10).status_code == 200
    (got,) = upstream.got
    assert {name: got.headers[name.lower()] for name in OWN} == OWN
    assert "x-hop" not in got.headers
    reached = json.loads(got.body)
    assert {**reached, "inputs": None} == {**INFERENCE, "inputs": None}


def test_the_command_serves_a_population_calibrated_for_the_chip_behind_the_server(
    server: OwnServer, network: nn.Module, digits: Dataset, tmp_path: Path
) -> None:
    path = run_folder(tmp_path / "population", "standardize", None)
    images, chip, simulator = digits.test.images[:4], Chip(0.05, 11), Simulator(network)
    with command("--run", str(path), "--upstream", server.url, "--chip-seed", "11") as url:
        answer = requests.post(url + INFER, json=request_body(images, chip), timeout=10).json()
    trained = bbfuse.load(path)
    trained.calibrate(simulator.logits(digits.train.images[:20], chip))
    assert torch.equal(tensor_of(answer["outputs"], "outputs"), trained(images, lambda fused: simulator.logits(fused, chip)))
