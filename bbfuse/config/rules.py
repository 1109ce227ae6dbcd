"""Rules between sections of the configuration, in the order in which they are checked."""

from __future__ import annotations

import dataclasses
from typing import Any

from backends.kinds.base import BACKENDS
from backends.registry import GIVEN
from backends.settings import Rule, changed
from bbfuse.config.schema import RunConfig, section_of, users_of
from bbfuse.heads.base import HEADS, CalibratedHead, TrainedHead
from bbfuse.optimizers.base import OPTIMIZERS

__all__ = ["RULES"]

_ONE_CHIP = {"eopm.chips": "trained", "eopm.pool": "trained", "report.chips": "reported"}


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _optimizer(c: RunConfig) -> Any:
    return OPTIMIZERS[c.optimizer]


def _backend(c: RunConfig) -> Any:
    return BACKENDS[c.backend]


def _needs_more_access(c: RunConfig) -> str | None:
    granted = _backend(c).granted(c.target)
    if _optimizer(c).access <= granted:
        return None
    backends = [name for name, kind in BACKENDS.items() if kind.access >= _optimizer(c).access]
    optimizers = [name for name, kind in OPTIMIZERS.items() if kind.access <= granted]
    return f"choose `backend={_listed(backends)}`, or `optimizer` {_listed(optimizers)}"


def _section_without_effect(c: RunConfig) -> str | None:
    """The first changed setting of a component that was not chosen."""
    for f in dataclasses.fields(c):
        section = getattr(c, f.name)
        if not dataclasses.is_dataclass(section) or not (names := changed(section)) or (users := users_of(f.name)) is None:
            continue
        choice, components = users
        chosen = c.head_name if choice == "head" else getattr(c, choice)
        if chosen not in components and section_of(choice, chosen) != f.name:  # it may be given as module:attribute
            way_out = f"`{choice}={components[0]}`: drop it or choose that"
            if len(components) > 1:
                way_out = f"`{choice}` {_listed(components)}: drop it or choose one"
            return f"`{f.name}.{names[0]}` has no effect without {way_out}"
    return None


def _first_changed(c: RunConfig, *dotted: str) -> str | None:
    for setting in dotted:
        section, _, name = setting.rpartition(".")
        if name in changed(getattr(c, section) if section else c):
            return setting
    return None


def _probes_on_device(c: RunConfig) -> str | None:
    """The optimizers that compute on a device, if the chosen one does not."""
    if c.device == "cpu" or not _optimizer(c).scores_probes:
        return None
    return _listed([name for name, kind in OPTIMIZERS.items() if not kind.scores_probes])


def _network_on_device(c: RunConfig) -> str | None:
    """The backends that compute here, if the chosen one does not."""
    if c.device == "cpu" or not _backend(c).over_network:
        return None
    return _listed([name for name, kind in BACKENDS.items() if not kind.over_network])


def _one_chip_setting(c: RunConfig) -> tuple[str, str] | None:
    name = _first_changed(c, *_ONE_CHIP) if c.chip_seed is not None else None
    return None if name is None else (name, _ONE_CHIP[name])


def _setting_of_chips(c: RunConfig) -> str | None:
    """The first changed setting that has no effect without bit errors."""
    if not c.no_chip:
        return None
    sections = [f"{section}.{name}" for section in ("eopm", "memory") for name in changed(getattr(c, section))]
    return _first_changed(c, "chip_seed", "bit_error_rate", *sections, "report.chips")


RULES = (
    Rule(_setting_of_chips, "`{found}` has no effect with `no_chip`, where the target has no bit errors: drop one of the two"),
    Rule(
        lambda c: c.no_chip and c.labels == "target",
        "`labels=target` would teach the target's own errors on the shifted inputs with `no_chip`: give labels, or drop it",
    ),
    Rule(
        lambda c: c.no_chip and issubclass(HEADS[c.head_name], CalibratedHead),
        "`head={c.head_name}` needs responses of another operating point, which `no_chip` does not have: choose `head=affine`",
    ),
    Rule(
        lambda c: c.start is not None and not c.no_chip,
        "`start={c.start}` has no effect without `no_chip`: drop it",
    ),
    Rule(
        lambda c: c.start == "corrections" and c.init is not None,
        "`start=corrections` does not go with `init`, which starts from a trained fuse: drop one of the two",
    ),
    Rule(
        lambda c: c.no_chip and _optimizer(c).simulates_chips,
        "`optimizer={c.optimizer}` trains on simulated chips, which `no_chip` does not have: choose another optimizer",
    ),
    Rule(
        _needs_more_access,
        "`optimizer={c.optimizer}` needs gradients, but `backend={c.backend}` grants logits only: {found}",
    ),
    Rule(_section_without_effect, "{found}"),
    Rule(
        lambda c: c.backend == "remote" and c.remote.url is not None and changed(c.memory),
        "`memory.{found[0]}` has no effect with `remote.url`, whose server has its own: drop it",
    ),
    Rule(
        lambda c: c.backend == "remote" and c.remote.url is None and [n for n in (c.target, c.data) if n.startswith(GIVEN)],
        "`backend=remote` without `remote.url` starts a server in another process, which {found[0]} of this one does not reach: "
        "give a name, a file or module:attribute, or choose `backend=local`",
    ),
    Rule(
        lambda c: c.responses is not None and c.workers,
        "`responses` is read by this process alone: drop `workers={c.workers}`",
    ),
    Rule(
        lambda c: c.responses is not None and c.remote.store is not None,
        "`responses` does not go with `remote.store`, which has responses of its own: drop one of the two",
    ),
    Rule(
        lambda c: c.backend == "bench" and c.workers,
        "`workers={c.workers}` has no effect with `backend=bench`, whose queries are handed out: drop it",
    ),
    Rule(
        _probes_on_device,
        "`device={c.device}` goes with `optimizer` {found}, got {c.optimizer}: drop it",
    ),
    Rule(
        _network_on_device,
        "`device={c.device}` goes with `backend` {found}, got {c.backend}: drop it",
    ),
    Rule(
        lambda c: not c.workers and changed(c.ray),
        "`ray.{found[0]}` has no effect without `workers`: drop it or give their number",
    ),
    Rule(
        lambda c: c.workers and not _optimizer(c).scores_probes,
        "`workers` has no effect with `optimizer={c.optimizer}`, which sends one query per step: drop it",
    ),
    Rule(
        lambda c: c.workers and c.remote.store is not None,
        "`remote.store` does not go with `workers`, which compute their images themselves: drop one of the two",
    ),
    Rule(
        lambda c: c.workers and c.backend == "remote" and c.remote.url is None and c.ray.address != "local",
        "the built-in server listens on this machine only: give `remote.url`, or `ray.address=local`",
    ),
    Rule(
        lambda c: _optimizer(c).uses_surrogate and _first_changed(c, "grow", "warm_up"),
        "`{found}` does not go with `optimizer={c.optimizer}`, whose surrogate would be lost when the fuse grows: drop it or "
        "choose another optimizer",
    ),
    Rule(
        lambda c: c.init is not None and _first_changed(c, "grow", "warm_up"),
        "`{found}` does not go with `init`, which starts from a whole fuse: drop one of the two",
    ),
    Rule(
        lambda c: c.augment and _optimizer(c).keeps_state_per_image(c.settings_of("optimizer")),
        "`augment` does not go with `optimizer={c.optimizer}`, which keeps state per image: drop it or choose another optimizer",
    ),
    Rule(
        lambda c: c.chip is None and issubclass(HEADS[c.head_name], TrainedHead),
        "`head={c.head_name}` is trained for one chip and does not apply to unseen ones: give `chip_seed`, or choose "
        "`head=standardize`",
    ),
    Rule(_one_chip_setting, "`{found[0]}` has no effect with `chip_seed`, where one chip is {found[1]}: drop one of the two"),
)
