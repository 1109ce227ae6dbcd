"""The proxy: the numbers of the fuse in process, and nothing else between a client and its server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from bbfuse.deploy.serving import main
from bbfuse.deploy.trained import Trained
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from tests.helpers.runs import run_folder
from tests.helpers.servers import command

SHAPE = (1, 8, 8)
INFER = "/v2/models/digits/infer"
CHIP = Chip(0.05, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("run") / "affine")


@contextlib.contextmanager
def running(app: web.Application) -> Iterator[str]:
    """The address of ``app``, served from a thread of its own."""
    loop, runner = asyncio.new_event_loop(), web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> str:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class Got:
    """A request as it reached the server."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Upstream:
    """A server that keeps what it is sent and answers as told."""

    reply: Callable[[Got], web.Response] = lambda _: web.json_response({})
    got: list[Got] = field(default_factory=list)
    pause: float = 0.0

    def app(self) -> web.Application:
        async def handle(request: web.Request) -> web.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.got.append(Got(request.method, request.raw_path, headers, await request.read()))
            await asyncio.sleep(self.pause)
            return self.reply(self.got[-1])

        app = web.Application(client_max_size=1 << 28)
        app.router.add_route("*", "/{path:.*}", handle)
        return app


@pytest.fixture(scope="module")
def stage(folder: Path) -> Iterator[tuple[str, Upstream, str]]:
    """The proxy's address, the server behind it, and that one's address."""
    upstream = Upstream()
    with running(upstream.app()) as direct, running(application(bbfuse.load(folder), direct, "digits", 1.0)) as proxy:
        yield proxy, upstream, direct


@pytest.fixture
def proxied(stage: tuple[str, Upstream, str]) -> tuple[str, Upstream, str]:
    _, upstream, _ = stage
    upstream.got.clear()
    upstream.pause = 0.0
    upstream.reply = lambda _: web.json_response({})
    return stage


def logits_of(images: Tensor) -> Tensor:
    """A target: ten pixels."""
    return 3.0 * images.flatten(1)[:, 20:30]


def classifier(binary: bool) -> Callable[[Got], web.Response]:
    """Answers with `logits_of` the images that came."""

    def reply(got: Got) -> web.Response:
        content = unpacked(got.body, got.headers.get(LENGTH.lower()))
        output = named_tensor("logits", logits_of(tensor_of(content["inputs"], "inputs")), binary)
        answer = {"model_name": "digits", "model_version": "7", "parameters": {"x": [1]}, "outputs": [output]}
        body, length = packed({**answer, "outputs": [{**output, "parameters": {"content_type": "np"}}]})
        return web.Response(body=body, headers={LENGTH: str(length), "X-Served-By": "me"} if binary else {})

    return reply


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


GOOD = {**request_body(torch.zeros(1, *SHAPE), CHIP), "id": "abc", "outputs": [{"name": "logits", "parameters": {"k": 1}}]}


def test_headers_and_the_rest_of_the_body_go_with_an_inference(proxied: tuple[str, Upstream, str]) -> None:
    url, upstream, _ = proxied
    upstream.reply = classifier(False)
    headers = {**OWN, "Connection": "X-Hop", "X-Hop": "1"}
    assert requests.post(url + INFER, json=GOOD, headers=headers, timeout=10).status_code == 200
    (got,) = upstream.got
    assert {name: got.headers[name.lower()] for name in OWN} == OWN
    assert "x-hop" not in got.headers
    reached = json.loads(got.body)
    assert {**reached, "inputs": None} == {**GOOD, "inputs": None}


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (400, "application/json", '{"error":  "bad"}'),
        (422, "application/json", '{"detail": [{"msg": "field required"}]}'),
        (500, "text/plain", "Traceback (most recent call last):\n  ..."),
        (429, "application/json", "{}"),
        (204, "text/plain", ""),
    ],
)
def test_errors_of_the_server_are_passed_on(proxied: tuple[str, Upstream, str], status: int, kind: str, text: str) -> None:
    url, upstream, _ = proxied
    upstream.reply = lambda _: web.Response(status=status, text=text, content_type=kind, headers={"Retry-After": "3"})
    response = requests.post(url + INFER, json=GOOD, timeout=10)
    assert (response.status_code, response.text, response.headers["Retry-After"]) == (status, text, "3")
    assert response.headers["Content-Type"].startswith(kind)


def _changed(**entry: Any) -> bytes:
    return json.dumps({"inputs": [{**GOOD["inputs"][0], **entry}]}).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"inputs": []}', "inputs must be a list of one tensor"),
        (json.dumps({"inputs": 2 * GOOD["inputs"]}).encode(), "inputs must be a list of one tensor"),
        (_changed(datatype="BYTES"), "datatype must be FP32"),
        (_changed(shape=[1, 64]), r"shape must be [n, 1, 8, 8]"),
        (_changed(shape=[0, 1, 8, 8], data=[]), r"n > 0"),
        (_changed(data=[2.0] * 64), "must lie in [-1, 1]"),
        (_changed(data=[float("nan")] * 64), "must lie in [-1, 1]"),
    ],
)
def test_what_no_fuse_can_be_applied_to_never_reaches_the_server(
    proxied: tuple[str, Upstream, str], body: bytes, words: str
) -> None:
    url, upstream, _ = proxied
    response = requests.post(url + INFER, data=body, timeout=10)
    assert response.status_code == 400
    assert words in response.json()["error"]
    assert upstream.got == []


@pytest.mark.parametrize("path", ["//v2/models/x/../digits/./infer/", "/v2/models/%64igits/versions/1/infer", INFER + "?a=b"])
def test_no_spelling_of_the_path_leads_around_the_fuse(proxied: tuple[str, Upstream, str], path: str) -> None:
    url, upstream, _ = proxied
    request = requests.Request("POST", url, data=b"[]").prepare()
    request.url = url + path  # as it is spelled
    with requests.Session() as session:
        assert session.send(request, timeout=10).status_code == 400
    assert upstream.got == []


def test_a_body_beyond_the_limit_is_refused_in_the_protocols_shape(proxied: tuple[str, Upstream, str]) -> None:
    url, upstream, _ = proxied
    response = requests.post(url + INFER, data=bytes((64 << 20) + 1), timeout=30)
    assert (response.status_code, response.json()["error"]) == (413, "the body may have 67108864 bytes")
    assert upstream.got == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("<html>", "the body is not JSON"),
        ("{}", "outputs must be a list of one tensor"),
        ('{"outputs": [{"datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}', r"shape must be [1, 10], got [1, 3]"),
    ],
)
def test_what_is_no_answer_is_a_bad_gateway(proxied: tuple[str, Upstream, str], answer: str, words: str) -> None:
    url, upstream, _ = proxied
    upstream.reply = lambda _: web.Response(text=answer)
    response = requests.post(url + INFER, json=GOOD, timeout=10)
    assert response.status_code == 502
    assert words in response.json()["error"]


def test_a_server_that_is_slow_or_gone_is_said_in_the_protocols_shape(proxied: tuple[str, Upstream, str], folder: Path) -> None:
    url, upstream, _ = proxied
    upstream.pause = 1.5
    for call in (requests.post(url + INFER, json=GOOD, timeout=10), requests.get(url + "/v2", timeout=10)):
        assert call.status_code == 504
        assert "sent no response within 1 seconds" in call.json()["error"]
    with running(application(bbfuse.load(folder), "http://127.0.0.1:1", "digits", 1.0)) as proxy:
        for call in (requests.post(proxy + INFER, json=GOOD, timeout=10), requests.get(proxy + "/v2", timeout=10)):
            assert call.status_code == 502
            assert "http://127.0.0.1:1 cannot be reached" in call.json()["error"]


def test_an_answer_that_breaks_off_breaks_off_at_the_client(folder: Path) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", broken)
    with running(app) as direct, running(application(bbfuse.load(folder), direct, "digits", 1.0)) as proxy:
        with pytest.raises(requests.RequestException):
            requests.get(proxy + "/v2", timeout=10)
        assert requests.post(proxy + INFER, json=GOOD, timeout=10).status_code == 502


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://[", "http://x/?a=b"])
def test_an_upstream_must_be_an_address(folder: Path, url: str) -> None:
    with pytest.raises(InputError, match="--upstream must be an address"):
        application(bbfuse.load(folder), url, "digits", 1.0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--upstream http://127.0.0.1:1", "--run"),
        ("--run nowhere --upstream http://127.0.0.1:1", "--run nowhere holds no fuse.pt"),
        ("--run RUN --upstream http://127.0.0.1:1 --threads 0", "--threads and --timeout must be above 0"),
        ("--run RUN --upstream http://127.0.0.1:1 --port 99999", "--port must lie in [0, 65535]"),
        ("--run RUN --upstream http://127.0.0.1:1 --host 192.0.2.1", "cannot be listened on"),
        ("--run RUN --upstream http://127.0.0.1:1 --ca nowhere.pem", "--ca nowhere.pem cannot be read"),
        ("--run RUN --upstream http://u:hush@127.0.0.1", "must not hold a name or password"),
        ("--run RUN --upstream http://127.0.0.1:1 --chip-seed 3", "--chip-seed has no effect"),
        ("--run POPULATION --upstream http://127.0.0.1:1", "calibrated for each chip by 20 images sent to the server: give"),
        ("--run POPULATION --upstream http://127.0.0.1:1 --chip-seed 5", "cannot be reached"),
        ("--nonsense", "nonsense"),
    ],
)
def test_bad_input_is_one_line(words: str, told: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"RUN": str(folder)}
    if "POPULATION" in words:
        places["POPULATION"] = str(run_folder(tmp_path / "population", "standardize", None))
    assert main([places.get(word, word) for word in words.split()]) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert "hush" not in err
    assert (out, err.count("\n")) == ("", 1)


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
