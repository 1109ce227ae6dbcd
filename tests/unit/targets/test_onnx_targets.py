"""ONNX models on a chip: which of their numbers are stored, in which order, and models that are no classifiers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Dataset
from backends.memory.config import Memory
from backends.memory.simulator import Simulator
from backends.models.layout import arranged, in_batches
from backends.models.onnx_file import onnx_network
from backends.models.reading import read_model
from backends.simulated import SimulatedBackend
from backends.targets.networks import build
from backends.testing import check_backend
from tests.helpers.onnx_models import sequential, write

CHIPS = (NOMINAL, Chip(0.05, 0), Chip(0.3, 7))
RNG = np.random.default_rng(0)
W = RNG.normal(size=(64, 10)).astype(np.float32)
B = RNG.normal(size=10).astype(np.float32)
NODE = helper.make_node
FLAT = NODE("Flatten", ["images"], ["rows"])


def stored(path: Path, which: Any = "weights") -> list[Any]:
    """The tensors that a memory stores, in its order."""
    simulator = Simulator(onnx_network(path), Memory(stored=which, bits=16))
    return [simulator.stored.slots[name].shape for name in simulator.stored.slots]


@pytest.mark.parametrize("batch", ["n", 1, 3])
@pytest.mark.parametrize("which", ["weights", "parameters"])
def test_it_has_the_bits_of_the_network_and_its_logits(
    batch: Any, which: Any, network: nn.Sequential, digits: Dataset, tmp_path: Path
) -> None:
    path = sequential(tmp_path / "digits.onnx", network, (1, 8, 8), batch)
    memory, images = Memory(stored=which), digits.test.images[:7]
    direct, model = Simulator(network, memory), Simulator(build(str(path), (1, 8, 8), 10), memory)
    assert np.array_equal(direct.stored.patterns, model.stored.patterns)
    for chip in CHIPS:
        read = [[reading.on(chip).copy() for reading in simulator._readings] for simulator in (direct, model)]
        assert all(np.array_equal(one, other) for one, other in zip(*read, strict=True))
        torch.testing.assert_close(model.logits(images, chip), direct.logits(images, chip), rtol=0, atol=1e-4)
    assert not torch.equal(model.logits(images, CHIPS[1]), model.logits(images, NOMINAL))


def test_it_is_a_strict_backend(network: nn.Sequential, digits: Dataset, tmp_path: Path) -> None:
    model = onnx_network(sequential(tmp_path / "digits.onnx", network, (1, 8, 8)))
    check_backend(SimulatedBackend("digits", model, (1, 8, 8), 10), digits.test.images[:8], network=model)


def test_copies_share_a_session_and_another_process_gets_its_own(network: nn.Sequential, tmp_path: Path) -> None:
    model = onnx_network(sequential(tmp_path / "digits.onnx", network, (1, 8, 8)))
    images = torch.rand(2, 1, 8, 8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images), model(images))


def gemm(**options: Any) -> Any:
    return NODE("Gemm", ["rows", "w", "b"], ["scores"], **options)


@pytest.mark.parametrize(
    ("nodes", "held", "weights", "parameters"),
    [
        ([FLAT, gemm()], {"w": W, "b": B}, [(64, 10)], [(64, 10), (10,)]),
        ([FLAT, gemm(transB=1)], {"w": W.T, "b": B}, [(10, 64)], [(10, 64), (10,)]),
        (
            [FLAT, NODE("MatMul", ["rows", "w"], ["y"]), NODE("Add", ["y", "b"], ["scores"])],
            {"w": W, "b": B}, [(64, 10)], [(64, 10), (10,)],
        ),
        (
            [FLAT, NODE("Transpose", ["w"], ["t"], perm=[1, 0]), NODE("Identity", ["t"], ["i"]),
             NODE("MatMul", ["rows", "i"], ["scores"])],
            {"w": W.T}, [(10, 64)], [(10, 64)],
        ),
        (
            [FLAT, NODE("Constant", [], ["w"], value=onnx.numpy_helper.from_array(W)), NODE("MatMul", ["rows", "w"], ["scores"])],
            {}, [(64, 10)], [(64, 10)],
        ),
        (
            [FLAT, NODE("MatMul", ["rows", "w"], ["y"]), NODE("MatMul", ["y", "v"], ["z"]),
             NODE("MatMul", ["z", "v"], ["scores"])],
            {"v": W[:10], "w": W}, [(64, 10), (10, 10)], [(64, 10), (10, 10)],
        ),
        (
            [NODE("BatchNormalization", ["images", "s", "o", "m", "v"], ["y"]), NODE("Flatten", ["y"], ["rows"]), gemm()],
            {"s": [2.0], "o": [0.1], "m": [0.2], "v": [1.5], "w": W, "b": B}, [(64, 10)], [(1,), (1,), (64, 10), (10,)],
        ),
        (
            [NODE("ConvTranspose", ["images", "k"], ["y"], strides=[1, 1]), NODE("Clip", ["y", "low"], ["c"]),
             NODE("Mul", ["c", "half"], ["h"]), NODE("GlobalAveragePool", ["h"], ["scores"])],
            {"k": W[:9].T.reshape(1, 10, 3, 3), "low": -1.0, "half": [0.5]}, [(1, 10, 3, 3)], [(1, 10, 3, 3)],
        ),
    ],
)  # fmt: skip
def test_weights_are_what_layers_multiply_with_and_parameters_their_biases_and_scales_too(
    nodes: Any, held: Any, weights: Any, parameters: Any, tmp_path: Path
) -> None:
    arrays = {name: np.asarray(array, np.float32) for name, array in held.items()}
    path = write(tmp_path / "m.onnx", nodes, arrays, ("n", 1, 8, 8), ("n", 10, 1, 1) if "k" in held else ("n", 10))
    assert stored(path) == weights
    assert stored(path, "parameters") == parameters
    images = torch.rand(3, 1, 8, 8)
    session = onnx_network(path)
    import onnxruntime

    (expected,) = onnxruntime.InferenceSession(path.read_bytes()).run(None, {"images": images.numpy()})
    torch.testing.assert_close(session(images), torch.from_numpy(expected).flatten(1))


def test_the_scale_of_a_norm_is_stored_as_its_distance_from_1(tmp_path: Path) -> None:
    nodes = [NODE("BatchNormalization", ["images", "s", "o", "m", "v"], ["y"]), NODE("Flatten", ["y"], ["rows"]), gemm()]
    held = {"s": [1.25], "o": [0.0], "m": [0.0], "v": [1.0], "w": 0.25 * W / np.abs(W).max(), "b": B * 0}
    path = write(tmp_path / "m.onnx", nodes, {name: np.asarray(a, np.float32) for name, a in held.items()}, ("n", 1, 8, 8))
    simulator = Simulator(onnx_network(path), Memory(stored="parameters", quantization="normal"))
    name = next(name for name in simulator.weights(NOMINAL) if name.endswith("_s"))
    assert simulator.weights(NOMINAL)[name].item() == pytest.approx(1.25, abs=1e-6)
    assert simulator.stored.tensors()[name].item() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8])
def test_inputs_of_other_types_are_converted(dtype: int, tmp_path: Path) -> None:
    nodes = [NODE("Cast", ["images"], ["f"], to=TensorProto.FLOAT), NODE("Flatten", ["f"], ["rows"]), gemm()]
    path = write(tmp_path / "m.onnx", nodes, {"w": W, "b": B}, ("n", 1, 8, 8), dtype=dtype)
    images = torch.rand(3, 1, 8, 8) * 5
    seen = images.round() if dtype == TensorProto.UINT8 else images.half().float() if dtype == TensorProto.FLOAT16 else images
    torch.testing.assert_close(
        onnx_network(path)(images), seen.flatten(1) @ torch.from_numpy(W) + torch.from_numpy(B), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("layout", [(3, 4, 5), (4, 5, 3), (None, None, None), (60,)])
def test_the_layout_follows_the_declared_shape(layout: Any) -> None:
    inputs = torch.rand(2, 3, 4, 5)
    ways = {(4, 5, 3): inputs.permute(0, 2, 3, 1), (60,): inputs.reshape(2, 60)}
    assert torch.equal(arranged(inputs, layout), ways.get(layout, inputs))
    assert torch.equal(arranged(inputs.permute(0, 2, 3, 1), layout), {(3, 4, 5): inputs, (4, 5, 3): ways[4, 5, 3]}.get(
        layout, inputs.permute(0, 2, 3, 1).reshape(2, *([60] if layout == (60,) else [4, 5, 3])))
    )  # fmt: skip


def test_the_axis_of_one_channel_is_left_out_where_it_is_not_declared() -> None:
    inputs = torch.rand(2, 1, 4, 5)
    assert torch.equal(arranged(inputs, (4, 5)), inputs[:, 0])
    assert arranged(inputs, (7, 7)) is inputs


def test_batches_of_a_fixed_size_are_filled_up() -> None:
    sizes: list[int] = []

    def run(part: Tensor) -> Tensor:
        sizes.append(len(part))
        return part * 2

    inputs = torch.arange(7.0)
    assert torch.equal(in_batches(run, inputs, 3), inputs * 2)
    assert torch.equal(in_batches(run, inputs, None), inputs * 2)
    assert sizes == [3, 3, 3, 7]


@pytest.mark.parametrize(
    ("nodes", "held", "options", "words"),
    [
        ([FLAT, gemm()], {"w": W[:16], "b": B}, {"images": ("n", 1, 4, 4)}, "does not take images (1, 8, 8): InvalidArgument"),
        ([FLAT, NODE("Relu", ["rows"], ["scores"])], {}, {}, "must give logits (2, 10) for two images, got the shape (2, 64)"),
        ([FLAT, gemm()], {"w": W, "b": B}, {"outputs": ("scores", "rows")}, "must have one output of scores, floats, got scores"),
        ([NODE("Nothing", ["images"], ["scores"], domain="own")], {}, {}, "no valid ONNX model: "),
        ([FLAT, gemm()], {"w": W, "b": B}, {"dtype": TensorProto.STRING}, "must take numbers, its input images has another"),
    ],
)
def test_a_model_that_is_no_classifier_is_refused_in_one_line(
    nodes: Any, held: Any, options: Any, words: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.onnx", nodes, held, **{"images": ("n", 1, 8, 8), **options})
    with pytest.raises(InputError) as error:
        build(str(path), (1, 8, 8), 10)
    assert str(error.value).startswith(f"`target` {path} ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_weights_has_nothing_to_store(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [NODE("Flatten", ["images"], ["scores"])], {}, ("n", 1, 2, 5))
    with pytest.raises(InputError, match="no convolution or linear layer with weights to store"):
        Simulator(read_model(str(path)))


@pytest.mark.parametrize("place", ["../outside.bin", "{}/outside.bin", "link.bin", "sub/../../outside.bin"])
def test_data_outside_of_the_folder_are_not_read(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    options = {"save_as_external_data": True, "location": "own.bin", "size_threshold": 0}
    path = write(folder / "m.onnx", [FLAT, gemm()], {"w": W, "b": B}, ("n", 1, 8, 8), **options)
    assert build(str(path), (1, 8, 8), 10)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    (folder / "own.bin").rename(tmp_path / "outside.bin")
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = place.format(tmp_path)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="is no valid ONNX model"):
        build(str(path), (1, 8, 8), 10)
