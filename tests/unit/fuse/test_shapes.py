"""Generators for inputs that are no images: what they compute, what they refuse, and the contract on their shapes."""

import pytest
import torch
from torch.nn import functional as F

from backends.base import InputError
from bbfuse.fuse.generators.base import GENERATORS
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.directions import Directions
from bbfuse.optimizers.surrogate.network import Surrogate, SurrogateConfig
from bbfuse.testing import check_generator
from tests.helpers.references.points import drawn

IMAGES_ONLY = ("ConvL", "ConvS", "DeConvL", "DeConvS", "Filter", "Filters", "Mix", "UNetL", "UNetS", "UNetXS")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("MLP", (13,)), ("MLP", (2, 30)), ("MLP", (2, 3, 4, 5)), ("MLP", (1024,)), ("Scale", (13,)), ("Scale", (2, 30)),
        ("Scale", (3, 40, 50)), ("Scale", (2, 3, 4, 5)), ("Conv1d", (2, 30)), ("Conv1d", (1, 2000)),
    ],
)  # fmt: skip
def test_generators_for_any_shape_keep_the_contract(name: str, shape: tuple[int, ...]) -> None:
    check_generator(name, shape)
    make = GENERATORS[name]
    check_generator(lambda shape: make(shape), shape)


def test_a_scale_is_of_each_value_or_of_each_channel_of_an_image() -> None:
    for shape, sides in (((4,), (4,)), ((2, 5), (2, 5)), ((3, 8, 9), (3, 1, 1)), ((1, 2, 3, 4), (1, 2, 3, 4))):
        fuse = Fuse("Scale", shape, torch.Generator())
        weight, bias = 0.5 * drawn(0, *sides), 0.1 * drawn(1, *sides)
        fuse.assign(torch.cat([weight.flatten(), bias.flatten()]))
        inputs = 0.3 * drawn(2, 6, *shape)
        torch.testing.assert_close(fuse(inputs), ((1 + weight) * inputs + bias).clamp(-1, 1))


def test_conv1d_is_two_convolutions_along_time() -> None:
    generator = GENERATORS["Conv1d"]((3, 12))
    first, bias, second, last = (p.detach() for p in generator.parameters())
    assert [tuple(p.shape) for p in (first, bias, second, last)] == [(16, 3, 5), (16,), (3, 16, 5), (3,)]
    inputs = drawn(0, 4, 3, 12)
    padded = F.pad(inputs, (2, 2)).unfold(2, 5, 1)
    hidden = (torch.einsum("nctk,ock->not", padded, first) + bias[:, None]).clamp(min=0)
    expected = torch.einsum("nctk,ock->not", F.pad(hidden, (2, 2)).unfold(2, 5, 1), second) + last[:, None]
    torch.testing.assert_close(generator(inputs), expected)


@pytest.mark.parametrize("name", IMAGES_ONLY)
def test_generators_for_images_name_others_for_other_shapes(name: str) -> None:
    for shape, others in (((8,), "MLP or Scale"), ((8, 8), "MLP, Scale or Conv1d"), ((1, 8, 8, 8), "MLP or Scale")):
        with pytest.raises(InputError) as refused:
            GENERATORS[name](shape)
        words = f"`generator={name}` is for images (channels, height, width), got inputs of the shape {shape}: choose {others}"
        assert str(refused.value) == words


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("MLP", (1025,), r"`generator=MLP` is for inputs of up to 1,024 values, got 1,025 of \(1025,\): choose Scale$"),
        ("MLP", (2, 513), r"up to 1,024 values, got 1,026 of \(2, 513\): choose Scale or Conv1d$"),
        (
            "Conv1d",
            (9,),
            r"`generator=Conv1d` is for sequences \(channels, time\), got inputs of the shape \(9,\): choose MLP or Scale$",
        ),
        ("Conv1d", (3, 8, 8), r"got inputs of the shape \(3, 8, 8\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        GENERATORS[name](shape)


@pytest.mark.parametrize("kind", ["pixels", "coordinates"])
@pytest.mark.parametrize("shape", [(7,), (2, 9), (1, 2, 3, 4)])
def test_directions_of_any_shape(kind: str, shape: tuple[int, ...]) -> None:
    directions = Directions(kind, shape)
    drawn_ones = directions.draw(5, torch.Generator().manual_seed(0))
    assert drawn_ones.shape == (5, *shape)
    assert directions.dimensions == torch.Size(shape).numel()
    torch.testing.assert_close(directions.synthesise(directions.analyse(drawn_ones)), drawn_ones)


def test_what_is_for_images_alone_says_so() -> None:
    with pytest.raises(InputError, match=r"`rge.basis=dct` is for images, got inputs of the shape \(2, 9\): choose pixels"):
        Directions("dct", (2, 9))
    with pytest.raises(
        InputError, match=r"`surrogate.arch=plain` is for images, got inputs of the shape \(7,\): choose perceptron"
    ):
        Surrogate(SurrogateConfig(), (7,), 3, 0)
    assert Surrogate(SurrogateConfig(arch="perceptron"), (7,), 3, 0).logits(drawn(0, 4, 7)).shape == (4, 3)
