"""The surrogate's architectures, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bbfuse.optimizers.surrogate.network import ARCHITECTURES
from tests.helpers.references.points import drawn


def told(layer: nn.Module) -> str:
    """A layer in a word."""
    if isinstance(layer, nn.Conv2d):
        assert layer.kernel_size == (3, 3)
        assert layer.padding == (1, 1)
        kind = f"conv {layer.in_channels}-{layer.out_channels}"
        return (
            kind + ("" if layer.stride == (1, 1) else f" stride {layer.stride[0]}") + (" bias" if layer.bias is not None else "")
        )
    if isinstance(layer, nn.Linear):
        return f"linear {layer.in_features}-{layer.out_features}"
    if isinstance(layer, nn.BatchNorm2d):
        return f"norm {layer.num_features}"
    if isinstance(layer, nn.MaxPool2d):
        return f"pool {layer.kernel_size}"
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return f"mean {layer.output_size}"
    return type(layer).__name__.lower()


def layers_of(arch: str, shape: tuple[int, int, int], classes: int) -> list[str]:
    return [told(layer) for layer in ARCHITECTURES[arch](shape, classes).modules() if not list(layer.children())]


def normed(inputs: int, outputs: int, stride: str = "") -> list[str]:
    return [f"conv {inputs}-{outputs}{stride}", f"norm {outputs}", "relu"]


def twice(inputs: int, outputs: int) -> list[str]:
    return [*normed(inputs, outputs), *normed(outputs, outputs), "pool 2"]


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (1, 15, 9), (1, 2, 3)])
def test_one_pool_goes_without_normalisation(shape: tuple[int, int, int]) -> None:
    left = (shape[1] // 2) * (shape[2] // 2)
    convolutions = ["conv 1-32 bias", "relu", "conv 32-32 bias", "relu", "pool 2"]
    assert layers_of("plain", shape, 7) == [*convolutions, "flatten", f"linear {32 * left}-128", "relu", "linear 128-7"]


def test_sides_are_halved_until_the_smaller_one_is_four() -> None:
    end = ["relu", "linear 128-7"]
    two = [*twice(3, 32), *twice(32, 64), "flatten", "linear 1536-128", *end]  # 64 of 4x6
    assert layers_of("plain", (3, 16, 24), 7) == two
    assert layers_of("plain", (3, 24, 16), 7) == two
    assert layers_of("plain", (3, 31, 16), 7) == [*twice(3, 32), *twice(32, 64), "flatten", "linear 1792-128", *end]  # of 7x4
    assert layers_of("plain", (3, 29, 31), 7) == [*twice(3, 32), *twice(32, 64), "flatten", "linear 3136-128", *end]  # of 7x7
    assert layers_of("plain", (3, 16, 40), 7) == [*twice(3, 32), *twice(32, 64), "flatten", "linear 2560-128", *end]  # of 4x10
    three = [*twice(3, 32), *twice(32, 64), *twice(64, 128), "flatten", "linear 2048-128", *end]
    assert layers_of("plain", (3, 32, 32), 7) == three


def test_residual_blocks_come_two_for_each_halving() -> None:
    def level(width: int) -> list[str]:
        block = [*normed(width, width), f"conv {width}-{width}", f"norm {width}"]
        return [*block, *block, *normed(width, 2 * width, " stride 2")]

    assert layers_of("residual", (3, 16, 24), 7) == [*normed(3, 16), *level(16), *level(32), "mean 1", "flatten", "linear 64-7"]
    assert layers_of("residual", (1, 4, 4), 5) == [*normed(1, 16), *level(16), "mean 1", "flatten", "linear 32-5"]


def test_a_residual_block_adds_its_image() -> None:
    block = next(layer for layer in ARCHITECTURES["residual"]((1, 4, 4), 3).modules() if type(layer).__name__ == "_Residual")
    x = drawn(1, 2, 16, 4, 4)
    block.eval()
    first = nn.functional.conv2d(x, block.body[0].weight, padding=1)
    kept = 1.0 / (1.0 + 1e-5) ** 0.5  # normalisation with the statistics it starts with: mean 0, variance 1
    second = nn.functional.conv2d((kept * first).clamp(min=0.0), block.body[3].weight, padding=1)
    torch.testing.assert_close(block(x), (x + kept * second).clamp(min=0.0))


def test_the_perceptron_has_two_hidden_layers_of_256() -> None:
    assert layers_of("perceptron", (2, 3, 5), 7) == ["flatten", "linear 30-256", "relu", "linear 256-256", "relu", "linear 256-7"]
