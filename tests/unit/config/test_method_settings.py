"""Every default of every method, as stated, and the table of methods."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from backends.base import Access
from bbfuse.config.schema import RunConfig, section_of
from bbfuse.optimizers.base import OPTIMIZERS
from bbfuse.optimizers.surrogate.network import SurrogateConfig

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
NEEDS_GRADIENTS, USES_SURROGATE = {"backprop"}, {"transfer", "follow", "guided"}
SINGLE_QUERY = {"backprop", "transfer", "follow"}
NAMES = {
    "backprop", "cma", "follow", "fzoo", "guided", "nes", "nevergrad", "pgpe", "rge", "spsa", "spsa-gc", "transfer",
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
def test_settings_have_the_stated_defaults_and_cannot_be_changed(name: str) -> None:
    kinds = {component.Config.__name__: component.Config for component in OPTIMIZERS.values()}
    kinds["SurrogateConfig"] = SurrogateConfig
    made = kinds[name]()
    assert dataclasses.asdict(made) == DEFAULTS[name]
    assert {key: type(value) for key, value in dataclasses.asdict(made).items()} == {
        key: type(value) for key, value in DEFAULTS[name].items()
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, next(iter(DEFAULTS[name])), 3)


def test_the_table_of_defaults_is_complete() -> None:
    assert {component.Config.__name__ for component in OPTIMIZERS.values()} | {"SurrogateConfig"} == set(DEFAULTS)
    for name in OPTIMIZERS:
        section = section_of("optimizer", name)
        assert section is not None
        assert type(getattr(RunConfig(), section)) is OPTIMIZERS[name].Config


def test_the_registry_has_these_optimizers_with_these_capabilities() -> None:
    assert set(OPTIMIZERS) == NAMES
    assert {name for name, kind in OPTIMIZERS.items() if kind.access == Access.GRADIENTS} == NEEDS_GRADIENTS
    assert {name for name, kind in OPTIMIZERS.items() if kind.uses_surrogate} == USES_SURROGATE
    assert {name for name, kind in OPTIMIZERS.items() if not kind.scores_probes} == SINGLE_QUERY
    assert {name: kind.chip_batch for name, kind in OPTIMIZERS.items() if kind.chip_batch != 16} == {"follow": 32, "transfer": 64}
    assert {name for name, kind in OPTIMIZERS.items() if kind.keeps_state_per_image(kind.Config())} == {"rge", "guided"}
