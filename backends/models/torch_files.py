"""TorchScript and torch.export files. They hold code, which is executed."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backends.memory.declared import DeclaredNetwork
from backends.models.layout import in_batches

__all__ = ["exported", "scripted"]

_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
_WEIGHED = (*_CONVOLUTIONS, "Linear")
_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "InstanceNorm2d", "GroupNorm", "LayerNorm")
_PLACES = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "linear", "mm", "matmul"), 1), "addmm": 2,
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), 1),
}  # fmt: skip
"""Which argument of an operator is the weight."""
_SCALES = {"batch_norm": 1, "_native_batch_norm_legit_no_training": 1, "group_norm": 2, "layer_norm": 2}
_VIEWS = ("t", "permute", "transpose", "view", "reshape", "alias", "detach", "_to_copy", "clone")


class Scripted(DeclaredNetwork):
    """A TorchScript module; torch cannot replace its weights for one call, so that each call puts them in place."""

    def __init__(self, script: Any) -> None:
        super().__init__()
        self._script = _Script(script)
        for path, layer in script.named_modules():
            for name, tensor in layer.named_parameters(recurse=False):
                own = self.hold(f"{path}.{name}", tensor.detach())
                self._script.places[own] = (path, name)
                if name == "weight" and layer.original_name in _WEIGHED:
                    self.weights.append(own)
                elif name == "weight" and layer.original_name in _NORMS:
                    self.scales.append(own)

    def forward(self, images: Tensor) -> Any:
        """What the script returns for ``images``."""
        self._script.put({own: getattr(self, own) for own in self._parameters}, images.device)
        return self._script.module(images)


class _Script:
    """A script, and where its parameters are; not a module, so that it is not a part of the network around it."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.places: dict[str, tuple[str, str]] = {}
        self._layers = dict(module.named_modules())

    def put(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        buffer = next(self.module.buffers(), None)
        if buffer is not None and buffer.device != device:
            self.module.to(device)
        for own, (path, name) in self.places.items():
            self._layers[path]._c.setattr(name, tensors[own])  # not in place: gradients of earlier calls still need the others

    def __deepcopy__(self, memo: dict[int, Any]) -> _Script:
        copied = _Script(copy.deepcopy(self.module))
        copied.places = dict(self.places)
        return copied


class Exported(DeclaredNetwork):
    """A program of torch.export, run in the batch size that it was exported with if that is fixed."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = program.module()
        (inputs,) = program.graph_signature.user_inputs
        shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == inputs)
        self._batch = shape[0] if isinstance(shape[0], int) else None
        for node in self.program.graph.nodes:
            operator = getattr(node.target, "_schema", None)
            name = operator.name.removeprefix("aten::") if operator is not None else ""
            for table, names in ((_PLACES, self.weights), (_SCALES, self.scales)):
                found = _source(node.args[table[name]]) if name in table and len(node.args) > table[name] else None
                if found is not None and f"program.{found}" not in names:
                    names.append(f"program.{found}")
        held = dict(self.named_parameters())
        self.weights, self.scales = ([name for name in names if name in held] for names in (self.weights, self.scales))

    def forward(self, images: Tensor) -> Any:
        """What the program returns for ``images``."""
        return in_batches(self.program, images, self._batch)

    def train(self, mode: bool = True) -> Exported:
        """Without effect: a program computes as it was exported."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Exported:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own use of its classes
            copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied


def _source(node: Any) -> str | None:
    """The tensor of the module that ``node`` of a graph holds, perhaps in another view."""
    while getattr(node, "op", None) == "call_function" and node.target._schema.name.removeprefix("aten::") in _VIEWS:
        node = node.args[0]
    return str(node.target) if getattr(node, "op", None) == "get_attr" else None


def scripted(path: Path) -> nn.Module:
    """The network in a TorchScript file, in evaluation mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces its successor
        return Scripted(torch.jit.load(str(path), map_location="cpu").eval())


def exported(path: Path) -> nn.Module:
    """The network in a file of ``torch.export.save``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Exported(torch.export.load(path))
