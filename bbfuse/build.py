"""From settings to objects: the only place in this package that opens a backend."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress

from backends.data import Dataset, load
from backends.interface import Backend, InputError
from bbfuse.config import RunConfig
from bbfuse.fuse import Fuse

__all__ = ["energy", "open_backend", "owned_data"]


def owned_data(config: RunConfig) -> Dataset:
    """The data set as far as the user owns it."""
    return load(config.data).owned(config.images)


def open_backend(config: RunConfig, say: Callable[[str], None], stack: ExitStack) -> Backend:
    """Open the backend that ``config`` names; ``stack`` closes it. ``say`` is told of what a user should know.

    Raises:
        InputError: it cannot be opened.
    """
    if config.memory.profile is not None:
        from backends.memory.arrays import Profile

        Profile(config.memory.profile).point(config.bit_error_rate)
    if config.backend == "remote":
        from backends.remote import OwnServer, RemoteBackend

        url = config.remote.url
        if url is None:
            server = OwnServer(config.target, config.data, config.threads, config.memory, config.remote.pixels or "float32")
            stack.callback(server.close)
            url = server.url
            say(f"no --remote.url given: started a server of our own at {url}, it stops with this run")
        backend: Backend = RemoteBackend(url, config.remote.model or config.target, config.remote.timeout, config.remote.attempts)
    else:
        from backends.local import LocalBackend
        from backends.targets.fit import fitted
        from backends.whitebox import WhiteboxBackend

        data = load(config.data)
        kind = LocalBackend if config.backend == "local" else WhiteboxBackend
        backend = kind(config.target, fitted(config.target, data), data.image_shape, data.classes, config.memory)
    stack.callback(backend.close)
    return backend


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
