"""Objects that are given in Python: the names by which registries find them again, and how long they live."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from backends.base import InputError
from backends.registry import Given, executes_code, known, label, renew, shown
from backends.targets.base import TARGETS
from bbfuse.config import RunConfig, from_dict, to_dict, validate
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
    assert all(name.startswith("object:linear") for name in names)
    assert TARGETS[names[0]] is first
    assert TARGETS[names[1]] is second
    assert TARGETS[str(names[1])] is second
    local = lambda shape: mix(shape)  # noqa: E731
    assert GENERATORS[GENERATORS.adopt(local)] is local


@pytest.mark.parametrize(
    ("component", "name"),
    [
        (SimpleNamespace(name="My data+/x"), "my-data-x"), (lambda: None, "lambda"), (nn.ReLU(), "relu"),
        (type("A+B", (), {"name": property(lambda self: 1)}), "a-b"), (SimpleNamespace(name=""), "simplenamespace"),
    ],
)  # fmt: skip
def test_an_object_is_called_by_its_own_name_or_its_class(component: object, name: str) -> None:
    given = TARGETS.adopt(component)  # type: ignore[arg-type]
    assert given.rstrip("-0123456789") == f"object:{name}"
    assert label(given) == label(str(given)) == shown(given) == TARGETS.name_of(given) == name


def test_names_have_short_forms() -> None:
    assert label("package.module:Own") == label("a/file.py:Own") == "Own"
    assert label("digits") == "digits"
    assert shown("object:gone-3") == "gone-3"
    assert shown("a/file.py:Own") == "a/file.py:Own"
    assert OPTIMIZERS.name_of(f"{Spsa.__module__}:Spsa") == "spsa"


def test_an_object_may_be_given_again_under_its_earlier_name() -> None:
    network, other = nn.Linear(4, 3), nn.Linear(4, 3)
    first = TARGETS.adopt(network, "object:earlier")
    assert first == "object:earlier"
    second = TARGETS.adopt(other, "object:earlier")
    assert TARGETS[first] is network
    assert TARGETS[second] is TARGETS["object:earlier"] is other
    renew([first, "digits", 3])
    assert TARGETS["object:earlier"] is network


def test_an_object_that_is_not_known_here_has_to_be_given_again() -> None:
    with pytest.raises(InputError, match=r"^`target` object:Nothing was given as an object in Python, .* give it again$"):
        TARGETS["object:Nothing"]


def test_an_object_dies_with_its_names_and_its_name_is_never_used_again() -> None:
    network = nn.Linear(2, 3)
    name, alive = TARGETS.adopt(network), weakref.ref(network)
    text = str(name)
    del network
    gc.collect()
    assert alive() is TARGETS[text]
    del name
    gc.collect()
    assert alive() is None
    with pytest.raises(InputError, match="give it again"):
        TARGETS[text]
    assert TARGETS.adopt(nn.Linear(2, 3)) != text


def test_a_configuration_and_what_is_made_of_it_hold_their_objects() -> None:
    config = RunConfig(target=TARGETS.adopt(nn.Linear(2, 3)), chip_seed=0)
    validate(config)
    again = from_dict(to_dict(config))
    text, copied, changed = str(config.target), copy.deepcopy(config), config.replaced(budget=3)
    network = TARGETS[config.target]
    del config
    for holder in (again, copied, changed):
        assert isinstance(holder.target, Given)
        assert TARGETS[holder.target] is TARGETS[text] is network
    assert isinstance(known(text), Given)
    assert not isinstance(known("digits"), Given)


def test_objects_travel_with_a_configuration_to_another_process() -> None:
    network = nn.Linear(4, 3)
    config = RunConfig(target=TARGETS.adopt(network), generator=GENERATORS.adopt(nn.Linear(2, 2)), chip_seed=0)  # type: ignore[arg-type]
    there = "import pickle, sys; from backends.targets.base import TARGETS; config = pickle.load(sys.stdin.buffer)\n"
    there += "print(TARGETS[config.target].weight.sum().item(), TARGETS[sys.argv[1]] is TARGETS[config.generator])"
    done = subprocess.run(
        [sys.executable, "-c", there, str(config.generator)], input=pickle.dumps(config), capture_output=True, cwd=ROOT,
        check=True, timeout=120,
    )  # fmt: skip
    found, same = done.stdout.split()
    assert float(found) == pytest.approx(network.weight.sum().item())
    assert same == b"True"


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
