"""Bodies with raw tensors: what goes in comes out exactly, and what is no such body is refused in one line."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from backends.base import Chip, InputError
from backends.http.codecs.oip_binary import packed, unpacked
from backends.http.codecs.oip_json import body_sizes, chip_of, named_tensor, request_body, tensor_of

shapes = st.lists(st.integers(0, 4), min_size=1, max_size=4)
chips = st.builds(Chip, st.floats(0, 1), st.integers(0, 2**50))
PIXELS = torch.arange(8.0).reshape(2, 1, 2, 2) / 8
BODY, LENGTH = packed(request_body(PIXELS, Chip(0.05, 3), binary=True))


@given(shapes, st.data(), chips)
def test_numbers_and_chips_survive_as_raw_bytes_exactly(shape: list[int], data: Any, chip: Chip) -> None:
    count = torch.Size(shape).numel()
    values = data.draw(st.lists(st.floats(width=32, allow_nan=False), min_size=count, max_size=count))
    tensor = torch.tensor(values, dtype=torch.float32).reshape(shape)
    body, length = packed(request_body(tensor, chip, binary=True))
    assert len(body) == length + 4 * count
    content = unpacked(bytearray(body), str(length))
    assert torch.equal(tensor_of(content["inputs"], "inputs"), tensor)
    assert chip_of(content["parameters"]) == chip
    answer, length = packed({"model_name": "m", "outputs": [named_tensor("logits", tensor, binary=True)]})
    assert torch.equal(tensor_of(unpacked(answer, str(length))["outputs"], "outputs"), tensor)


def test_the_bytes_are_little_endian_and_row_major_behind_the_object() -> None:
    content = json.loads(BODY[:LENGTH])
    assert content["parameters"] == {"bit_error_rate": 0.05, "chip_seed": 3, "binary_data_output": True}
    assert content["inputs"] == [
        {"name": "images", "datatype": "FP32", "shape": [2, 1, 2, 2], "parameters": {"binary_data_size": 32}}
    ]
    assert BODY[LENGTH : LENGTH + 8] == b"\x00\x00\x00\x00\x00\x00\x00\x3e"  # 0.0, 0.125


def test_256_levels_are_a_byte_each() -> None:
    levels = torch.arange(256).reshape(4, 1, 8, 8) / 127.5 - 1.0
    body, length = packed(request_body(levels, Chip(0.0), eight_bits=True, binary=True))
    assert body[length:] == bytes(range(256))
    assert torch.equal(tensor_of(unpacked(body, str(length))["inputs"], "inputs"), levels)


def test_raw_and_written_tensors_may_stand_side_by_side() -> None:
    entries = [named_tensor("a", PIXELS, True), named_tensor("b", PIXELS), named_tensor("c", -PIXELS, True)]
    body, length = packed({"outputs": entries})
    content = unpacked(body, str(length))["outputs"]
    assert [entry["name"] for entry in content] == ["a", "b", "c"]
    assert [tensor_of([entry], "outputs").sum() for entry in content] == [PIXELS.sum(), PIXELS.sum(), -PIXELS.sum()]


def test_a_body_without_that_header_is_json_alone() -> None:
    content = request_body(PIXELS, Chip(0.05, 3))
    assert unpacked(json.dumps(content).encode(), None) == content


def read(body: bytes, length: str | None) -> None:
    """All that is read of a request."""
    content = unpacked(body, length)
    tensor_of(content.get("inputs"), "inputs")
    chip_of(content.get("parameters"))


def declared(**changes: Any) -> tuple[bytes, str]:
    """A good request with changes in its tensor's entry."""
    content = json.loads(BODY[:LENGTH])
    content["inputs"][0].update(changes)
    header = json.dumps(content).encode()
    return header + BODY[LENGTH:], str(len(header))


@pytest.mark.parametrize(
    ("body", "length", "words"),
    [
        (BODY, None, "not JSON"),
        (BODY[:LENGTH], None, "binary_data_size must be at most the 0 bytes left, got 32"),
        (BODY, "0", "Inference-Header-Content-Length must lie between 1 and"),
        (BODY, str(len(BODY) + 1), "Inference-Header-Content-Length must lie between 1 and"),
        (BODY, "-5", "got '-5'"),
        (BODY, "9" * 5000, "must lie between 1 and"),
        (BODY, str(LENGTH - 1), "not JSON"),
        (BODY, str(LENGTH + 1), "not JSON"),
        (BODY[:-1], str(LENGTH), "must be at most the 31 bytes left, got 32"),
        (BODY + b"x", str(LENGTH), "1 bytes that no binary_data_size declares"),
        (b"[]" + BODY, "2", "must be a JSON object"),
        (*declared(data=[1.0]), "it has both"),
        (*declared(parameters={"binary_data_size": -1}), "got -1"),
        (*declared(parameters={"binary_data_size": "32"}), "got '32'"),
        (*declared(parameters={"binary_data_size": True}), "got True"),
        (*declared(parameters={"binary_data_size": 10**30}), "must be at most the 32 bytes left"),
        (*declared(shape=[2, 1, 2, 3]), "must have 48 bytes for 12 numbers of FP32, got 32"),
        (*declared(shape=[2**62] * 8), "must have .* bytes for"),
        (*declared(shape=[2**63, 1]), "must be a list of sizes"),
        (*declared(shape=[1] * 9), "at most 8 sizes, got 9"),
        (*declared(datatype="UINT8"), "must have 8 bytes for 8 numbers of UINT8, got 32"),
        (*declared(datatype="a\nb\ud800"), r"got 'a\\nb\\ud800'"),
        (*declared(datatype="FP16"), "datatype must be FP32, got 'FP16'"),
    ],
)
def test_what_is_no_such_body_is_refused_in_one_line(body: bytes, length: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        read(body, length)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@given(
    st.binary(max_size=40), st.integers(0, LENGTH), st.integers(0, LENGTH), st.none() | st.text(max_size=5) | st.just(str(LENGTH))
)
def test_damage_is_refused_in_one_line_or_harmless(piece: bytes, start: int, stop: int, length: str | None) -> None:
    try:
        read(BODY[:start] + piece + BODY[stop:], length)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("eight_bits", [False, True])
def test_the_sizes_that_are_foretold_are_those_that_are_sent(eight_bits: bool) -> None:
    up, _ = body_sizes(PIXELS, 10, eight_bits, binary=True)
    body, _ = packed(request_body(PIXELS, Chip(0.05, 10_000), eight_bits=eight_bits, binary=True))
    assert abs(up.of(1, len(PIXELS)) - len(body)) <= 2  # a digit more or less in the shape and the size
    assert up.image == pytest.approx(4 if eight_bits else 16, abs=1.5)
