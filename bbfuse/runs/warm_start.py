"""A warm start: a run begins with the trained fuse of another run, and with its head if that fits."""

from __future__ import annotations

from typing import Any

from backends.base import InputError
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.generators.base import Shape
from bbfuse.heads.base import HEADS, TrainedHead
from bbfuse.runs.folder import RunFolder, settings, trained_parts

__all__ = ["warm_start"]


def warm_start(config: RunConfig, shape: Shape, folder: RunFolder | None) -> dict[str, Any] | None:
    """The state dicts ``fuse`` and ``heads`` of the run in ``config.init``; ``None`` without `init`.

    ``heads`` is ``None`` unless both runs train a head of the same kind for the same chip of the same target. The run's own
    ``folder`` keeps a copy, so that a resumed run does not need the other folder.

    Raises:
        InputError: there is no fuse in ``config.init``, or it has another generator or image ``shape``.
    """
    if config.init is None:
        return None
    kept = folder.start() if folder is not None else None
    if kept is not None:
        return kept
    saved, other = trained_parts(config.init, "`init`", config.trust), settings(config.init, "`init`", config.trust)
    generator, its_shape, fuse, heads = saved["generator"], tuple(saved["image_shape"]), saved["fuse"], saved["heads"]
    if (generator, its_shape) != (config.generator, shape):
        raise InputError(
            f"`init` {config.init} holds the fuse {generator} for images {its_shape}, this run has {config.generator} for "
            f"{shape}: give the `generator` and `data` of that run, or drop `init`"
        )
    start = {
        "fuse": fuse,
        "heads": heads if _one_chip(config, other) and issubclass(HEADS[config.head_name], TrainedHead) else None,
    }
    if folder is not None:
        folder.write_start(start)
    return start


def _one_chip(a: RunConfig, b: RunConfig) -> bool:
    """Whether both runs have the same kind of head for the same chip of the same target."""
    names = ("head_name", "chip_seed", "no_chip", "bit_error_rate", "target", "data", "memory")
    return all(getattr(a, name) == getattr(b, name) for name in names) and (
        (a.remote.url, a.remote.model) == (b.remote.url, b.remote.model)
    )  # fmt: skip
