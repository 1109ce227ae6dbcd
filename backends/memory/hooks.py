"""Watches the layers of a network while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["watching"]


@contextlib.contextmanager
def watching(modules: Mapping[str, nn.Module], see: Callable[[str, nn.Module, Tensor, Tensor], Any]) -> Iterator[None]:
    """Within the block, every pass through one of ``modules`` calls ``see`` with its name, the module, its input and output."""

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def show(module: nn.Module, inputs: Any, output: Tensor) -> None:
            see(name, module, inputs[0], output)

        return show

    hooks = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
