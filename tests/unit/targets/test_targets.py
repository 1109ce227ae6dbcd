"""The fitted target: good, fragile, cached, and never a silently broken file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Dataset
from backends.datasets.loading import load
from backends.memory.simulator import Simulator
from backends.targets import networks
from backends.targets.base import image_shape_of
from backends.targets.fit import fitted
from backends.targets.norms import group
from backends.training.augmentation import cut, moved
from backends.training.fitting import fit
from backends.training.recipe import Recipe
from bbfuse.training.evaluation import accuracy


def test_the_digits_target_is_good_and_low_voltage_hurts(network: nn.Module, digits: Dataset) -> None:
    simulator = Simulator(network)
    clean = accuracy(simulator.logits(digits.test.images, NOMINAL), digits.test.labels)
    assert clean > 0.96
    for seed in range(5):
        assert clean - accuracy(simulator.logits(digits.test.images, Chip(0.05, seed)), digits.test.labels) > 0.2


def test_fitting_depends_on_nothing_but_the_recipe(digits: Dataset) -> None:
    short = Recipe(steps=3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = fit(networks.build("digits", (1, 8, 8)), digits.train, short).state_dict()
    torch.rand(17)
    torch.set_num_threads(2)
    second = fit(networks.build("digits", (1, 8, 8)), digits.train, short).state_dict()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_damaged_file_is_noticed_and_fitted_again(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BBFUSE_CACHE", str(tmp_path))
    short = Recipe(steps=3)
    good = fitted("digits", digits, short).state_dict()
    (file,) = tmp_path.glob("*.pt")
    blob = bytearray(file.read_bytes())
    blob[len(blob) // 2] ^= 1
    file.write_bytes(bytes(blob))
    with caplog.at_level(logging.WARNING):
        again = fitted("digits", digits, short).state_dict()
    assert "does not match its checksum" in caplog.text
    assert all(torch.equal(good[name], again[name]) for name in good)


def test_a_cache_that_cannot_be_written_costs_a_warning(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BBFUSE_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        fitted("digits", digits, Recipe(steps=1))
    assert "could not be cached" in caplog.text


def test_the_split_is_fixed_and_disjoint(digits: Dataset) -> None:
    parts = [digits.train, digits.validation, digits.test]
    assert [len(part) for part in parts] == [1150, 287, 360]
    rows = torch.cat([part.images.flatten(1) for part in parts])
    assert len(rows.unique(dim=0)) == len(rows)
    assert rows.min() == -1.0
    assert rows.max() == 1.0


@pytest.mark.parametrize(("images", "train", "validation"), [(10, 8, 2), (500, 400, 100), (1437, 1150, 287)])
def test_owned_images_are_split_into_training_and_validation(digits: Dataset, images: int, train: int, validation: int) -> None:
    owned = digits.owned(images)
    assert (len(owned.train), len(owned.validation)) == (train, validation)
    assert owned.test is digits.test


@pytest.mark.parametrize("images", [0, 9, 1438])
def test_more_or_fewer_images_than_there_are_is_refused(digits: Dataset, images: int) -> None:
    with pytest.raises(InputError, match=f"got {images}"):
        digits.owned(images)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"`data` must be digits, module:attribute, FILE\.npz, a folder, or a hub id OWNER/NAME, got mnist"
    ):
        load("mnist")
    with pytest.raises(InputError, match=r"`target` must be one of binary, .*, or module:attribute, got alexnet"):
        networks.build("alexnet", (1, 8, 8))
    with pytest.raises(InputError, match="`target` resnet18 takes images"):
        fitted("resnet18", load("digits"))


@pytest.mark.parametrize(
    ("name", "parameters", "stored", "layers"),  # NeuralFuse, Table 7; stored weights and layers counted in its code
    [
        ("resnet18", 11_173_962, 11_164_352, 21),
        ("resnet50", 23_520_842, 23_467_712, 54),
        ("vgg11", 9_231_114, 9_222_848, 9),
        ("vgg16", 14_728_266, 14_715_584, 14),
        ("vgg19", 20_040_522, 20_024_000, 17),
    ],
)
def test_the_papers_targets_have_its_sizes(name: str, parameters: int, stored: int, layers: int) -> None:
    network = networks.build(name, (3, 32, 32)).eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    weights = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert (sum(weights), len(weights)) == (stored, layers)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "parameters"),  # Stutz et al.'s SimpleNet, and ours
    [("simplenet-gn", 5_498_378), ("digits", 25_274), ("digits-gn", 25_466), ("digits-bn", 25_466), ("resnet8-gn", 78_042)],
)
def test_targets_with_group_normalisation_have_their_sizes(name: str, parameters: int) -> None:
    network, shape = networks.build(name, image_shape_of(name)).eval(), image_shape_of(name)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(torch.zeros(2, *shape)).shape == (2, 10)
    for layer in network.modules():
        assert not isinstance(layer, nn.BatchNorm2d) or not name.endswith("-gn")


@pytest.mark.parametrize(("channels", "groups"), [(16, 8), (32, 16), (64, 32), (48, 24), (2048, 32), (24, 12), (1, 1)])
def test_groups_are_the_most_there_may_be(channels: int, groups: int) -> None:
    assert group(channels).num_groups == groups


def test_one_square_of_each_image_is_made_grey() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        grey = cut(torch.ones(200, 2, 9, 9), 4) == 0
    assert torch.equal(grey[:, 0], grey[:, 1])
    sizes = {(int(one.any(1).sum()), int(one.any(0).sum())) for one in grey[:, 0]}
    assert all(int(one.sum()) == int(one.any(1).sum()) * int(one.any(0).sum()) for one in grey[:, 0])
    assert {rows for rows, _ in sizes} == {columns for _, columns in sizes} == {2, 3, 4}
    assert grey[:, 0].any(0).all()


def test_moved_images_are_shifted_and_mirrored_each_on_its_own() -> None:
    images = torch.rand(40, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(shift=1, mirror=True, each=True)
    found = set()
    for image, result in zip(images, moved(images, recipe, torch.Generator().manual_seed(1)), strict=True):
        framed = nn.functional.pad(image, (1, 1, 1, 1), value=-1.0)
        windows = {(down, right): framed[:, down : down + 6, right : right + 5] for down in range(3) for right in range(3)}
        ways = {(*at, side) for at, w in windows.items() for side in (1, -1) if torch.equal(w if side > 0 else w.flip(2), result)}
        assert len(ways) == 1
        found |= ways
    assert len(found) > 10
