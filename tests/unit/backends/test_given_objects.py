"""Objects that are given in Python: the names by which registries find them again."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from backends.base import InputError
from backends.registry import executes_code, objects_in, restore
from backends.targets.base import TARGETS
from bbfuse.config import RunConfig
from bbfuse.fuse.generators.base import GENERATORS
from bbfuse.fuse.generators.small import mix
from bbfuse.optimizers.base import OPTIMIZERS
from bbfuse.optimizers.spsa import Spsa
from tests.helpers.documents.pages import ROOT


def test_a_name_and_a_registered_component_keep_their_names() -> None:
    assert OPTIMIZERS.adopt("spsa") == "spsa"
    assert OPTIMIZERS.adopt("mine.py:Own") == "mine.py:Own"
    assert OPTIMIZERS.adopt(Spsa) == "spsa"
    assert GENERATORS.adopt(mix) == "Mix"


def test_what_another_process_can_import_is_named_by_its_place(tmp_path: Path) -> None:
    assert GENERATORS.adopt(nn.Flatten) == "torch.nn.modules.flatten:Flatten"
    assert GENERATORS[GENERATORS.adopt(nn.Flatten)] is nn.Flatten
    file = tmp_path / "own.py"
    file.write_text("def flat(shape):\n    return shape\n")
    own = GENERATORS[f"{file}:flat"]
    assert GENERATORS.adopt(own) == f"{file}:flat"


def test_other_objects_are_found_in_this_process_under_one_name_each() -> None:
    first, second = nn.Linear(2, 3), nn.Linear(2, 3)
    names = [TARGETS.adopt(network) for network in (first, second, first)]
    assert names[0] == names[2] != names[1]
    assert all(name.startswith("object:Linear") for name in names)
    assert TARGETS[names[0]] is first
    assert TARGETS[names[1]] is second
    local = lambda shape: mix(shape)  # noqa: E731
    assert GENERATORS[GENERATORS.adopt(local)] is local
    assert "+" not in GENERATORS.adopt(type("A+B", (), {})())


def test_an_object_may_be_given_again_under_its_earlier_name() -> None:
    network = nn.Linear(4, 3)
    assert TARGETS.adopt(network, "object:Earlier") == "object:Earlier"
    assert TARGETS["object:Earlier"] is network


def test_an_object_that_is_not_known_here_has_to_be_given_again() -> None:
    with pytest.raises(InputError, match=r"^`target` object:Nothing was given as an object in Python, .* give it again$"):
        TARGETS["object:Nothing"]


def test_objects_travel_with_a_configuration_to_another_process() -> None:
    network = nn.Linear(4, 3)
    config = RunConfig(target=f"{TARGETS.adopt(network)}+digits", chip_seed=0)
    assert set(objects_in([config.target, "spsa", None, 3])) == {TARGETS.adopt(network)}
    there = "import pickle, sys; from backends.targets.base import TARGETS; config = pickle.load(sys.stdin.buffer)\n"
    there += "print(TARGETS[config.target.split('+')[0]].weight.sum().item())"
    done = subprocess.run(
        [sys.executable, "-c", there], input=pickle.dumps(config), capture_output=True, cwd=ROOT, check=True, timeout=120
    )
    assert float(done.stdout) == pytest.approx(network.weight.sum().item())


def test_restored_objects_replace_nothing_else() -> None:
    network = nn.Linear(4, 3)
    restore({"object:Travelled": network})
    assert TARGETS["object:Travelled"] is network
    assert TARGETS["digits"] is not network


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MLP", False), ("Filter+MLP", False), ("object:Net", False), ("object:Net+MLP", False), ("a.py:b", True),
        ("a.b:c", True), ("MLP+a.b:c", True), ("object:Net+a.py:b", True), ("MLP+object:Net", False),
    ],
)  # fmt: skip
def test_a_name_says_whether_it_imports_code_of_its_choice(name: str, code: bool) -> None:
    assert executes_code(name) == code


def test_components_registered_elsewhere_are_not_mixed_up() -> None:
    with pytest.raises(InputError, match="`optimizer` must be one of"):
        OPTIMIZERS["Mix"]
