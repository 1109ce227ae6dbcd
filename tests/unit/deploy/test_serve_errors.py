"""What the proxy refuses, and what it says when the server behind it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web

import bbfuse
from backends.base import InputError
from bbfuse.deploy.proxy import application
from bbfuse.deploy.serving import main
from tests.helpers.http.upstream import INFER, INFERENCE, Upstream, running
from tests.helpers.runs import run_folder


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
    response = requests.post(url + INFER, json=INFERENCE, timeout=10)
    assert (response.status_code, response.text, response.headers["Retry-After"]) == (status, text, "3")
    assert response.headers["Content-Type"].startswith(kind)


def _changed(**entry: Any) -> bytes:
    return json.dumps({"inputs": [{**INFERENCE["inputs"][0], **entry}]}).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"inputs": []}', "inputs must be a list of one tensor"),
        (json.dumps({"inputs": 2 * INFERENCE["inputs"]}).encode(), "inputs must be a list of one tensor"),
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
    response = requests.post(url + INFER, json=INFERENCE, timeout=10)
    assert response.status_code == 502
    assert words in response.json()["error"]


def test_a_server_that_is_slow_or_gone_is_said_in_the_protocols_shape(proxied: tuple[str, Upstream, str], folder: Path) -> None:
    url, upstream, _ = proxied
    upstream.pause = 1.5
    for call in (requests.post(url + INFER, json=INFERENCE, timeout=10), requests.get(url + "/v2", timeout=10)):
        assert call.status_code == 504
        assert "sent no response within 1 seconds" in call.json()["error"]
    with running(application(bbfuse.load(folder), "http://127.0.0.1:1", "digits", 1.0)) as proxy:
        for call in (requests.post(proxy + INFER, json=INFERENCE, timeout=10), requests.get(proxy + "/v2", timeout=10)):
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
        assert requests.post(proxy + INFER, json=INFERENCE, timeout=10).status_code == 502


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
