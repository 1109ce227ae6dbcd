"""Targets and data sets of users: one function in one file, used by its place, in this process and in the server's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from backends.base import NOMINAL, InputError
from backends.datasets.loading import load
from backends.files import short_name
from backends.http.backend import RemoteBackend
from backends.registry import about
from backends.server.subprocess_server import OwnServer
from backends.targets import networks
from backends.targets.base import TARGETS, architecture_of
from backends.targets.fit import fitted, main
from backends.training.recipe import Recipe

TARGET = '''
from torch import nn

from backends.targets.base import architecture
from backends.training.recipe import Recipe

@architecture(image_shape=(1, 8, 8), recipe=Recipe(steps=2))
def small(classes):
    """One linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

def plain(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

trained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def broken(classes):
    return nn.Linear(3, classes)
'''
DATA = '''
from dataclasses import replace

from backends.datasets.loading import load

def few():
    """The digits under another name."""
    return replace(load("digits"), name="few")

nothing = dict
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of targets and one of data sets, and a cache of its own."""
    monkeypatch.setenv("BBFUSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(TARGET)
    (tmp_path / "data.py").write_text(DATA)
    return tmp_path


def test_a_target_of_a_user_is_fitted_with_its_own_recipe_and_cached(place: Path) -> None:
    name, data = f"{place}/mine.py:small", load("digits")
    first = fitted(name, data)
    assert architecture_of(name).recipe == Recipe(steps=2)
    assert about(TARGETS[name]) == "One linear layer"
    assert first(data.test.images[:3]).shape == (3, 10)
    (file,) = (place / "cache").glob("*.pt")
    assert file.name.startswith("mine_small-digits-")
    again = fitted(name, data)
    assert all(torch.equal(first.state_dict()[key], again.state_dict()[key]) for key in first.state_dict())


def test_an_edited_target_is_fitted_again(place: Path) -> None:
    (place / "other.py").write_text(TARGET + "\n# a different file\n")
    for name in ("mine", "other", "mine"):
        fitted(f"{place}/{name}.py:small", load("digits"))
    digests = [file.stem.split("-")[-1] for file in (place / "cache").glob("*.pt")]
    assert len(digests) == len(set(digests)) == 2


def test_a_plain_function_and_a_trained_network_are_targets_too(place: Path) -> None:
    data = load("digits")
    plain = networks.build(f"{place}/mine.py:plain", data.image_shape, 10)
    assert plain(data.test.images[:2]).shape == (2, 10)
    trained = fitted(f"{place}/mine.py:trained", data)
    held = TARGETS[f"{place}/mine.py:trained"]
    assert isinstance(held, nn.Module)
    assert trained is not held
    assert all(torch.equal(trained.state_dict()[key], held.state_dict()[key]) for key in held.state_dict())
    assert next(held.parameters()).requires_grad
    assert not (place / "cache").exists()
    both = fitted(f"{place}/mine.py:trained+{place}/mine.py:trained", data)
    assert isinstance(both, networks.Ensemble)


def test_a_target_that_does_not_fit_the_data_is_refused_in_one_line(place: Path) -> None:
    with pytest.raises(InputError, match=r"^`target` \S*mine.py:broken does not take images \(1, 8, 8\): RuntimeError: "):
        networks.build(f"{place}/mine.py:broken", (1, 8, 8), 10)
    with pytest.raises(InputError, match=r"must give logits \(2, 7\) for two images, got the shape \(2, 10\)$"):
        networks.build(f"{place}/mine.py:trained", (1, 8, 8), 7)
    with pytest.raises(InputError, match=r"^`target` \S*mine.py:small takes images \(1, 8, 8\), but `data` has \(3, 8, 8\)"):
        networks.build(f"{place}/mine.py:small", (3, 8, 8), 10)


def test_a_data_set_of_a_user_is_loaded_by_its_place(place: Path) -> None:
    data = load(f"{place}/data.py:few")
    assert (data.name, len(data.train)) == ("few", 1150)
    with pytest.raises(InputError, match=r"data.py:nothing must give a backends.datasets.base.Dataset, got dict$"):
        load(f"{place}/data.py:nothing")
    with pytest.raises(InputError, match=r"^`data` \S*data.py:absent: \S*data.py has no attribute absent$"):
        load(f"{place}/data.py:absent")


def test_a_server_in_another_process_finds_them(place: Path) -> None:
    target, data = f"{place}/mine.py:trained", f"{place}/data.py:few"
    server = OwnServer(target, data)
    try:
        remote = RemoteBackend(server.url, short_name(target))
        images = load("digits").test.images[:4]
        assert remote.query(images, NOMINAL, lambda _: None).shape == (4, 10)
        remote.close()
    finally:
        server.close()


def test_a_checkpoint_of_a_users_target_is_a_target(place: Path) -> None:
    out = place / "fitted.pt"
    assert main(["--target", f"{place}/mine.py:small", "--data", f"{place}/data.py:few", "--out", str(out)]) == 0
    network = fitted(str(out), load("digits"))
    assert network(load("digits").test.images[:2]).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("digits-gn", "digits-gn"), ("digits+digits-gn", "digits+digits-gn"), ("runs/a/hard.pt", "hard"),
        ("pkg.mod:net", "pkg.mod_net"), ("some/where/FILE.py:net", "FILE_net"), ("a b/c d:net", "a_b_c_d_net"),
    ],
)  # fmt: skip
def test_short_names_are_safe_in_files_and_urls(name: str, short: str) -> None:
    assert short_name(name) == short
