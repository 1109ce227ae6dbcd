"""The control: it has the documented size and is trained by the recipe for the size of its images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backends.datasets.base import Dataset, Split
from backends.training.recipe import LARGE_RECIPE, Recipe
from bbfuse.compare import baselines


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_networks_have_the_parameters_and_layers_that_are_stated() -> None:
    assert size(baselines.network((1, 8, 8), 10)) == 8_410
    assert size(baselines.network((3, 32, 32), 10)) == 23_682
    small = baselines.network((2, 7, 8), 5)
    assert (small[1].in_features, small[1].out_features, small[3].in_features, small[3].out_features) == (112, 112, 112, 5)
    assert small(torch.zeros(3, 2, 7, 8)).shape == (3, 5)
    assert baselines.network((3, 8, 9), 4)[1].in_features == 3 * 8 * 9  # it is the height that counts
    assert isinstance(baselines.network((3, 9, 9), 10)[0], nn.Conv2d)  # larger than eight


def test_a_network_for_larger_images_has_four_convolutions_that_keep_the_size_and_two_pools_that_halve_it() -> None:
    network = baselines.network((3, 32, 32), 7)
    image, shapes = torch.zeros(2, 3, 32, 32), []
    for layer in network.eval():
        image = layer(image)
        shapes.append(tuple(image.shape[1:]))
    assert [layer.kernel_size for layer in network if isinstance(layer, nn.Conv2d)] == [(3, 3)] * 4
    assert [layer.bias is None for layer in network if isinstance(layer, nn.Conv2d)] == [True] * 4
    assert list(dict.fromkeys(shapes)) == [
        (16, 32, 32),
        (16, 16, 16),
        (32, 16, 16),
        (32, 8, 8),
        (54, 8, 8),
        (54, 1, 1),
        (54,),
        (7,),
    ]
    assert isinstance(network[3], nn.Conv2d)


class Trained(nn.Module):
    """Right for the first ``right`` images."""

    def __init__(self, right: int) -> None:
        super().__init__()
        self.right = right
        self.factor = nn.Parameter(torch.ones(()))
        self.parts: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        assert not (images * self.factor).requires_grad
        assert not self.training
        self.parts.append(len(images))
        wrong = (images[:, 0, 0, 0] >= self.right).float()
        return torch.stack((0.5 + 0 * wrong, wrong), 1)


@pytest.mark.parametrize(
    ("side", "recipe"), [(8, Recipe(steps=3000, seed=3)), (9, LARGE_RECIPE), (32, LARGE_RECIPE)], ids=["8", "9", "32"]
)
def test_the_control_is_trained_on_the_images_owned_and_tested_on_the_first_held_out(
    side: int, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.arange(1200.0).view(-1, 1, 1, 1).expand(-1, 3, side, side + 1)
    part = Split(images, torch.zeros(1200, dtype=torch.int64))
    given: list[tuple[Any, ...]] = []
    trained = Trained(440)

    def kept(network: nn.Module, train: Split, recipe: Recipe, name: str) -> nn.Module:
        given.append((size(network), len(train), recipe, name))
        return trained

    monkeypatch.setattr(baselines, "kept", kept)
    monkeypatch.setattr(baselines, "load", lambda name: Dataset(name, 2, part, part[:300], part))
    assert baselines.control("toys", 70, 3, tested=1100) == pytest.approx(0.4)
    ((parameters, owned, used, name),) = given
    assert (parameters, owned, name) == (size(baselines.network((3, side, side + 1), 2)), 56, "control")  # a fifth is kept back
    assert used.seed == 3
    assert used.steps == (3000 if side == 8 else 5000)
    assert (used.shift, used.mirror, used.weight_decay) == (recipe.shift, recipe.mirror, recipe.weight_decay)
    assert trained.parts == [500, 500, 100]
    assert baselines.control("toys", None) == pytest.approx(440 / 1200)
    assert given[1][1] == 1200
    assert given[1][2].seed == 0
    assert torch.get_num_threads() == 1
