"""ONNX files written by hand, node by node, without an exporter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

__all__ = ["sequential", "write"]

Shape = Sequence[int | str]


def write(
    path: Path, nodes: Sequence[Any], held: dict[str, Any], images: Shape, scores: Shape = ("n", 10),
    dtype: int = TensorProto.FLOAT, outputs: Sequence[str] = ("scores",), **options: Any,
) -> Path:  # fmt: skip
    """A model of ``nodes`` from ``images`` to ``outputs`` with the initializers ``held``."""
    inputs = [helper.make_tensor_value_info("images", dtype, images)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, scores) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "model", inputs, ends, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path), **options)
    return path


def sequential(path: Path, network: nn.Sequential, sides: Sequence[int], batch: int | str = "n", **options: Any) -> Path:
    """``network`` of convolutions, linear layers, ReLUs and pools, as a model."""
    nodes, held, now = [], {}, "images"
    for place, layer in enumerate(network):
        after = "scores" if place == len(network) - 1 else f"after_{place}"
        names = [now]
        for name, tensor in layer.named_parameters():
            held[f"{place}.{name}"] = tensor.detach().numpy()
            names.append(f"{place}.{name}")
        match layer:
            case nn.Conv2d():
                node = helper.make_node("Conv", names, [after], pads=[*layer.padding] * 2)
            case nn.Linear():
                node = helper.make_node("Gemm", names, [after], transB=1)
            case nn.MaxPool2d():
                node = helper.make_node("MaxPool", names, [after], kernel_shape=[2, 2], strides=[2, 2])
            case _:
                node = helper.make_node({"ReLU": "Relu"}.get(type(layer).__name__, type(layer).__name__), names, [after])
        nodes.append(node)
        now = after
    return write(path, nodes, held, (batch, *sides), (batch, 10), **options)
