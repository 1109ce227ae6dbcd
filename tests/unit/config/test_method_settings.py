"""Every default of every method, as stated, and the table of methods."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from backends.base import Access
from bbfuse.config.schema import RunConfig, section_of
from bbfuse.optimizers import settings as methods
from bbfuse.optimizers.settings import METHODS

DEFAULTS: dict[str, dict[str, Any]] = {
    "BackpropConfig": {"lr": 0.003},
    "RgeConfig": {"space": "inputs", "lr": None, "smoothing": None, "directions": 1, "basis": "pixels", "broyden": True},
    "SpsaConfig": {"step": 0.003, "c": 0.02, "alpha": 0.602, "gamma": 0.101, "pairs": 1},
    "SpsaGcConfig": {"a": 0.003, "c": 0.01, "offset": 1.0, "alpha": 0.4, "gamma": 0.1, "momentum": 0.9, "pairs": 5},
    "FzooConfig": {"lr": 0.03, "smoothing": 0.01, "directions": 8},
    "NesConfig": {"lr": 0.01, "sigma": 0.02, "pairs": 8},
    "PgpeConfig": {"lr": 0.2, "sigma": 0.02, "sigma_lr": 0.1, "largest_change": 0.2, "pairs": 8},
    "CmaConfig": {"subspace": 100, "sigma": 0.01, "population": None},
    "NevergradConfig": {"name": "DiagonalCMA", "sigma": 0.03, "workers": None, "subspace": None},
    "SurrogateConfig": {
        "arch": "plain", "steps": None, "lr": 0.001, "rounds": 5, "updates": 4, "memory": 200, "weights": None,
    },
    "TransferConfig": {"lr": 0.003, "steps": 2000, "images": 0},
    "FollowConfig": {"lr": 0.003, "every": None, "raw": 0.25, "jitter": 0.1},
    "GuidedConfig": {"lr": None, "smoothing": None, "directions": 1, "basis": "pixels"},
}  # fmt: skip
PLACES = {
    "rge": "bbfuse.optimizers.rge:make",
    "spsa": "bbfuse.optimizers.spsa:Spsa",
    "spsa-gc": "bbfuse.optimizers.spsa_gc:SpsaGc",
    "fzoo": "bbfuse.optimizers.fzoo:Fzoo",
    "nes": "bbfuse.optimizers.nes:Nes",
    "pgpe": "bbfuse.optimizers.pgpe:Pgpe",
    "cma": "bbfuse.optimizers.cma:Cma",
    "nevergrad": "bbfuse.optimizers.nevergrad:Nevergrad",
    "transfer": "bbfuse.optimizers.surrogate.transfer:Transfer",
    "follow": "bbfuse.optimizers.surrogate.follow:Follow",
    "guided": "bbfuse.optimizers.surrogate.guided:Guided",
    "backprop": "bbfuse.optimizers.backprop:Backprop",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_settings_have_the_stated_defaults_and_cannot_be_changed(name: str) -> None:
    made = getattr(methods, name)()
    assert dataclasses.asdict(made) == DEFAULTS[name]
    assert {key: type(value) for key, value in dataclasses.asdict(made).items()} == {
        key: type(value) for key, value in DEFAULTS[name].items()
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, next(iter(DEFAULTS[name])), 3)


def test_the_table_of_defaults_is_whole() -> None:
    settings = {name for name in methods.__all__ if name.endswith("Config")}
    assert settings == set(DEFAULTS)
    for name in METHODS:
        assert type(getattr(RunConfig(), section_of(name))).__name__ in DEFAULTS


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_where_the_table_says_and_backprop_alone_needs_gradients(name: str) -> None:
    method = METHODS[name]
    assert method.place == PLACES[name]
    assert method.needs == (Access.GRADIENTS if name == "backprop" else Access.LOGITS)
    loaded = method.load()
    assert f"{loaded.__module__}:{loaded.__name__}" == PLACES[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.place = "elsewhere"  # type: ignore[misc]


def test_the_table_of_methods_has_these() -> None:
    assert list(METHODS) == list(PLACES)
