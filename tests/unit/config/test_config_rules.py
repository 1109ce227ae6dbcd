"""Settings that do not go together: the input that breaks a rule is refused, its neighbours, which break half of it, are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.base import InputError
from backends.flags import as_flags
from bbfuse.config.checks import validate
from tests.helpers.settings import made

Settings = dict[str, Any]
REMOTE: Settings = {"backend": "remote"}
URL: Settings = {**REMOTE, "remote.url": "http://127.0.0.1:8080"}
JSON: Settings = {"remote.request": "{images}", "remote.response": "outputs"}
NO_BROYDEN: Settings = {"rge.broyden": False}
PARAMETERS: Settings = {"rge.space": "parameters"}
STRICT = "cma, follow, fzoo, guided, nes, nevergrad, pgpe, rge, spsa, spsa-gc or transfer"
DROP = "drop it or choose that"
FORGETS = "whose surrogate would be lost when the fuse grows: drop it or choose another optimizer"
REMEMBERS = "which keeps state per image: drop it or choose another optimizer"
ONE_QUESTION = "which sends one query per step: drop it"
WHOLE = "which starts from a whole fuse: drop one of the two"
ADDRESS = "drop it or give the server's address"
OF_OUR_OWN = "the built-in server speaks oip and oip-binary"
BOTH = "--remote.protocol json needs --remote.request, a template, and --remote.response, a path: give both"

REFUSED: list[tuple[Settings, str]] = [
    *[
        ({"optimizer": "backprop", "backend": backend},
         f"--optimizer backprop needs gradients, but --backend {backend} grants logits only: choose --backend whitebox, or "
         f"--optimizer {STRICT}")
        for backend in ("local", "remote")
    ],
    # a section that the choices leave without effect
    ({"remote.price": 3.5}, f"--remote.price has no effect without --backend remote: {DROP}"),
    ({"backend": "whitebox", "remote.url": "http://a"}, f"--remote.url has no effect without --backend remote: {DROP}"),
    ({"remote.price": 3.5, "remote.url": "http://a"}, f"--remote.url has no effect without --backend remote: {DROP}"),
    ({"chip_seed": 0, "standardize.images": 9}, f"--standardize.images has no effect without --head standardize: {DROP}"),
    ({"head": "none", "standardize.images": 9}, f"--standardize.images has no effect without --head standardize: {DROP}"),
    *[
        ({name: value}, f"--{name.replace('_', '-')} has no effect without --optimizer {optimizer}: {DROP}")
        for name, value, optimizer in [
            ("backprop.lr", 0.07, "backprop"), ("spsa.gamma", 0.3, "spsa"), ("spsa_gc.offset", 3.0, "spsa-gc"),
            ("fzoo.lr", 0.07, "fzoo"), ("nes.pairs", 3, "nes"), ("pgpe.sigma_lr", 0.3, "pgpe"), ("cma.subspace", None, "cma"),
            ("nevergrad.name", "CMA", "nevergrad"), ("transfer.images", 7, "transfer"), ("follow.raw", 0.7, "follow"),
            ("guided.basis", "dct", "guided"),
        ]
    ],
    ({"optimizer": "spsa", "rge.lr": 0.7}, f"--rge.lr has no effect without --optimizer rge: {DROP}"),
    ({"optimizer": "spsa", **NO_BROYDEN}, f"--rge.broyden has no effect without --optimizer rge: {DROP}"),
    ({"surrogate.rounds": 3, "surrogate.memory": 7},
     "--surrogate.rounds has no effect without --optimizer follow, guided or transfer: drop it or choose one"),
    ({"affine.lr": 0.7, "affine.decay": 0.3}, "--affine.lr has no effect without --head affine or net: drop it or choose one"),
    ({"chip_seed": 0, "head": "standardize", "affine.lr": 0.7},
     "--affine.lr has no effect without --head affine or net: drop it or choose one"),
    # the server
    ({**URL, "remote.pixels": "uint8"},
     "--remote.pixels has no effect with --remote.url, whose server declares what it takes: drop it"),
    ({**REMOTE, "remote.store": "kept"},
     "--remote.store has no effect without --remote.url, since the built-in server costs nothing: drop it"),
    ({**URL, "remote.store": "kept", "remote.watch": 0},
     "--remote.store needs the check that responses are repeatable: drop --remote.watch 0"),
    ({**URL, "memory.bits": 4, "memory.stored": "weights"},
     "--memory.bits has no effect with --remote.url, whose server has its own: drop it"),
    *[
        ({**REMOTE, f"remote.{name}": value}, f"--remote.{name.replace('_', '-')} has no effect without --remote.url: {ADDRESS}")
        for name, value in [
            ("layout", "nhwc"), ("range", "unit"), ("request", "{images}"), ("response", "outputs"), ("key_env", "KEY"),
            ("key_header", "X-API-Key"), ("ca", "ca.pem"),
        ]
    ],
    *[
        ({**REMOTE, "remote.protocol": protocol}, f"--remote.protocol {protocol} needs --remote.url: {OF_OUR_OWN}")
        for protocol in ("tensorflow", "json")
    ],
    ({**REMOTE, "remote.url": "ftp://a"},
     "--remote.url must be an http or https address with a host name, got ftp://a"),
    ({**REMOTE, "remote.url": "http://a.example", "remote.key_env": "KEY"},
     "--remote.key-env needs an encrypted connection to another machine, got http://a.example: give an https address"),
    ({**URL, "remote.key_header": "X-API-Key"},
     "--remote.key-header has no effect without --remote.key-env, which names the variable with the key: give both"),
    ({**URL, "remote.ca": "ca.pem"},
     "--remote.ca has no effect without an https address as --remote.url: drop it or give one"),
    ({**URL, **JSON, "remote.protocol": "oip"}, "--remote.request has no effect with --remote.protocol oip: drop one of the two"),
    ({**URL, "remote.response": "a", "remote.protocol": "tensorflow"},
     "--remote.response has no effect with --remote.protocol tensorflow: drop one of the two"),
    ({**URL, "remote.request": "{images}"}, BOTH),
    ({**URL, "remote.response": "outputs"}, BOTH),
    ({**URL, "remote.protocol": "json"}, BOTH),
    ({**URL, "remote.protocol": "json", "remote.request": "{images}"}, BOTH),
    ({**REMOTE, "remote.layout": "nhwc", "remote.ca": "ca.pem"},
     f"--remote.layout has no effect without --remote.url: {ADDRESS}"),
    # devices and workers
    *[
        ({"optimizer": "transfer", "device": device}, f"--device must be cpu, cuda or cuda:NUMBER, got {device}")
        for device in ("gpu", "cuda:", "cuda:x", "cpu:0", "cuda:1x", "xcpu", "CPU")
    ],
    ({"device": "cuda"}, "--device cuda goes with --optimizer backprop, follow or transfer, got rge: drop it"),
    ({**REMOTE, "device": "cuda:1", "optimizer": "follow"},
     "--device cuda:1 goes with --backend bench, function, local, object or whitebox, got remote: drop it"),
    ({"ray.address": "auto", "ray.cpus": 0.3}, "--ray.address has no effect without --workers: drop it or give their number"),
    *[
        ({"workers": 3, "ray.address": address},
         f"--ray.address must be local, auto, HOST:PORT or ray://HOST:PORT, got {address}")
        for address in ("head", "head:", ":6379", "http://head:6379", "head:6379/x", "a b:6379", "ray:/head:1", "locally")
    ],
    *[
        ({"workers": 3, "optimizer": optimizer, "backend": "whitebox"},
         f"--workers has no effect with --optimizer {optimizer}, {ONE_QUESTION}")
        for optimizer in ("backprop", "transfer", "follow")
    ],
    ({**URL, "workers": 3, "remote.store": "kept"},
     "--remote.store does not go with --workers, which compute their images themselves: drop one of the two"),
    ({**REMOTE, "workers": 3, "ray.address": "auto"},
     "the built-in server listens on this machine only: give --remote.url, or --ray.address local"),
    # how the fuse is made, and what methods remember
    *[
        ({"optimizer": optimizer, name: value}, f"--{name.replace('_', '-')} does not go with --optimizer {optimizer}, {FORGETS}")
        for optimizer in ("transfer", "follow", "guided") for name, value in (("grow", "Filter"), ("warm_up", 700))
    ],
    ({"init": Path("runs/a"), "grow": "Filter"}, f"--grow does not go with --init, {WHOLE}"),
    ({"init": Path("runs/a"), "warm_up": 700}, f"--warm-up does not go with --init, {WHOLE}"),
    ({**PARAMETERS, **NO_BROYDEN}, "--rge.no-broyden has no effect with --rge.space parameters: drop it"),
    ({**PARAMETERS, "rge.basis": "dct"}, "--rge.basis has no effect with --rge.space parameters: drop it"),
    ({"augment": True}, f"--augment does not go with --optimizer rge, {REMEMBERS}"),
    ({"augment": True, "optimizer": "guided"}, f"--augment does not go with --optimizer guided, {REMEMBERS}"),
    # no chip
    *[
        ({"no_chip": True, name: value},
         f"--{name.replace('_', '-')} has no effect with --no-chip, where the target has no bit errors: drop one of the two")
        for name, value in (
            ("chip_seed", 0), ("bit_error_rate", 0.1), ("eopm.chips", 3), ("eopm.pool", 3), ("eopm.clean_weight", 1.0),
            ("memory.bits", 4), ("report.chips", 3),
        )
    ],
    ({"no_chip": True, "labels": "target"},
     "--labels target would teach the target's own errors on the shifted inputs with --no-chip: give labels, or drop it"),
    ({"no_chip": True, "head": "standardize"},
     "--head standardize needs responses of another operating point, which --no-chip does not have: choose --head affine"),
    ({"no_chip": True, "optimizer": "transfer"},
     "--optimizer transfer trains on simulated chips, which --no-chip does not have: choose another optimizer"),
    ({"start": "corrections"}, "--start corrections has no effect without --no-chip: drop it"),
    ({"start": "zero", "chip_seed": 0}, "--start zero has no effect without --no-chip: drop it"),
    ({"no_chip": True, "start": "corrections", "init": Path("runs/a")},
     "--start corrections does not go with --init, which starts from a trained fuse: drop one of the two"),
    # one chip and the population
    *[
        ({"head": head}, f"--head {head} is trained for one chip and does not apply to unseen ones: give --chip-seed, or choose "
                         "--head standardize")
        for head in ("affine", "net")
    ],
    *[
        ({"chip_seed": 0, name: 3}, f"--{name} has no effect with --chip-seed, where one chip is {why}: drop one of the two")
        for name, why in (("eopm.chips", "trained"), ("eopm.pool", "trained"), ("report.chips", "reported"))
    ],
]  # fmt: skip

ACCEPTED: list[Settings] = [
    {}, {"chip_seed": 0}, {"optimizer": "backprop", "backend": "whitebox"}, {"backend": "whitebox"},
    {**REMOTE, "remote.price": 3.5}, {"standardize.images": 9}, {"chip_seed": 0, "head": "standardize", "standardize.images": 9},
    {"optimizer": "spsa-gc", "spsa_gc.offset": 3.0}, {"optimizer": "transfer", "surrogate.rounds": 3},
    {"optimizer": "follow", "surrogate.rounds": 3}, {"optimizer": "guided", "surrogate.rounds": 3},
    {"chip_seed": 0, "affine.lr": 0.7}, {"chip_seed": 0, "head": "net", "affine.lr": 0.7},
    URL, {**REMOTE, "remote.pixels": "uint8"}, {**URL, "remote.store": "kept"}, {**URL, "remote.watch": 0},
    {**URL, "remote.store": "kept", "remote.watch": 1}, {**REMOTE, "remote.watch": 0}, {**REMOTE, "memory.bits": 4},
    {**REMOTE, "remote.protocol": "oip"}, {**REMOTE, "remote.protocol": "oip-binary"}, {**URL, "remote.protocol": "tensorflow"},
    {**URL, "remote.layout": "nhwc", "remote.range": "unit"}, {**URL, **JSON}, {**URL, **JSON, "remote.protocol": "json"},
    {**URL, "remote.key_env": "KEY"}, {**URL, "remote.key_env": "KEY", "remote.key_header": "X-API-Key"},
    {**REMOTE, "remote.url": "http://a.example"}, {**REMOTE, "remote.url": "https://a.example", "remote.key_env": "KEY"},
    {**REMOTE, "remote.url": "https://a.example", "remote.ca": "ca.pem"},
    {"device": "cpu"}, {**REMOTE, "optimizer": "follow"}, {"device": "cuda", "optimizer": "transfer"},
    {"device": "cuda:0", "optimizer": "follow"}, {"device": "cuda:12", "optimizer": "backprop", "backend": "whitebox"},
    {"workers": 3}, *[{"workers": 3, "ray.address": a} for a in ("local", "auto", "head:6379", "10.0.0.1:6379", "ray://head:10001")],
    {**REMOTE, "workers": 3}, {**URL, "workers": 3, "ray.address": "auto"}, {"workers": 3, "ray.address": "auto"},
    {**REMOTE, "workers": 3, "ray.timeout": 7.0}, {"optimizer": "follow"}, {**URL, "workers": 3},
    {"grow": "Filter", "warm_up": 700}, {"init": Path("runs/a")}, {"init": Path("runs/a"), "optimizer": "follow"},
    PARAMETERS, NO_BROYDEN, {"rge.basis": "dct"}, {"augment": True, **PARAMETERS}, {"augment": True, **NO_BROYDEN},
    {"augment": True, "optimizer": "spsa"}, {"optimizer": "guided"}, {"head": "none"}, {"head": "standardize"},
    {"chip_seed": 0, "head": "affine"}, {"chip_seed": 0, "head": "net"}, {"chip_seed": 0, "head": "none"},
    {"eopm.chips": 3, "eopm.pool": 7, "report.chips": 3}, {"no_chip": True}, {"no_chip": True, "head": "net"},
    {"no_chip": True, "optimizer": "follow", "head": "none"}, {"no_chip": True, "labels": "given"},
    {"no_chip": True, "start": "corrections"}, {"no_chip": True, "start": "zero", "init": Path("runs/a")},
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_does_not_go_together_is_refused_with_the_way_out(settings: Settings, message: str) -> None:
    with pytest.raises(InputError) as error:
        validate(made(settings))
    assert as_flags(str(error.value)) == message
    assert "--" not in str(error.value)  # the library knows no flags


@pytest.mark.parametrize("settings", ACCEPTED, ids=str)
def test_what_breaks_a_rule_by_half_only_is_accepted(settings: Settings) -> None:
    validate(made(settings))
