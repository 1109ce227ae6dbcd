"""Generators, layer by layer: NeuralFuse's from its tables, ours from their descriptions, and what they make of an image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.base import InputError
from bbfuse.fuse.generators.base import GENERATORS
from tests.helpers.references.points import drawn

TABLES = {
    "ConvL": "B3-32 B32-32 MP B32-64 B64-64 MP B64-128 B128-128 MP "
    "B128-128 U B128-128 B128-64 U B64-64 B64-32 U B32-32 C32-3 N T",
    "ConvS": "B3-32 MP B32-64 MP B64-64 MP B64-64 U B64-32 U B32-3 U C3-3 N T",
    "DeConvL": "B3-32 B32-32 MP B32-64 B64-64 MP B64-128 B128-128 MP B128-128 D128-64 N R B64-64 D64-32 N R B32-32 D32-3 N T",
    "DeConvS": "B3-32 MP B32-64 MP B64-64 MP D64-64 N R D64-32 N R D32-3 N T",
}
"""NeuralFuse, Table 4: B a 3x3 convolution with normalisation and ReLU, C without both, MP a pool, U an upsampling, D a
transposed 4x4 convolution of stride 2, N a normalisation, R ReLU, T tanh."""
COUNTS = {  # its Table 7, and of these the weights of convolutions
    "ConvL": (723_273, 720_576), "ConvS": (113_187, 112_401), "DeConvL": (647_785, 645_472), "DeConvS": (156_777, 156_000),
    "UNetL": (482_771, 481_248), "UNetS": (121_195, 120_432),
}  # fmt: skip
OURS = {"Mix": 12, "Filter": 228, "Filters": 883, "UNetXS": 23_635}
SHAPE = (3, 16, 24)


def made(name: str, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    """In training mode, with parameters that are neither 0 nor 1."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        generator = GENERATORS[name](shape)
    with torch.no_grad():
        for number, p in enumerate(generator.parameters()):
            p.add_(0.1 * drawn(number, *p.shape))
    return generator.train()


class Weights:
    """The parameters of a generator in their order, one layer at a time."""

    def __init__(self, generator: nn.Module) -> None:
        self._left = [p.detach() for p in generator.parameters()]

    def take(self, count: int = 2) -> list[Tensor]:
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def used_up(self) -> bool:
        return not self._left


def normalised(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]


def pooled(x: Tensor) -> Tensor:
    return torch.stack([x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]).amax(0)


def doubled(x: Tensor) -> Tensor:
    return torch.kron(x, torch.ones(2, 2))


def by_table(table: str, weights: Weights, x: Tensor) -> Tensor:
    for word in table.split():
        sizes = tuple(int(size) for size in word[1:].split("-")) if "-" in word else None
        if sizes is not None:
            kernel, bias = weights.take()
            assert tuple(kernel.shape) == ((*sizes, 4, 4) if word[0] == "D" else (*sizes[::-1], 3, 3))
            assert bias.shape == sizes[1:]
            if word[0] == "D":
                x = F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)
            else:
                x = F.conv2d(F.pad(x, (1, 1, 1, 1)), kernel, bias)
        if word[0] in "BN":
            x = normalised(x, *weights.take())
        if word[0] in "BR":
            x = x.clamp(min=0.0)
        x = {"MP": pooled, "U": doubled, "T": torch.tanh}.get(word, lambda same: same)(x)
    return x


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_generators_are_those_of_its_table(name: str) -> None:
    generator, images = made(name), drawn(1, 3, *SHAPE)
    weights = Weights(generator)
    torch.testing.assert_close(generator(images).detach(), by_table(TABLES[name], weights, images), rtol=1e-3, atol=1e-3)
    assert weights.used_up()


@pytest.mark.parametrize(("name", "width"), [("UNetL", 16), ("UNetS", 8)])
def test_the_papers_u_nets_are_those_of_its_table(name: str, width: int) -> None:
    """Two convolutions without bias a level, four levels; D a transposed 2x2 convolution of stride 2; the skip comes first."""
    generator, images = made(name), drawn(1, 3, *SHAPE)
    of = dict(generator.named_parameters())
    used = set()

    def take(*names: str) -> list[Tensor]:
        used.update(names)
        return [of[one].detach() for one in names]

    def twice(x: Tensor, place: str, inputs: int, outputs: int) -> Tensor:
        for layer, channels in ((0, inputs), (3, outputs)):
            (kernel,) = take(f"{place}.{layer}.weight")
            assert kernel.shape == (outputs, channels, 3, 3)
            norm = take(f"{place}.{layer + 1}.weight", f"{place}.{layer + 1}.bias")
            x = normalised(F.conv2d(F.pad(x, (1, 1, 1, 1)), kernel), *norm).clamp(min=0.0)
        return x

    one = twice(images, "down.0", 3, width)
    two = twice(pooled(one), "down.1", width, 2 * width)
    three = twice(pooled(two), "down.2", 2 * width, 4 * width)
    x = twice(pooled(three), "down.3", 4 * width, 8 * width)
    for place, (skip, channels) in enumerate(((three, 4 * width), (two, 2 * width), (one, width))):
        kernel, bias = take(f"up.{place}.weight", f"up.{place}.bias")
        assert kernel.shape == (2 * channels, channels, 2, 2)
        raised = torch.einsum("nihw,iorc->nohrwc", x, kernel).flatten(4).flatten(2, 3) + bias[:, None, None]
        x = twice(torch.cat([skip, raised], 1), f"join.{place}", 2 * channels, channels)
    kernel, bias = take("out.weight", "out.bias")
    x = torch.einsum("oi,nihw->nohw", kernel[:, :, 0, 0], x) + bias[:, None, None]
    torch.testing.assert_close(generator(images).detach(), x, rtol=1e-3, atol=1e-3)
    assert used == set(of)


@pytest.mark.parametrize("name", COUNTS)
def test_the_papers_parameter_counts(name: str) -> None:
    generator = made(name, (3, 32, 32))
    every, of_weights = COUNTS[name]
    assert sum(p.numel() for p in generator.parameters()) == every
    assert sum(p.numel() for p in generator.parameters() if p.ndim == 4) == of_weights


def test_our_parameter_counts() -> None:
    assert {name: sum(p.numel() for p in made(name).parameters()) for name in OURS} == OURS
    assert sum(p.numel() for p in made("MLP", (2, 3, 5)).parameters()) == 30 * 64 + 64 + 64 * 30 + 30
    assert sum(p.numel() for p in made("UNetXS", (1, 8, 8)).parameters()) == 23_635 - 2 * 16 * 9 - 2 * 17


def test_a_colour_mix_and_a_filter_and_two() -> None:
    x = drawn(1, 3, 3, 6, 5)
    mix = made("Mix")
    kernel, bias = Weights(mix).take()
    torch.testing.assert_close(mix(x).detach(), torch.einsum("oi,nihw->nohw", kernel[:, :, 0, 0], x) + bias[:, None, None])
    one = made("Filter")
    kernel, bias = Weights(one).take()
    assert kernel.shape == (3, 3, 5, 5)
    torch.testing.assert_close(one(x).detach(), F.conv2d(F.pad(x, (2, 2, 2, 2)), kernel, bias))
    two = made("Filters")
    first, second = Weights(two).take(4)[:2], Weights(two).take(4)[2:]
    assert first[0].shape == (16, 3, 3, 3)
    hidden = F.conv2d(F.pad(x, (1, 1, 1, 1)), *first).clamp(min=0.0)
    torch.testing.assert_close(two(x).detach(), F.conv2d(F.pad(hidden, (1, 1, 1, 1)), *second))


def test_a_perceptron_of_pixels() -> None:
    x, generator = drawn(1, 4, 2, 3, 5), made("MLP", (2, 3, 5))
    up, up_bias, down, down_bias = Weights(generator).take(4)
    hidden = (x.reshape(4, 30) @ up.T + up_bias).clamp(min=0.0)
    torch.testing.assert_close(generator(x).detach(), (hidden @ down.T + down_bias).reshape(4, 2, 3, 5))


def test_our_small_u_net() -> None:
    """Down twice, a middle that is added to what it came from, up twice, the fine level joined."""
    generator, images = made("UNetXS"), drawn(1, 3, *SHAPE)
    of = dict(generator.named_parameters())

    def convolved(x: Tensor, name: str) -> Tensor:
        kernel = of[f"{name}.weight"].detach()
        side = kernel.shape[2] // 2
        return F.conv2d(F.pad(x, (side,) * 4), kernel, of[f"{name}.bias"].detach())

    fine = convolved(images, "down1").clamp(min=0.0)
    coarse = convolved(pooled(fine), "down2").clamp(min=0.0)
    coarse = coarse + doubled(convolved(pooled(coarse), "middle").clamp(min=0.0))
    up = doubled(convolved(coarse, "up").clamp(min=0.0))
    x = convolved(torch.cat([up, fine], 1), "join").clamp(min=0.0)
    torch.testing.assert_close(generator(images).detach(), convolved(x, "out"), rtol=1e-4, atol=1e-4)
    shapes = {name: tuple(of[f"{name}.weight"].shape) for name in ("down1", "down2", "middle", "up", "join", "out")}
    assert shapes == {
        "down1": (16, 3, 3, 3), "down2": (32, 16, 3, 3), "middle": (32, 32, 3, 3), "up": (16, 32, 3, 3), "join": (16, 32, 3, 3),
        "out": (3, 16, 1, 1),
    }  # fmt: skip


@pytest.mark.parametrize("name", GENERATORS)
def test_the_shape_is_given_back(name: str) -> None:
    shape = (2, 8) if name == "Conv1d" else (2, 8, 16)
    assert GENERATORS[name](shape)(drawn(1, 2, *shape)).shape == (2, *shape)


@pytest.mark.parametrize(
    ("name", "fits", "does_not", "words"),
    [
        ("MLP", [(1, 16, 16), (1, 3, 5)], [(1, 17, 16), (1, 16, 17)], "MLP` is for images of up to 16x16, got {}: choose UNetXS"),
        ("UNetXS", [(1, 4, 12)], [(1, 4, 6), (1, 6, 4), (1, 5, 5)], "UNetXS` needs image sides divisible by 4, got {}"),
        *(
            (name, [(1, 8, 24)], [(1, 8, 12), (1, 12, 8), (1, 9, 9)], name + "` needs image sides divisible by 8, got {}")
            for name in ("ConvL", "ConvS", "DeConvL", "DeConvS", "UNetL", "UNetS")
        ),
    ],
)
def test_sides_that_do_not_fit_are_refused(
    name: str, fits: list[tuple[int, int, int]], does_not: list[tuple[int, int, int]], words: str
) -> None:
    for shape in fits:
        assert math.prod(GENERATORS[name](shape).train()(drawn(1, 2, *shape)).shape) == 2 * math.prod(shape)
    for shape in does_not:
        with pytest.raises(InputError, match=f"^`generator={words.format(f'{shape[1]}x{shape[2]}')}$"):
            GENERATORS[name](shape)
