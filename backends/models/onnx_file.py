"""An ONNX model, run by onnxruntime, with weights that a memory can store."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backends.base import InputError, one_line
from backends.memory.declared import DeclaredNetwork
from backends.models.layout import arranged, in_batches
from backends.models.onnx_graph import OnnxGraph, opened

__all__ = ["OnnxNetwork", "onnx_network"]


class OnnxNetwork(DeclaredNetwork):
    """A model whose initializers are parameters, in float32; it has no gradients."""

    differentiable = False

    def __init__(self, graph: OnnxGraph, session: _Session) -> None:
        super().__init__()
        self._graph, self._session = graph, session
        self._places = {
            name: self.hold(name, torch.from_numpy(array.astype(np.float32))) for name, array in graph.parameters.items()
        }  # fmt: skip
        self.weights = [self._places[name] for name in graph.weights]
        self.scales = [self._places[name] for name in graph.scales]

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, classes) of ``images`` (n, ...)."""
        batch, *sides = self._graph.sides
        inputs = arranged(images.detach().cpu(), sides)
        parameters = {
            name: getattr(self, own).detach().cpu().numpy().astype(self._graph.parameters[name].dtype, copy=False)
            for name, own in self._places.items()
        }  # fmt: skip
        return in_batches(functools.partial(self._run, parameters), inputs, batch).to(images.device)

    def _run(self, parameters: dict[str, Any], inputs: Tensor) -> Tensor:
        graph = self._graph
        values = inputs.numpy() if graph.dtype.kind == "f" else inputs.round().numpy()
        fed = {graph.images: np.ascontiguousarray(values, graph.dtype), **parameters}
        (scores,) = self._session.run.run([graph.output], fed)
        found = torch.from_numpy(np.asarray(scores, np.float32))
        return found.flatten(1) if found.ndim > 2 and found.shape[2:].numel() == 1 else found


class _Session:
    """A session of onnxruntime, which several copies of a network share; a copy in another process makes its own."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._model = model
        self.run = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __deepcopy__(self, _: dict[int, Any]) -> _Session:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Session, (self._model,)


def onnx_network(path: Path) -> nn.Module:
    """The network in the ONNX file at ``path``.

    Raises:
        InputError: it cannot be read or run.
    """
    graph = opened(path)
    try:
        session = _Session(graph.model)
    except ImportError as error:
        raise InputError("an ONNX file as `target` needs onnxruntime: python -m pip install 'bbfuse[onnx]'") from error
    except Exception as error:  # an operator that it does not have
        words = one_line(error)
        raise InputError(f"`target` {path} cannot be run by onnxruntime: {words}") from error
    return OnnxNetwork(graph, session)
