"""``--device``: a run holds its tensors there, on a device that is only pretended, so that it is known where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.execution import execute
from bbfuse.heads.affine import AffineConfig
from bbfuse.optimizers.base import OPTIMIZERS
from bbfuse.optimizers.surrogate.network import SurrogateConfig
from bbfuse.optimizers.surrogate.transfer import TransferConfig

_DEVICE: Any = Tensor.device.__get__  # type: ignore[attr-defined]
_CROSSES: list[Any] = [
    Tensor.data.__set__, Tensor.copy_, Tensor.backward, torch.autograd.grad, torch._has_compatible_shallow_copy_type,  # type: ignore[attr-defined]
]  # fmt: skip


class Pretended(TorchFunctionMode):
    """Tensors moved to ``cuda`` are computed with here and known by their storage; where they meet others, an error is raised as
    on a device. Numbers without dimensions may meet them, and indices. Gradients in the tape's own order are not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self._there: WeakSet[torch.UntypedStorage] = WeakSet()
        self.done: set[str] = set()
        """Names of functions that were called with tensors there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        there = [tensor for tensor in tensors if tensor.untyped_storage() in self._there]
        if func == _DEVICE:
            return torch.device("cuda", 0) if there else func(*args)
        named = (*args[1:], *kwargs.values()) if func is Tensor.to else (kwargs.get("device"),)
        places = [torch.device(value).type for value in named if isinstance(value, str | torch.device)]
        goes = "cuda" in places if places else bool(there) and func is not Tensor.cpu
        if places:
            args, kwargs = tree_map(lambda value: "cpu" if isinstance(value, str | torch.device) else value, (args, kwargs))
        if func in (Tensor.to, Tensor.cpu):
            moved = func(*args, **kwargs)
            return self._mark(moved.clone() if goes != bool(there) else moved) if goes else moved.clone() if there else moved
        if func in _CROSSES:
            result = func(*args, **kwargs)
            sources = tree_leaves(args[1]) if func is torch.autograd.grad else []
            for source, gradient in zip(sources, result if sources else (), strict=True):
                if source.untyped_storage() in self._there:
                    self._mark(gradient)
            return result
        indexes = func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].untyped_storage() in self._there
        free = [*there, *(tree_leaves(args[1]) if indexes else [])]
        here = [tensor for tensor in tensors if tensor.ndim and not any(tensor is other for other in free)]
        if (goes and (here or kwargs.get("generator") is not None)) or (there and func is Tensor.numpy):
            raise RuntimeError(f"{func.__name__} on the device was given what is not there")
        if there:
            self.done.add(func.__name__)
        result = func(*args, **kwargs)
        return self._mark(result) if goes else result

    def _mark(self, result: Any) -> Any:
        self._there.update(value.untyped_storage() for value in tree_leaves(result) if isinstance(value, Tensor))
        return result


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
    return Pretended()


def test_a_pretended_device_is_as_strict_as_one(device: Pretended) -> None:
    with device:
        here, index = torch.ones(3), torch.tensor([0, 2])
        there, other = here.to("cuda"), index.to("cuda")
        assert (there.device.type, there[index].device.type, (there + here[0]).cpu().device.type) == ("cuda", "cuda", "cpu")
        for meet in (
            lambda: there + here, lambda: here[other], lambda: torch.cat([there, here]), there.numpy,
            lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="on the device"):
                meet()


_FEW = ReportConfig(images=20, chips=1)
_RUNS = {
    "backprop": RunConfig(
        backend="whitebox", optimizer="backprop", budget=1_500, head="standardize", warm_up=500, augment=True, report=_FEW
    ),
    "follow": RunConfig(
        optimizer="follow",
        budget=600,
        chip_seed=0,
        head="affine",
        affine=AffineConfig(images=200),
        report=ReportConfig(images=20),
    ),
    "follow, population": RunConfig(optimizer="follow", budget=550, head="standardize", report=_FEW),
    "transfer": RunConfig(
        optimizer="transfer", budget=900, head="none", report=_FEW, transfer=TransferConfig(steps=5, images=100)
    ),
}


@pytest.mark.parametrize("name", _RUNS)
def test_all_of_a_run_lies_on_the_device(name: str, device: Pretended, network: nn.Module, tmp_path: Path) -> None:
    config = replace(_RUNS[name], device="cuda", out=tmp_path, validation=ValidationConfig(times=0))
    if OPTIMIZERS[config.optimizer].uses_surrogate:
        config = replace(config, surrogate=SurrogateConfig(steps=5))
    with device:
        execute(config)
    assert {"conv2d", "linear", "clamp"} <= device.done
