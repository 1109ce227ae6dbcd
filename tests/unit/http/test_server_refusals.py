"""What the reference server refuses: bodies, paths, requests and flags, each in one line and at little cost."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from torch import Tensor, nn

from backends.base import Chip, Sending
from backends.http.codecs.oip_binary import LENGTH
from backends.http.codecs.oip_json import named_tensor
from backends.server.app import application
from backends.server.command import main
from backends.server.limits import Limits
from tests.helpers.http.reference_server import GOOD, IMAGES, Broken, Served


def shaped(shape: Any, data: Any = (0.0,)) -> dict[str, Any]:
    return {"inputs": [{"name": "images", "datatype": "FP32", "shape": shape, "data": data}]}


def changed(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"\x00\xff garbage", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (shaped([2**40, 1, 8, 8]), 400, "must hold"),
        (shaped([2**62] * 4), 400, "must hold"),
        (shaped([1, 2**62, 2**62, 2**62]), 400, "must hold"),
        (shaped([2**63, 1, 8, 8]), 400, "list of sizes"),
        (shaped([65, 1, 8, 8], [0.0] * 65 * 64), 413, "may have 64 images, got 65"),
        (shaped([-1, 1, 8, 8]), 400, "list of sizes"),
        (shaped([1, -1, -8, 8]), 400, "list of sizes"),
        (shaped([1] * 100_000), 400, "at most 8 sizes"),
        (shaped([[[[1]]]]), 400, "list of sizes"),
        (shaped([1, 1, 8, 8], "zero"), 400, "must be a list"),
        (shaped([1, 1, 8, 8], [[0.0], [[0.0]]]), 400, "must be numbers"),
        (b'{"inputs": ' + b"[" * 500_000, 400, "not JSON"),
        (b'{"inputs": ' * 999, 400, "not JSON"),
        (b'{"inputs": ' * 90_000, 400, "more than 1000 objects"),
        (b'{"inputs": [{"name": "images", "shape": ' + b"[" * 900 + b"]" * 900 + b"}]}", 400, "datatype must be FP32"),
        (
            b'{"inputs": [{"name": "images", "datatype": "FP32", "shape": ' + b"[" * 900 + b"]" * 900 + b"}]}",
            400,
            "list of sizes",
        ),
        (
            b'{"inputs": [{"name": "images", "datatype": "FP32", "shape": [1], "data": ' + b"[" * 900 + b"]" * 900 + b"}]}",
            400,
            "must be numbers",
        ),
        (b'{"id": ' + b"9" * 100_000 + b"}", 400, "not JSON"),
        (b" " * (1 << 20) + b"{}", 413, "the body may have 1048576 bytes"),
        (changed(id=7), 400, "id must be a string"),
        (changed(id="\ud800", outputs=[{"name": "\ud800\n"}]), 400, "outputs[0].name must be logits"),
        (changed(outputs=[{"name": "logits"}] * 2), 400, "at most one output"),
        (
            changed(outputs=[{"name": "logits", "parameters": {"binary_data": "yes"}}]),
            400,
            "binary_data must be true or false, got 'yes'",
        ),
        (changed(outputs=[{"name": "logits", "parameters": []}]), 400, "must be an object"),
        (changed(parameters=[]), 400, "parameters must be an object"),
        (changed(parameters={"chip_seed": 2**64}), 400, "at most 64 bits"),
        (changed(parameters={"binary_data_output": 1}), 400, "parameters.binary_data_output must be true or false, got 1"),
        (changed(inputs=[{**named_tensor("images", IMAGES), "name": None}]), 400, "inputs[0].name must be images, got None"),
        (changed(inputs=[named_tensor("pixels", IMAGES)]), 400, "inputs[0].name must be images"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_the_protocols_shape(served: Served, body: Any, status: int, words: str) -> None:
    answer = served.infer(body)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert len(answer.content) < 400


def chunks() -> Iterator[bytes]:
    """A body whose length nobody says."""
    for _ in range(100):
        yield b" " * 65536


def test_a_body_of_unknown_length_ends_at_the_limit(served: Served) -> None:
    answer = requests.post(f"{served.url}/v2/models/digits/infer", data=chunks(), timeout=30)
    assert (answer.status_code, answer.json()) == (413, {"error": "the body may have 1048576 bytes"})


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/v2/", 404), ("GET", "/v2/models/nobody", 404), ("GET", "/v2/models/digits/versions/2", 404),
        ("POST", "/v2/models/digits/versions/2/infer", 404), ("GET", "/v2/models/digits/infer", 405), ("DELETE", "/v2", 405),
    ],
)  # fmt: skip
def test_the_frameworks_own_refusals_have_the_protocols_shape(served: Served, verb: str, path: str, status: int) -> None:
    answer = requests.request(verb, served.url + path, timeout=9)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("sent", "status"), [(b"garbage\r\n\r\n", b"400"), (b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 1_000_000, b"431")]
)
def test_what_is_no_http_is_refused_in_the_protocols_shape(served: Served, sent: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=9) as connection:
        try:
            connection.sendall(sent)
        except OSError:
            return  # refused while it was still being sent
        got = b""
        try:
            while piece := connection.recv(4096):
                got += piece
        except OSError:
            pass
    head, _, body = got.partition(b"\r\n\r\n")
    assert not got or (head.split()[1] == status and list(json.loads(body)) == ["error"])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nan", "nan gave logits that are not finite"),
        ("failing", "no answer came"),
        ("buggy", "internal error (ZeroDivisionError)"),
    ],
)
def test_a_target_that_fails_is_told_from_a_bad_request(served: Served, model: str, words: str) -> None:
    answer = served.infer(GOOD, model)
    assert (answer.status_code, answer.json()) == (500, {"error": words})
    assert served.infer(GOOD).status_code == 200


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--api-key-env BBFUSE_NO_SUCH", "--api-key-env BBFUSE_NO_SUCH must name an environment variable that holds a key"),
        ("--api-key-env BBFUSE_BAD", "must name an environment variable that holds a key of plain characters"),
        ("--target digits digits", "--target must name each target once"),
        ("--target digits resnet20 --data digits digits digits", "one for each of 2 targets, got 3"),
        ("--target digits resnet20", "resnet20 takes images (3, 32, 32), but --data has (1, 8, 8)"),
        ("--limits.batch-size 0", "--limits.batch-size must be greater than 0, got 0"),
        ("--limits.seconds nan", "--limits.seconds must be greater than 0, got nan"),
    ],
)
def test_flags_that_cannot_be_served_are_refused_in_one_line(
    flags: str, words: str, network: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BBFUSE_BAD", "line\nbreak")
    monkeypatch.setattr(sys, "argv", ["server", *flags.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in said
    assert said.count("\n") == 1
    assert "line" not in said.replace("one line", "")


class Waiting(Broken):
    """A target that answers when it is let."""

    def __init__(self) -> None:
        super().__init__("waiting")
        self.asked, self.let = threading.Event(), threading.Event()

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        self.asked.set()
        self.let.wait(30)
        return torch.zeros(len(images), 10)


def test_more_requests_than_it_takes_are_told_to_come_again() -> None:
    target = Waiting()
    server = Served(application([target], limits=Limits(requests=1)))
    answers: list[int] = []
    first = threading.Thread(target=lambda: answers.append(server.infer(GOOD, "waiting").status_code))
    first.start()
    try:
        assert target.asked.wait(30)
        second = server.infer(GOOD, "waiting")
        assert (second.status_code, second.headers["Retry-After"]) == (503, "1")
        assert list(second.json()) == ["error"]
        assert requests.get(f"{server.url}/v2/health/live", timeout=9).status_code == 200
    finally:
        target.let.set()
        first.join()
        server.close()
    assert answers == [200]


def test_a_body_that_never_ends_is_given_up() -> None:
    server = Served(application([Broken("digits")], limits=Limits(seconds=0.2)))
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=9) as connection:
            connection.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            assert b"408" in connection.recv(4096).split(b"\r\n")[0]
    finally:
        server.close()


BODY = 1 << 20
GREEDY = [b"[],", b"[" * 300 + b"]" * 300 + b",", b"0.1,"]
"""What takes few bytes in a body and many in Python."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
def test_no_body_takes_more_memory_than_sixty_times_its_bytes(network: nn.Module) -> None:
    command = [sys.executable, "-m", "backends.server", "--limits.body-bytes", str(BODY), "--stop-with-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"{process.stdout.readline().strip()}/v2/models/digits/infer"

        def most_bytes() -> int:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

        assert requests.post(url, json=GOOD, timeout=30).status_code == 200
        before = most_bytes()
        for piece in GREEDY:
            for start, end in (
                (b'{"inputs": [', b"0]}"),
                (b'{"inputs": [{"name": "images", "datatype": "FP32", "shape": [1], "data": [', b"0]}]}"),
            ):
                body = start + piece * ((BODY - len(start + end)) // len(piece)) + end
                answer = requests.post(url, data=body, timeout=60)
                assert (answer.status_code, list(answer.json())) == (400, ["error"])
        huge = json.dumps(
            {"inputs": [{"name": "images", "datatype": "FP32", "shape": [2**40, 1, 8, 8], "parameters": {"binary_data_size": 4}}]}
        )
        answer = requests.post(url, data=huge + "abcd", headers={LENGTH: str(len(huge))}, timeout=30)
        assert answer.status_code == 400
        grown = most_bytes() - before
        process.terminate()
    assert grown < 60 * BODY
