"""The connection to Ray: a Ray of our own on this machine, or a cluster."""

from __future__ import annotations

import logging
import math
import os
import socket
from typing import Any

import ray

from backends.base import InputError, one_line
from bbfuse.config.schema import RunConfig

__all__ = ["join", "reason_of"]

_OBJECT_STORE = 256 << 20  # bytes, for a Ray that is started here: some steps of the largest fuse
_CONNECT = 10.0  # seconds for a cluster to accept a connection


def join(config: RunConfig) -> None:
    """Start Ray on this machine, or connect to the cluster at `ray.address`.

    Raises:
        InputError: there is no such cluster, or this machine has too few GPUs.
    """
    address = config.ray.address
    started: dict[str, Any] = {
        "num_cpus": max(os.cpu_count() or 1, math.ceil(config.workers * (config.ray.cpus or config.threads))),
        "object_store_memory": _OBJECT_STORE, "include_dashboard": False,
    }  # fmt: skip
    try:
        if address not in ("local", "auto"):  # Ray itself takes minutes to report that there is no cluster
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(started if address == "local" else {}))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"`ray.address` {address} cannot be reached: {one_line(error)}") from error
    gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    if address == "local" and gpus < (config.ray.gpus or 0):  # a cluster may grow
        ray.shutdown()
        raise InputError(f"`ray.gpus` {config.ray.gpus:g} cannot be met: Ray finds {gpus:g} GPUs on this machine, drop it")


def reason_of(error: Exception) -> str:
    """The last line of Ray's error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]
