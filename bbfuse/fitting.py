"""``bbfuse.fit``: train a fuse and a head for a target from Python, with names or objects for everything."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Chip, InputError
from backends.datasets.base import DATASETS
from backends.datasets.given import dataset
from backends.given import resolve
from backends.kinds.base import BACKENDS
from backends.registry import GIVEN, Registry
from backends.settings import Share
from backends.targets.base import TARGETS
from bbfuse.callbacks.base import Callback
from bbfuse.config import RunConfig, config_class
from bbfuse.config.schema import CHOICES, section_of
from bbfuse.execution import forecast, outcome
from bbfuse.fuse.generators.base import GENERATORS
from bbfuse.result import Result

__all__ = ["Population", "configuration", "fit", "given_again"]

_REGISTRIES: dict[str, Registry[Any]] = {**CHOICES, "generator": GENERATORS, "grow": GENERATORS}
_ELSEWHERE = ("target", "data", "bit_error_rate", "chip_seed", "no_chip", "resume", "json")
"""Settings that the other arguments of `fit` stand for."""


@dataclass(frozen=True)
class Population:
    """All chips at one bit error rate: a fuse is trained on many of them and reported on others."""

    bit_error_rate: Share


def fit(
    target: object, data: object, *, chip: Chip | Population | str | None = "default", callbacks: Sequence[Callback] = (),
    value_range: tuple[float, float] | None = None, channels_last: bool | None = None,
    split: tuple[float, float, float] | None = None, classes: int | None = None, resume: str | Path | None = None,
    plan: bool = False, **settings: Any,
) -> Any:  # fmt: skip
    """Train a fuse and a head for ``target`` from its responses to queries, and report the recovered accuracy.

    Args:
        target: an ``nn.Module``; a callable of a batch of inputs, which returns scores; a scikit-learn estimator; a file (ONNX,
            torch.export, TorchScript, or one of ``bbfuse fit-target``); the URL of a server; a registered name; or a `Backend`.
        data: ``(inputs, labels)`` as arrays or tensors, a torch ``Dataset`` or ``DataLoader``, a ``datasets.Dataset``, a folder,
            a ``.npz`` file, a registered name, or a dictionary with ``train``, ``validation`` and ``test``.
        chip: the `Chip` to train for; the `Population` of chips; or ``None``, for a target without bit errors whose inputs come
            from another domain. If not given chip 0 at 5 % bit errors, and ``None`` for a callable.
        callbacks: called while the run goes on, see `bbfuse.callbacks`.
        value_range: smallest and largest valid value of an input; taken from the data if not given.
        channels_last: whether the last axis of images holds their channels; recognised if not given.
        split: shares of the data for training, validation and test, if it has no parts of its own; 0.6, 0.15 and 0.25 if not
            given.
        classes: number of classes, if there are no labels that show it.
        resume: folder of an interrupted run to go on with; all settings come from there, objects have to be given again.
        plan: return what the run would send and cost instead, and send nothing.
        settings: all settings of `RunConfig` by name. Components (``optimizer``, ``head``, ``generator``, ``backend``) are names,
            classes, or settings of a component such as ``SpsaConfig(c=0.02)``; sections are dictionaries or settings:
            ``spsa={"c": 0.02}``.

    Returns:
        The `Result`; with ``plan`` a dictionary as `bbfuse.execution.forecast` gives it.

    Raises:
        InputError: something given is not possible; no query was sent and nothing was written.
        TargetError: the target failed; the message names the run folder, which ``resume`` takes.
        KeyboardInterrupt: the run was interrupted; ``resume`` continues it.
    """
    rules = {"value_range": value_range, "channels_last": channels_last, "split": split, "classes": classes}
    named = isinstance(data, str | Path) and all(rule is None for rule in rules.values())
    owned = str(data) if named else dataset(data, **rules)  # type: ignore[arg-type]
    if resume is not None:
        if settings.keys() - {"trust", "workers", "ray", *_REGISTRIES} or chip != "default":
            raise InputError(
                "`resume` takes all settings from the run folder: give none but objects, `trust`, `workers` and `ray`"
            )
        return _resumed(Path(resume), target, owned, callbacks, settings)
    backend, component = resolve(target)
    config = configuration(backend, component, owned, chip, settings)
    if plan:
        return forecast(config)
    ended = outcome(config, callbacks)
    return Result(ended.folder, ended.summary)


def configuration(
    backend: str, target: object, data: object, chip: Chip | Population | str | None, settings: Mapping[str, Any]
) -> RunConfig:  # fmt: skip
    """The configuration of a run of `fit`: ``target`` is a name or component of the kind ``backend``, ``data`` a name or
    a `Dataset`.

    Raises:
        InputError: a setting is unknown, or no name of one fits what was given.
    """
    values: dict[str, Any] = {"backend": backend, **settings, **_of_chip(chip, backend)}
    values["data"] = DATASETS.adopt(data)  # type: ignore[arg-type]
    if backend == "remote":
        values["remote"] = _with_url(values.get("remote"), str(target))
    elif backend == "object":
        values["backend"], values["target"] = backend, BACKENDS.adopt(target)  # type: ignore[arg-type]
    else:
        values["target"] = TARGETS.adopt(target)  # type: ignore[arg-type]
    for name, registry in _REGISTRIES.items():
        if values.get(name) is not None:
            values |= _component(name, registry, values[name])
    kind = config_class(values)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in settings:
        if name in _ELSEWHERE:
            raise InputError(f"`{name}` is given by the arguments target, data, chip, resume and plan of fit: drop it")
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1, 0.6)
            raise InputError(f"fit has no setting `{name}`{f', did you mean `{close[0]}`?' if close else ''}")
    for name in ("out", "init", "responses"):
        if isinstance(values.get(name), str):
            values[name] = Path(values[name])
    return kind(**{name: _section(name, value, fields[name].default_factory) for name, value in values.items()})


def _of_chip(chip: Chip | Population | str | None, backend: str) -> dict[str, Any]:
    if chip == "default":
        chip = None if backend == "function" else Chip(0.05, 0)
    if chip is None:
        return {"no_chip": True}
    if isinstance(chip, Population):
        return {"bit_error_rate": chip.bit_error_rate}
    if not isinstance(chip, Chip):
        raise InputError(f"`chip` must be a bbfuse.Chip, a bbfuse.Population or None, got {chip!r}")
    return {"bit_error_rate": chip.bit_error_rate, "chip_seed": chip.seed}


def _component(choice: str, registry: Registry[Any], given: Any) -> dict[str, Any]:
    """The setting ``choice``, and the section that goes with it, for a name, a class or the settings of a component."""
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        for name, component in registry.items():
            if getattr(component, "Config", None) is type(given):
                section = section_of(choice, name)
                return {choice: name, **({} if section is None else {section: given})}
        raise InputError(f"`{choice}` has no component with the settings {type(given).__name__}: give its name or class")
    return {choice: registry.adopt(given)}


def _with_url(section: Any, url: str) -> Any:
    if dataclasses.is_dataclass(section) and not isinstance(section, type):
        return dataclasses.replace(section, url=url)
    return {**(section or {}), "url": url}


def _section(name: str, value: Any, make: Any) -> Any:
    """A section given as a dictionary; other values are returned unchanged, but numbers of numpy as those of Python."""
    if isinstance(value, np.generic):
        return value.item()
    if make is dataclasses.MISSING or not isinstance(value, Mapping):
        return value
    known = [f.name for f in dataclasses.fields(make)]
    if unknown := [key for key in value if key not in known]:
        raise InputError(f"`{name}.{unknown[0]}` is unknown: `{name}` has {', '.join(known)}")
    return make(**{key: _section(key, each, dataclasses.MISSING) for key, each in value.items()})


def _resumed(folder: Path, target: object, data: object, callbacks: Sequence[Callback], settings: Mapping[str, Any]) -> Result:
    """Continue the run in ``folder`` with the objects that it was begun with."""
    objects = {"target": resolve(target)[1], "data": data, **{name: settings[name] for name in _REGISTRIES if name in settings}}
    chosen = {name: settings[name] for name in ("workers", "ray") if name in settings}
    with given_again(folder, "resume", objects):
        ended = outcome(RunConfig(resume=folder, trust=settings.get("trust", False), **chosen), callbacks)
        return Result(ended.folder, ended.summary)


@contextlib.contextmanager
def given_again(folder: Path, flag: str, objects: Mapping[str, object]) -> Iterator[list[str]]:
    """Make ``objects``, by setting, known under the names that the run in ``folder`` knows them by, which are the context.

    What reads the folder within the block holds them from then on.

    Raises:
        InputError: ``folder``, which the user gave as ``flag``, holds no run, or a setting stands for no component.
    """
    try:
        recorded = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"`{flag}` {folder} holds no run that can be read: {error}") from error
    registries: dict[str, Registry[Any]] = {**_REGISTRIES, "target": TARGETS, "data": DATASETS}
    names = []
    for name, component in objects.items():
        if name not in registries:
            raise InputError(f"`{name}` is no component: give {', '.join(registries)}")
        if str(recorded.get(name)).startswith(GIVEN) and not isinstance(component, str):
            names.append(registries[name].adopt(component, recorded[name]))
    yield names
