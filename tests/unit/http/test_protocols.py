"""Images and chips reach a server as its protocol has them, its answers come back, a mismatch is said before anything is paid."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backends.base import Access, Chip, InputError
from backends.http.backend import RemoteBackend
from backends.http.codecs.base import Dialect, Message, RefusedError
from backends.http.codecs.oip_binary import LENGTH, packed, unpacked
from backends.http.codecs.oip_json import named_tensor
from backends.http.codecs.sizes import sizes
from backends.http.codecs.tensorflow import TensorFlow
from backends.http.discovery import DiscoveryOverrides as Overrides
from backends.http.discovery import found
from backends.kinds.remote import RemoteConfig
from backends.memory.simulator import Simulator
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig
from bbfuse.execution import execute
from tests.helpers.http.faults import script

CHIP = Chip(0.05, 7)
IMAGES = torch.rand((3, 3, 4, 5), generator=torch.Generator().manual_seed(0)) * 2 - 1
LOGITS = torch.randn((3, 6), generator=torch.Generator().manual_seed(1))
SHAPE = (3, 4, 5)


def metadata(datatype: str = "FP32", shape: Any = (-1, 3, 4, 5), classes: Any = (-1, 6), **more: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "pixels", "datatype": datatype, "shape": shape and list(shape)}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": classes and list(classes)}],
        **more,
    }


def signature(dtype: str = "DT_FLOAT", shape: Any = (-1, 4, 5, 3), classes: Any = (-1, 6)) -> dict[str, Any]:
    def tensor(kind: str, sides: Any) -> dict[str, Any]:
        return {"dtype": kind, "tensor_shape": {"dim": [{"size": str(side), "name": ""} for side in sides]}, "name": "x:0"}

    serving = {"inputs": {"x": tensor(dtype, shape)}, "outputs": {"y": tensor("DT_FLOAT", classes)}}
    return {"model_spec": {"name": "m"}, "metadata": {"signature_def": {"signature_def": {"serving_default": serving}}}}


def server(pages: dict[str, Any]) -> Any:
    def get(path: str) -> Any:
        if path not in pages:
            raise RefusedError(404, f"HTTP 404 no {path}")
        return pages[path]

    return get


OIP = {"/v2/models/m": metadata()}
BINARY = {"/v2": {"extensions": ["binary_tensor_data"]}}
TEMPLATE = '{"input": {"batch": "{images}", "note": "{images} stay"}, "chip": ["{bit_error_rate}", "{chip_seed}"], "top": 3}'
MAPPED = Overrides(request=TEMPLATE, response="result[0].scores", image_shape=SHAPE, classes=6)

# what the server says, what the user says; layout, range and binary that come of it
CASES: dict[str, tuple[dict[str, Any], Overrides, tuple[str, str, bool]]] = {
    "json": (OIP, Overrides(), ("nchw", "signed", False)),
    "binary, as the server can": (OIP | BINARY, Overrides(), ("nchw", "signed", True)),
    "json, as the user wants": (OIP | BINARY, Overrides("oip"), ("nchw", "signed", False)),
    "binary, as the user wants": (OIP, Overrides("oip-binary"), ("nchw", "signed", True)),
    "channels last": (OIP | {"/v2/models/m": metadata(shape=(-1, 4, 5, 3))}, Overrides(), ("nhwc", "signed", False)),
    "channels last and levels, binary": (
        {"/v2/models/m": metadata("UINT8", (-1, 4, 5, 3))} | BINARY, Overrides(), ("nhwc", "levels", True)
    ),
    "unit": (OIP, Overrides(range="unit"), ("nchw", "unit", False)),
    "no shapes": (
        {"/v2/models/m": metadata(shape=None, classes=None)}, Overrides(layout="nhwc", image_shape=SHAPE, classes=6),
        ("nhwc", "signed", False),
    ),
    "no tensors": (
        {"/v2/models/m": {"name": "m", "inputs": []}}, Overrides(image_shape=SHAPE, classes=6), ("nchw", "signed", False)
    ),
    "free shapes": (
        {"/v2/models/m": metadata(shape=(-1, 3, -1, -1), classes=(-1, -1))}, Overrides(image_shape=SHAPE, classes=6),
        ("nchw", "signed", False),
    ),
    "tensorflow, found": ({"/v1/models/m/metadata": signature()}, Overrides(), ("nhwc", "signed", False)),
    "tensorflow, levels": ({"/v1/models/m/metadata": signature("DT_UINT8")}, Overrides("tensorflow"), ("nhwc", "levels", False)),
    "tensorflow's form without metadata": (
        {}, Overrides("tensorflow", "nhwc", "levels", image_shape=SHAPE, classes=6), ("nhwc", "levels", False)
    ),
    "any json": ({}, MAPPED, ("nchw", "signed", False)),
    "any json, levels last": ({}, dataclasses.replace(MAPPED, layout="nhwc", range="levels"), ("nhwc", "levels", False)),
}  # fmt: skip


def received(dialect: Dialect, request: Message) -> tuple[Tensor, Chip | None]:
    """Pixels and chip as a server of that protocol reads them."""
    if isinstance(dialect, TensorFlow):
        return torch.tensor(json.loads(request.body)["instances"]), None
    if not dialect.path:
        content = json.loads(request.body)
        assert content["input"]["note"] == "{images} stay"
        assert content["top"] == 3
        return torch.tensor(content["input"]["batch"]), Chip(*content["chip"])
    content = unpacked(request.body, request.headers.get(LENGTH))
    (tensor,) = content["inputs"]
    assert tensor["name"] == dialect.input  # type: ignore[attr-defined]
    dtype = {"FP32": torch.float32, "UINT8": torch.uint8}[tensor["datatype"]]
    data = tensor["data"]
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if isinstance(data, memoryview) else torch.tensor(data, dtype=dtype)
    assert isinstance(data, memoryview) == dialect.binary
    chip = Chip(content["parameters"]["bit_error_rate"], content["parameters"]["chip_seed"])
    return flat.reshape(tensor["shape"]), chip


def answered(dialect: Dialect) -> Message:
    """`LOGITS` as a server of that protocol writes them."""
    if isinstance(dialect, TensorFlow):
        return Message(json.dumps({"predictions": LOGITS.tolist()}).encode(), {})
    if not dialect.path:
        return Message(json.dumps({"result": [{"scores": LOGITS.tolist()}]}).encode(), {})
    body, length = packed({"outputs": [named_tensor("scores", LOGITS, dialect.binary)]})
    return Message(body, {LENGTH: str(length)} if dialect.binary else {})


@pytest.mark.parametrize("name", CASES)
def test_what_is_asked_arrives_and_what_is_answered_comes_back(name: str) -> None:
    pages, overrides, (layout, span, binary) = CASES[name]
    dialect = found(server(pages), "m", overrides)
    eight_bits = span == "levels"
    assert (dialect.info.access, dialect.info.image_shape, dialect.info.classes) == (Access.LOGITS, SHAPE, 6)
    assert (dialect.info.eight_bits, dialect.binary) == (eight_bits, binary)
    pixels, chip = received(dialect, dialect.encode(IMAGES, CHIP))
    if layout == "nhwc":
        pixels = pixels.permute(0, 3, 1, 2)
    back = {"signed": pixels, "unit": pixels * 2.0 - 1.0, "levels": pixels / 127.5 - 1.0}[span]
    torch.testing.assert_close(back, dialect.info.seen(IMAGES), rtol=0.0, atol=0.0 if span == "signed" else 1e-6)
    assert chip in (CHIP, None)
    assert (chip is None) == isinstance(dialect, TensorFlow)
    assert torch.equal(dialect.decode(answered(dialect)), LOGITS)


@pytest.mark.parametrize("name", CASES)
def test_the_size_of_a_request_is_foretold(name: str) -> None:
    dialect = found(server(CASES[name][0]), "m", CASES[name][1])
    many = torch.rand((200, *SHAPE), generator=torch.Generator().manual_seed(3)) * 2 - 1
    up, _ = sizes(dialect, many[:64])
    assert up.of(1, 200) == pytest.approx(len(dialect.encode(many, CHIP).body), rel=0.02)


def test_the_input_is_called_as_the_server_calls_it() -> None:
    dialect = found(server(OIP), "m", Overrides())
    assert json.loads(dialect.encode(IMAGES, CHIP).body)["inputs"][0]["name"] == "pixels"


def test_what_a_server_does_not_say_is_told() -> None:
    def told(name: str) -> str | None:
        return found(server(CASES[name][0]), "m", CASES[name][1]).assumed

    assert told("json") is None
    assert "(3, 4, 5), sent as nhwc, 6 classes" in str(told("no shapes"))
    assert "cannot name a chip" in str(told("tensorflow, found"))
    assert "taken from the data set" in str(told("any json"))


@pytest.mark.parametrize(
    ("pages", "overrides", "words"),
    [
        ({}, Overrides(), "no /v2/models/m"),
        ({}, Overrides("oip"), "no /v2/models/m"),
        ({}, Overrides("tensorflow"), "do not say which images"),
        ({"/v2/models/m": []}, Overrides(), "not the metadata of a model"),
        ({"/v2/models/m": {"detail": "hello"}}, Overrides(image_shape=SHAPE, classes=6), "not the metadata of a model"),
        ({"/v2/models/m": {"name": "m", "inputs": []}}, Overrides(), "do not say which images"),
        ({"/v2/models/m": {"name": "m", "inputs": {}}}, Overrides(), "one tensor as inputs, got none"),
        ({"/v2/models/m": {"inputs": [{}, {}], "outputs": [{}]}}, Overrides(), "one tensor as inputs, got 2"),
        ({"/v2/models/m": metadata("BYTES")}, Overrides(), "its input is BYTES, neither FP32 nor UINT8"),
        ({"/v2/models/m": metadata(shape=(-1, 784))}, Overrides(), "shape .*784.*, not that of images"),
        ({"/v2/models/m": metadata(shape=(-1, -1))}, Overrides(), "shape .*, not that of images"),
        ({"/v2/models/m": metadata(classes=(-1, 6, 2))}, Overrides(), "not a row of classes"),
        ({"/v2/models/m": metadata(shape=(-1, 3, -1, -1))}, Overrides(), "do not say which images"),
        ({"/v2/models/m": metadata(classes=None)}, Overrides(), "do not say how many classes"),
        (
            {"/v2/models/m": metadata("UINT8")},
            Overrides(range="unit"),
            "`remote.range=unit` does not fit m, .*remove it",
        ),
        (OIP, Overrides(range="levels"), "`remote.range=levels` does not fit m, which takes floating-point"),
        ({"/v1/models/m/metadata": signature("DT_STRING")}, Overrides(), "its input is DT_STRING"),
        ({"/v1/models/m/metadata": {"metadata": {}}}, Overrides(), "there is no signature_def"),
        ({}, dataclasses.replace(MAPPED, request="{"), "`remote.request` must be JSON or a file"),
        ({}, dataclasses.replace(MAPPED, request="nowhere.json"), "`remote.request` must be JSON or a file"),
        ({}, dataclasses.replace(MAPPED, request='{"x": 1}'), 'must have "{images}".*got none'),
        ({}, dataclasses.replace(MAPPED, request='{"x": "{images}", "y": "{voltage}"}'), "got {images} {voltage}"),
        ({}, dataclasses.replace(MAPPED, response="a..b"), "`remote.response` must be a path"),
        ({}, dataclasses.replace(MAPPED, response="a[b]"), "`remote.response` must be a path"),
    ],
)
def test_a_mismatch_is_one_line_before_anything_is_paid(pages: dict[str, Any], overrides: Overrides, words: str) -> None:
    with pytest.raises((RefusedError, ValueError), match=words) as error:
        found(server(pages), "m", overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("", LOGITS.tolist()),
        ("[1]", [0, LOGITS.tolist()]),
        ("a.b-c[0][1].d", {"a": {"b-c": [[0, {"d": LOGITS.tolist()}]]}}),
        ("outputs[0].data", {"outputs": [{"data": LOGITS.flatten().tolist()}]}),
    ],
)
def test_a_path_leads_to_the_logits(path: str, answer: Any) -> None:
    dialect = found(server({}), "m", dataclasses.replace(MAPPED, response=path))
    assert torch.equal(dialect.decode(Message(json.dumps(answer).encode(), {})), LOGITS)
    for wrong in (b"{}", b"[]", b"3", b'{"a": {"b-c": "x"}}', b'{"outputs": [{"data": ["x"]}]}'):
        try:
            assert dialect.decode(Message(wrong, {})).shape != LOGITS.shape
        except ValueError as error:
            assert "\n" not in str(error)


def as_an_api(network: nn.Module) -> Any:
    """A JSON API of nobody's protocol: pixels in [0, 1], channels last."""
    simulator = Simulator(network)

    def answer(request: Any) -> tuple[int, bytes]:
        pixels = torch.tensor(request["input"]["batch"], dtype=torch.float32).permute(0, 3, 1, 2)
        scores = simulator.logits(pixels * 2.0 - 1.0, Chip(*request["chip"]))
        return 200, json.dumps({"result": [{"scores": scores.tolist()}]}).encode()

    return answer


def test_any_api_is_trained_against_by_two_flags(network: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "request.json").write_text(TEMPLATE)
    with script({}, [as_an_api(network)]) as (url, got):
        remote = RemoteConfig(
            url=f"{url}/classify?version=2", request=str(tmp_path / "request.json"), response="result[0].scores",
            layout="nhwc", range="unit", watch=0,
        )  # fmt: skip
        config = RunConfig(
            backend="remote", chip_seed=1, budget=3_000, remote=remote, out=tmp_path / "run", report=ReportConfig(images=100)
        )
        summary = execute(config)
    local = dataclasses.replace(config, backend="local", remote=RemoteConfig(), out=tmp_path / "local")
    assert summary["queries"]["requests"] == len(got)
    same = execute(local)
    assert summary["queries"] == same["queries"]
    for key, spread in same["accuracy"].items():  # (x + 1) / 2 rounds the last bit of a pixel
        assert summary["accuracy"][key] == pytest.approx(spread, abs=0.05), key
    assert "images (1, 8, 8), sent as nhwc, 10 classes" in capfd.readouterr().err


def test_tensorflow_serving_is_found_over_http(network: nn.Module) -> None:
    images = torch.rand((5, 1, 8, 8), generator=torch.Generator().manual_seed(2)) * 2 - 1

    def predict(request: Any) -> tuple[int, bytes]:
        pixels = torch.tensor(request["instances"], dtype=torch.float32)
        return 200, json.dumps({"predictions": Simulator(network).logits(pixels, Chip(0.0)).tolist()}).encode()

    with script({}, [predict]) as (url, _):
        overrides = Overrides("tensorflow", image_shape=(1, 8, 8), classes=10)
        with pytest.raises(InputError, match="does not describe an image classifier called digits: there is no metadata"):
            RemoteBackend(url, "digits", overrides=overrides)
    with script(signature(shape=(-1, 1, 8, 8), classes=(-1, 10)), [predict]) as (url, _):
        answers = RemoteBackend(url, "digits", overrides=overrides).query(images, CHIP, lambda _: None)
    assert torch.equal(answers, Simulator(network).logits(images, Chip(0.0)))
