"""What a run costs: money, bytes on the wire, energy."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backends.datasets.form import Form
from backends.kinds.base import BACKENDS
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.module import Fuse
from bbfuse.training.planning import Queries

if TYPE_CHECKING:
    from backends.http.codecs.base import Dialect

__all__ = ["bytes_on_the_wire", "energy", "price"]

_SAMPLE = 64


def price(config: RunConfig, requests: int) -> float | None:
    """What ``requests`` cost, ``None`` without `remote.price`."""
    return None if config.remote.price is None else config.remote.price * requests / 1000


def bytes_on_the_wire(dialect: Dialect, images: Tensor, sent: Queries) -> dict[str, int]:
    """About how many bytes ``sent`` takes ``up`` and its responses ``down``, bodies without HTTP headers.

    ``images`` (n, channels, height, width) are taken with a little noise, since pixels changed by a fuse or a probe have more
    digits than raw pixels.
    """
    from backends.http.codecs.sizes import sizes

    sample = images[:_SAMPLE]
    noise = 0.1 * torch.randn(sample.shape, generator=torch.Generator().manual_seed(0))
    up, down = sizes(dialect, (sample + noise).clamp(-1.0, 1.0))
    return {"up": up.of(sent.requests, sent.images), "down": down.of(sent.requests, sent.images)}


def energy(
    config: RunConfig, fuse: Fuse, shape: tuple[int, ...], form: Form | None = None
) -> dict[str, float | None]:  # fmt: skip
    """The part ``energy`` of the summary.

    ``voltage`` relative to the lowest voltage without errors; ``saving`` and ``saving_macs``, the fraction of the target's energy
    that is saved with the fuse in front, by weight reads and by multiply-accumulates; ``saving_bare``, without a fuse. ``None``
    if no voltage was measured for this rate or the target's architecture is unknown, all of it if its memory is. A target that
    comes trained takes inputs in ``form``.
    """
    from backends.memory.energy import macs, saving, voltage, weight_reads
    from backends.targets.networks import build

    if config.no_chip or not BACKENDS[config.backend].on_chip(config.target, config.settings_of("backend")):
        return dict.fromkeys(("voltage", "saving_bare", "saving", "saving_macs"))
    volts = voltage(config.bit_error_rate)
    saved: dict[str, float | None] = {"saving": None, "saving_macs": None}
    if volts is not None:
        with suppress(Exception):  # a network of others may raise anything, and the run is over
            target = build(config.target, shape, form=form, trust=config.trust)
            for key, cost in (("saving", weight_reads), ("saving_macs", macs)):
                if of_target := cost(target, shape):
                    saved[key] = saving(volts**2, of_target, cost(fuse, shape))
    return {"voltage": volts, "saving_bare": None if volts is None else 1.0 - volts**2, **saved}
