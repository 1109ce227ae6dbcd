"""From settings to objects: the only place in this package that opens a backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backends.base import Backend, BackendInfo, Chip, InputError, Sending, TargetError
from backends.datasets.base import Dataset
from backends.datasets.loading import load
from bbfuse.config.schema import GRANTS, RunConfig
from bbfuse.fuse.module import Fuse
from bbfuse.training.planning import Queries

if TYPE_CHECKING:
    from backends.http.backend import RemoteBackend
    from backends.http.codecs.base import Dialect

__all__ = ["bytes_on_the_wire", "described", "energy", "open_backend", "owned_data", "served"]

_SAMPLE = 64


def owned_data(config: RunConfig) -> Dataset:
    """The data set as far as the user owns it."""
    return load(config.data).owned(config.images)


def open_backend(config: RunConfig, say: Callable[[str], None], stack: ExitStack) -> Backend:
    """Open the backend that ``config`` names; ``stack`` closes it. ``say`` is told of what a user should know.

    Raises:
        InputError: it cannot be opened.
    """
    _check_profile(config)
    config = served(config, say, stack)
    if config.backend == "remote":
        assert config.remote.url is not None
        remote = _remote(config, config.remote.url)
        if remote.dialect.assumed is not None:
            say(f"{config.remote.url}: {remote.dialect.assumed}")
        backend: Backend = remote
    else:
        from backends.simulated import SimulatedBackend
        from backends.targets.fit import fitted

        data = load(config.data)
        network = fitted(config.target, data).to(_device(config))
        backend = SimulatedBackend(config.target, network, data.image_shape, data.classes, config.memory, GRANTS[config.backend])
    stack.callback(backend.close)
    return backend


def served(config: RunConfig, say: Callable[[str], None], stack: ExitStack) -> RunConfig:
    """``config`` with the address of its server; one of our own is started if it names none, and ``stack`` stops it.

    Raises:
        InputError: it does not start.
    """
    if config.backend != "remote" or config.remote.url is not None:
        return config
    from backends.server.subprocess_server import OwnServer

    server = OwnServer(config.target, config.data, config.threads, config.memory, config.remote.pixels or "float32")
    stack.callback(server.close)
    say(f"no --remote.url given: started a server of our own at {server.url}, it stops with this run")
    return dataclasses.replace(config, remote=dataclasses.replace(config.remote, url=server.url))


def _device(config: RunConfig) -> str:
    if config.device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"--device {config.device} is not there: use cpu")
    return config.device


def _remote(config: RunConfig, url: str) -> RemoteBackend:
    from backends.http.backend import DiscoveryOverrides, RemoteBackend, TransportSettings

    said, data = config.remote, load(config.data)
    settings = TransportSettings(
        said.connect_timeout, said.patience, said.requests_per_second, said.key_env, said.key_header, said.ca
    )  # fmt: skip
    overrides = DiscoveryOverrides(
        said.protocol, said.layout, said.range, said.request, said.response, data.image_shape, data.classes
    )  # fmt: skip
    return RemoteBackend(url, config.model, said.timeout, said.attempts, settings, overrides)


class Described:
    """A backend that says what it is and how it is asked, and answers nothing."""

    def __init__(self, info: BackendInfo, dialect: Dialect | None = None) -> None:
        self.info = info
        self.dialect = dialect

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.base.Backend`."""
        raise TargetError(f"{self.info.name} was described, not opened")

    def close(self) -> None:
        """Nothing is held open."""


def described(config: RunConfig) -> Described:
    """The backend that ``config`` names, for a plan: a server at ``--remote.url`` is asked for its metadata, which costs nothing;
    otherwise no target is fitted and no server started.

    Raises:
        InputError: it could not be opened.
    """
    if config.backend == "remote" and config.remote.url is not None:
        _check_profile(config)
        with closing(_remote(config, config.remote.url)) as backend:
            return Described(backend.info, backend.dialect)
    from backends.http.codecs.base import Pixels
    from backends.http.codecs.open_inference import OpenInference
    from backends.targets.networks import build

    _check_profile(config)
    data = load(config.data)
    build(config.target, data.image_shape, data.classes)
    eight_bits = config.remote.pixels == "uint8"
    info = BackendInfo(config.target, GRANTS[config.backend], data.image_shape, data.classes, eight_bits)
    if config.backend != "remote":
        return Described(info)
    pixels = Pixels(range="levels" if eight_bits else "signed")
    return Described(info, OpenInference(info, pixels, binary=config.remote.protocol != "oip"))


def bytes_on_the_wire(dialect: Dialect, images: Tensor, sent: Queries) -> dict[str, int]:
    """About how many bytes ``sent`` takes ``up`` and its answers ``down``, bodies without HTTP headers.

    ``images`` (n, channels, height, width) are taken with a little noise, since pixels that a fuse or a probe has moved have all
    their digits; what is sent as it is may take less.
    """
    from backends.http.codecs.sizes import sizes

    sample = images[:_SAMPLE]
    noise = 0.1 * torch.randn(sample.shape, generator=torch.Generator().manual_seed(0))
    up, down = sizes(dialect, (sample + noise).clamp(-1.0, 1.0))
    return {"up": up.of(sent.requests, sent.images), "down": down.of(sent.requests, sent.images)}


def _check_profile(config: RunConfig) -> None:
    if config.memory.profile is not None:
        from backends.memory.faults.arrays import Profile

        Profile(config.memory.profile).point(config.bit_error_rate)


def energy(config: RunConfig, fuse: Fuse, shape: tuple[int, int, int]) -> dict[str, float | None]:
    """The part ``energy`` of the summary.

    ``voltage`` relative to the lowest without errors; ``saving`` and ``saving_macs``, the fraction of the target's energy that is
    saved with the fuse in front, by weight reads and by multiply-accumulates; ``saving_bare``, without a fuse. ``None`` where no
    voltage was measured or the target's architecture is not known.
    """
    from backends.memory.energy import macs, saving, voltage, weight_reads
    from backends.targets.networks import build

    volts = voltage(config.bit_error_rate)
    saved: dict[str, float | None] = {"saving": None, "saving_macs": None}
    if volts is not None:
        with suppress(InputError):
            target = build(config.target, shape)
            for key, cost in (("saving", weight_reads), ("saving_macs", macs)):
                saved[key] = saving(volts**2, cost(target, shape), cost(fuse, shape))
    return {"voltage": volts, "saving_bare": None if volts is None else 1.0 - volts**2, **saved}
