"""What a configuration is without any setting, what it derives from its settings, and how it is written and read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from backends.base import Access, InputError
from backends.kinds.base import BACKENDS
from backends.kinds.remote import RemoteConfig
from backends.memory.config import Memory
from bbfuse.config.schema import RunConfig, section_of
from bbfuse.config.sections import RayConfig, ReportConfig, ValidationConfig
from bbfuse.config.serialization import from_dict, to_dict
from bbfuse.heads.affine import AffineConfig
from bbfuse.heads.standardize import StandardizeConfig
from bbfuse.objective.eopm import EopmConfig
from bbfuse.training.planning import objective_of
from tests.helpers.settings import made

DEFAULTS: dict[str, dict[str, Any]] = {
    "RunConfig": {
        "backend": "local", "optimizer": "rge", "data": "digits", "target": "digits", "generator": "MLP", "grow": None,
        "warm_up": 0, "start": None, "bit_error_rate": 0.05, "chip_seed": None, "no_chip": False, "head": None,
        "images": None, "labels": "given", "budget": 20_000, "batch": None, "sampling": "hard", "augment": False, "seed": 0,
        "threads": 1, "device": "cpu", "precision": "float32", "workers": 0, "out": None, "init": None, "responses": None,
        "plan": False,
        "json": False, "resume": None, "trust": False,
    },
    "RemoteConfig": {
        "url": None, "model": None, "protocol": None, "layout": None, "range": None, "request": None, "response": None,
        "key_env": None, "key_header": None, "ca": None, "timeout": 30.0, "connect_timeout": 10.0, "attempts": 4,
        "patience": 300.0, "requests_per_second": None, "reserve": 0.0, "price": None, "pixels": None, "in_flight": 4,
        "store": None, "watch": None,
    },
    "RayConfig": {"address": "local", "timeout": 300.0, "cpus": None, "gpus": None},
    "EopmConfig": {"clean_weight": None, "perturbed_weight": 5.0, "chips": 1, "pool": None, "terms": "one"},
    "StandardizeConfig": {"images": 50},
    "AffineConfig": {"images": 2000, "lr": 0.006, "decay": 0.001},
    "ValidationConfig": {"images": 100, "times": 8},
    "ReportConfig": {"chips": 10, "images": None, "share": 1 / 3},
    "Memory": {"quantization": "neuralfuse", "bits": 8, "stored": None, "errors": "random", "profile": None, "offset": 0},
}  # fmt: skip


SECTIONS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        RunConfig, RemoteConfig, RayConfig, EopmConfig, StandardizeConfig, AffineConfig, ValidationConfig, ReportConfig, Memory
    )
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_setting_has_its_stated_default_and_cannot_be_changed(name: str) -> None:
    kind = SECTIONS[name]
    made_without = {field.name: getattr(kind(), field.name) for field in dataclasses.fields(kind)}
    assert {name: value for name, value in made_without.items() if not dataclasses.is_dataclass(value)} == DEFAULTS[name]
    first = next(iter(DEFAULTS[name]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), first, DEFAULTS[name][first])


def test_each_section_starts_from_its_own_defaults() -> None:
    found = {f.name: type(getattr(RunConfig(), f.name)).__name__ for f in dataclasses.fields(RunConfig)}
    assert {name: kind for name, kind in found.items() if kind.endswith("Config") or kind == "Memory"} == {
        "bench": "BenchConfig", "function": "FunctionConfig", "remote": "RemoteConfig", "ray": "RayConfig", "memory": "Memory",
        "eopm": "EopmConfig",
        "standardize": "StandardizeConfig", "affine": "AffineConfig", "backprop": "BackpropConfig", "rge": "RgeConfig",
        "spsa": "SpsaConfig", "spsa_gc": "SpsaGcConfig", "fzoo": "FzooConfig", "nes": "NesConfig", "pgpe": "PgpeConfig",
        "cma": "CmaConfig", "nevergrad": "NevergradConfig", "surrogate": "SurrogateConfig", "transfer": "TransferConfig",
        "follow": "FollowConfig", "guided": "GuidedConfig", "validation": "ValidationConfig", "report": "ReportConfig",
    }  # fmt: skip
    for f in dataclasses.fields(RunConfig):
        value = getattr(RunConfig(), f.name)
        if dataclasses.is_dataclass(value):
            assert value == type(value)()  # type: ignore[operator]
    assert section_of("optimizer", "spsa-gc") == "spsa_gc"


def test_a_simulator_and_a_server_grant_answers_and_the_white_box_gradients() -> None:
    granted = {name: kind.access for name, kind in BACKENDS.items()}
    assert granted.pop("whitebox") == Access.GRADIENTS
    assert set(granted.values()) == {Access.LOGITS}


ONE_CHIP: dict[str, Any] = {"chip_seed": 0}
URL: dict[str, Any] = {"backend": "remote", "remote.url": "http://a.example"}


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        ({}, "head_name", "standardize"),
        (ONE_CHIP, "head_name", "affine"),
        ({"chip_seed": 7}, "head_name", "affine"),
        ({"no_chip": True}, "head_name", "affine"),
        ({"head": "none"}, "head_name", "none"),
        ({**ONE_CHIP, "head": "none"}, "head_name", "none"),
        ({**ONE_CHIP, "head": "net"}, "head_name", "net"),
        ({}, "model", "digits"),
        ({"target": "some/where/mine.v2.pt"}, "model", "mine.v2"),
        ({"target": "some/where/mine.pt", "remote.model": "theirs"}, "model", "theirs"),
        ({}, "checks", 0),
        ({"backend": "remote"}, "checks", 0),
        (URL, "checks", 3),
        ({**URL, "remote.watch": 0}, "checks", 0),
        ({**URL, "remote.watch": 7}, "checks", 7),
        ({"backend": "remote", "remote.watch": 5}, "checks", 5),
        ({}, "chips_per_step", 1),
        ({"eopm.chips": 3}, "chips_per_step", 3),
        ({**ONE_CHIP, "eopm.chips": 3}, "chips_per_step", 1),
        ({}, "batch_size", 64),
        (ONE_CHIP, "batch_size", 16),
        ({"chip_seed": 7, "optimizer": "spsa"}, "batch_size", 16),
        ({"no_chip": True, "optimizer": "spsa"}, "batch_size", 16),
        ({**ONE_CHIP, "optimizer": "follow"}, "batch_size", 32),
        ({**ONE_CHIP, "optimizer": "transfer"}, "batch_size", 64),
        ({"optimizer": "follow"}, "batch_size", 64),
        ({"batch": 23}, "batch_size", 23),
        ({**ONE_CHIP, "optimizer": "follow", "batch": 23}, "batch_size", 23),
        ({}, "clean_weight", 1.0),
        (ONE_CHIP, "clean_weight", 0.0),
        ({"eopm.clean_weight": 0.0}, "clean_weight", 0.0),
        ({**ONE_CHIP, "eopm.clean_weight": 0.3}, "clean_weight", 0.3),
        ({"eopm.chips": 3}, "terms_per_step", 3),
        ({"eopm.chips": 3, "eopm.terms": "all"}, "terms_per_step", 4),
        ({"eopm.chips": 3, "eopm.terms": "all", "eopm.clean_weight": 0.0}, "terms_per_step", 3),
        ({**ONE_CHIP, "eopm.terms": "all"}, "terms_per_step", 1),
        ({**ONE_CHIP, "eopm.terms": "all", "eopm.clean_weight": 0.3}, "terms_per_step", 2),
        ({**ONE_CHIP, "eopm.clean_weight": 0.3}, "terms_per_step", 1),
    ],
)
def test_what_is_derived_from_the_settings_has_its_stated_value(settings: dict[str, Any], name: str, value: Any) -> None:
    config = made(settings)
    owner = {"checks": config.remote, "clean_weight": objective_of(config), "chips_per_step": objective_of(config),
             "terms_per_step": objective_of(config)}.get(name, config)  # fmt: skip
    assert getattr(owner, name) == value


NOT_WRITTEN: dict[str, Any] = {
    "trust": True,
    "out": Path("runs/x"),
    "plan": True,
    "json": True,
    "resume": Path("runs/y"),
    "workers": 3,
}


def test_what_is_written_is_all_that_a_run_computes_from_and_is_read_back() -> None:
    settings = {
        "optimizer": "spsa", "spsa.c": 0.5, "chip_seed": 4, "init": Path("runs/z"), "head": "net", "memory.bits": 4,
        "memory.stored": "parameters", "labels": "target", "batch": 23,
    }  # fmt: skip
    plain = json.loads(json.dumps(to_dict(made({**settings, **NOT_WRITTEN, "ray.cpus": 0.3}))))
    assert set(plain) == {f.name for f in dataclasses.fields(RunConfig)} - {*NOT_WRITTEN, "ray"}
    assert (plain["init"], plain["spsa"]["c"], plain["memory"]["bits"], plain["batch"]) == ("runs/z", 0.5, 4, 23)
    assert from_dict(plain) == made(settings)
    assert to_dict(RunConfig())["init"] is None
    assert from_dict(to_dict(RunConfig())) == RunConfig()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": 1, "colour": 1}, "config.json has an unknown setting colour"),
        ({"rge": {"colour": 1}}, "config.json has an unknown setting rge.colour"),
        (
            {"backend": "cloud"},
            "config.json has backend = cloud, which is none of bench, function, local, object, remote, whitebox",
        ),
        ({"rge": {"space": "moon"}}, "config.json has rge.space = moon, which should be 'inputs' or 'parameters'"),
        ({"head": "hat"}, "config.json has head = hat, which is none of affine, net, none, standardize"),
        ({"memory": {"stored": "some"}}, "config.json has memory.stored = some, which should be 'weights' or 'parameters'"),
    ],
)
def test_an_edited_file_with_unknown_settings_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        from_dict({**to_dict(RunConfig()), **change})
    assert str(error.value) == message


def test_an_unknown_optimizer_in_the_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"^config\.json has optimizer = adam, which is none of backprop, cma, .*, transfer$"):
        from_dict({"optimizer": "adam"})
