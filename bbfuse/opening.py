"""From settings to an open backend and the owned data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack

from backends.base import Backend, InputError
from backends.datasets.base import Dataset
from backends.datasets.loading import load
from backends.kinds.base import BACKENDS, Description, Opening
from bbfuse.config.schema import RunConfig

__all__ = ["described", "open_backend", "owned_data", "with_server"]


def owned_data(config: RunConfig) -> Dataset:
    """The data set with the images that the user owns.

    Raises:
        InputError: there is no such data set, it has fewer images than `images`, or it lacks the labels that the run needs.
    """
    data = load(config.data)
    if config.labels == "given" and not data.labelled:
        raise InputError(
            f"`data` {data.name} has no labels: give them, or set `labels=target` to train on the target's own classes"
        )
    if not data.classes:
        raise InputError(f"`classes` must be given, how many the target has, since `data` {data.name} has no labels that show it")
    return data.owned(config.images)


def open_backend(config: RunConfig, say: Callable[[str], None], stack: ExitStack) -> Backend:
    """Open the backend that ``config`` names; ``stack`` closes it. ``say`` takes one-line notes for the user.

    Raises:
        InputError: it cannot be opened.
    """
    config = with_server(config, say, stack)
    _check_profile(config)
    backend = BACKENDS[config.backend].open(_opening(config, say))
    stack.callback(backend.close)
    return backend


def with_server(config: RunConfig, say: Callable[[str], None], stack: ExitStack) -> RunConfig:
    """``config`` with the address of its server; without one the built-in server is started, and ``stack`` stops it.

    Raises:
        InputError: it does not start.
    """
    if config.backend != "remote" or config.remote.url is not None:
        return config
    from backends.server.subprocess_server import OwnServer

    _check_profile(config)
    server = OwnServer(config.target, config.data, config.threads, config.memory, config.remote.pixels or "float32", config.trust)
    stack.callback(server.close)
    say(f"no `remote.url` given: started the built-in server at {server.url}, it stops with this run")
    served: RunConfig = config.replaced(remote=dataclasses.replace(config.remote, url=server.url))
    return served


def described(config: RunConfig) -> Description:
    """What a plan needs to know of the backend: it reads a server's metadata, fits no target and starts no server.

    Raises:
        InputError: it could not be opened.
    """
    _check_profile(config)
    return BACKENDS[config.backend].describe(_opening(config, lambda _: None))


def _opening(config: RunConfig, say: Callable[[str], None]) -> Opening:
    memory, settings = None if config.no_chip else config.memory, config.settings_of("backend")
    return Opening(config.target, load(config.data), memory, config.device, settings, say, config.trust)


def _check_profile(config: RunConfig) -> None:
    if config.memory.profile is not None:
        from backends.memory.faults.arrays import Profile

        Profile(config.memory.profile).point(config.bit_error_rate)
