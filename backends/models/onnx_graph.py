"""The graph of an ONNX model, with what a memory may store turned into inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import InputError, one_line

__all__ = ["OnnxGraph", "opened"]

_WEIGHED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_NORMS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")
_VIEWS = ("Identity", "Transpose", "Reshape", "Cast", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True)
class OnnxGraph:
    """A model whose parameters are inputs."""

    model: bytes
    """It takes ``images`` and every one of ``parameters`` by name, and returns ``output``."""
    images: str
    sides: tuple[int | None, ...]
    """Shape of the images with the batch; ``None`` where any number is allowed."""
    dtype: Any
    """Type of the images in numpy."""
    output: str
    parameters: dict[str, NDArray[Any]]
    """In the order of the graph."""
    weights: tuple[str, ...]
    """Those that Conv, ConvTranspose, Gemm and MatMul multiply with."""
    scales: tuple[str, ...]
    """Those that scale what a layer has normalised."""


def opened(path: Path) -> OnnxGraph:
    """The model in the ONNX file at ``path``; data outside the file are read from its own folder alone.

    Raises:
        InputError: it cannot be read, has another number of inputs and outputs than one, or others than numbers.
    """
    try:
        import onnx
    except ImportError as error:
        raise InputError("an ONNX file as `target` needs onnx and onnxruntime: python -m pip install 'bbfuse[onnx]'") from error
    try:
        model = onnx.load(str(path))  # refuses external data that lie elsewhere
        onnx.checker.check_model(model)
    except OSError as error:
        raise InputError(f"`target` {path} cannot be read: {error}") from error
    except Exception as error:  # protobuf and the checker have errors of their own
        words = one_line(error) or type(error).__name__
        raise InputError(f"`target` {path} is no valid ONNX model: {words}") from error
    graph = model.graph
    _constants_to_initializers(graph)
    held = {tensor.name: tensor for tensor in graph.initializer}
    images, output = _one_input(path, graph, held), _one_output(path, graph)
    dtype = _dtype(images)
    if dtype is None or dtype.kind not in "fiu":
        raise InputError(f"`target` {path} must take numbers, its input {images.name} has another type: export it with float32")
    weights, scales, others = _roles(graph, held)
    parameters = {name: onnx.numpy_helper.to_array(held[name]) for name in others}
    _to_inputs(graph, parameters)
    try:
        content = model.SerializeToString()
    except ValueError as error:
        raise InputError(f"`target` {path} is larger than the 2 GiB that ONNX in memory may have: give a smaller one") from error
    sides = tuple(side.dim_value or None for side in images.type.tensor_type.shape.dim)
    return OnnxGraph(content, images.name, sides, dtype, output, parameters, weights, scales)


def _constants_to_initializers(graph: Any) -> None:
    """Some exporters write weights as nodes."""
    for node in [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]:
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.node.remove(node)


def _one_input(path: Path, graph: Any, held: dict[str, Any]) -> Any:
    inputs = [entry for entry in graph.input if entry.name not in held]
    if len(inputs) != 1 or not inputs[0].type.HasField("tensor_type"):
        names = ", ".join(entry.name for entry in inputs) or "none"
        raise InputError(f"`target` {path} must have one input, a tensor of images, got {names}: export it with that one alone")
    return inputs[0]


def _one_output(path: Path, graph: Any) -> str:
    scores = [entry for entry in graph.output if (dtype := _dtype(entry)) is not None and dtype.kind == "f"]
    if len(scores) != 1:
        names = ", ".join(entry.name for entry in graph.output)
        raise InputError(f"`target` {path} must have one output of scores, floats, got {names}: export it with that one alone")
    name: str = scores[0].name
    return name


def _dtype(entry: Any) -> np.dtype[Any] | None:
    """The type of a tensor in numpy; ``None`` if it is none, or one that numpy does not have."""
    import onnx

    kind = entry.type.tensor_type.elem_type if entry.type.HasField("tensor_type") else 0
    plain = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.UINT8}
    plain |= {onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64}
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind in plain else None


def _roles(graph: Any, held: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names of weights, of scales, and of all parameters, each in the order of the graph."""
    made_by = {output: node for node in graph.node for output in node.output}

    def source(name: str) -> str | None:
        while name not in held and name in made_by and made_by[name].op_type in _VIEWS:
            name = made_by[name].input[0]
        return name if name in held and _stored(held[name]) else None

    def of(names: Iterable[str]) -> Iterator[str]:
        return (found for name in names if (found := source(name)) is not None)

    weights: dict[str, None] = {}
    scales: dict[str, None] = {}
    parameters: dict[str, None] = {}
    for node in graph.node:
        inputs = list(node.input)
        if node.op_type in _WEIGHED:
            first = inputs[:2] if node.op_type in ("Gemm", "MatMul") else inputs[1:2]
            weights |= dict.fromkeys(of(first))
            parameters |= dict.fromkeys([*of(first), *of(inputs[2:])])
        elif node.op_type in _NORMS:
            scales |= dict.fromkeys(of(inputs[1:2]))
            parameters |= dict.fromkeys(of(inputs[1:3]))
        elif node.op_type in ("Add", "PRelu"):
            parameters |= dict.fromkeys(of(inputs))
    return tuple(weights), tuple(name for name in scales if name not in weights), tuple(parameters)


def _stored(tensor: Any) -> bool:
    """Whether it is a tensor of floats with an axis; others are constants of the computation."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return tensor.data_type in floats and len(tensor.dims) > 0


def _to_inputs(graph: Any, parameters: dict[str, NDArray[Any]]) -> None:
    import onnx

    kept = [tensor for tensor in graph.initializer if tensor.name not in parameters]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    there = {entry.name for entry in graph.input}
    for name, array in parameters.items():
        if name not in there:  # old versions list initializers as inputs, too
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
