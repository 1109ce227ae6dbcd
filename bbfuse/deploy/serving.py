"""``bbfuse serve`` and ``python -m bbfuse.serve``: a proxy with a trained fuse in front of an inference server."""

from __future__ import annotations

import dataclasses
import socket
import ssl
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from aiohttp import web

from backends.base import Chip, InputError, TargetError
from backends.flags import parse, refused
from bbfuse.deploy.proxy import application
from bbfuse.deploy.trained import Trained

__all__ = ["ServeConfig", "main"]


@dataclass(frozen=True)
class ServeConfig:
    """Put the trained fuse of a run in front of a server of the Open Inference Protocol v2."""

    run: Path
    """folder of the run that trained it"""
    upstream: str
    """address of the server, such as http://127.0.0.1:8080"""
    model: str | None = None
    """the model that the fuse and the head apply to; that of the run if not given"""
    host: str = "127.0.0.1"
    """address to listen on"""
    port: int = 0
    """port to listen on; 0 takes a free one"""
    threads: int = 1
    """processor threads for fuse and head"""
    timeout: float = 60.0
    """seconds to wait for a connection to the server and for its response"""
    ca: Path | None = None
    """certificates (PEM) to trust for https in place of the system's"""
    chip_seed: int | None = None
    """for a run of the population with the head standardize: the chip of the server; the head is calibrated for it at start with
    a few dozen images; any number if the server ignores chips"""
    trust: bool = False
    """import own components, such as a generator FILE.py:attribute, that the run folder names"""


def _calibrated(trained: Trained, config: ServeConfig, model: str) -> None:
    """Calibrate the head for the chip of the server, if it is not calibrated yet.

    Raises:
        InputError: ``--chip-seed`` is missing, or has no effect, or the server is not that of the run.
        TargetError: the server sent no usable response.
    """
    count, run = trained.calibrating_images, trained.config
    if (config.chip_seed is None) != (count == 0):
        raise InputError(
            f"the head standardize of {config.run} is calibrated for each chip by {count} images sent to the server: give "
            "--chip-seed, any number if the server ignores chips"
            if count
            else f"--chip-seed has no effect with {config.run}, whose head needs no calibration: drop it"
        )
    if config.chip_seed is None:
        return
    from bbfuse.opening import open_backend, owned_data

    remote = dataclasses.replace(run.remote, url=config.upstream, model=model)
    chip = Chip(run.bit_error_rate, config.chip_seed)
    with ExitStack() as stack:
        backend = open_backend(run.replaced(backend="remote", remote=remote), lambda _: None, stack)
        if (backend.info.image_shape, backend.info.classes) != (trained.fuse.image_shape, trained.classes):
            raise InputError(
                f"{model} at --upstream has images {backend.info.image_shape} and {backend.info.classes} classes, the run in "
                f"{config.run} {trained.fuse.image_shape} and {trained.classes}"
            )
        trained.calibrate(backend.query(owned_data(run).train.images[:count], chip, lambda _: None))


def main(arguments: list[str]) -> int:
    """Serve until interrupted; the first line on standard output is the URL. The exit code."""

    try:
        config = parse(ServeConfig, "python -m bbfuse.serve", arguments)
        if not (config.threads > 0 and config.timeout > 0):
            raise InputError(f"--threads and --timeout must be above 0, got {config.threads} and {config.timeout}")
        if not 0 <= config.port <= 65535:
            raise InputError(f"--port must lie in [0, 65535], got {config.port}")
        torch.set_num_threads(config.threads)
        trained = Trained.load(config.run, "--run", config.trust)
        model = config.model or trained.config.model
        app = application(trained, config.upstream, model, config.timeout, _tls(config.ca))
        _calibrated(trained, config, model)
        try:
            listener = socket.create_server((config.host, config.port))
        except OSError as error:
            raise InputError(f"--host {config.host} --port {config.port} cannot be listened on: {error}") from error
    except InputError as error:
        return refused(error)
    except TargetError as error:
        return refused(error, code=1)
    print(f"http://{config.host}:{listener.getsockname()[1]}", flush=True)
    web.run_app(app, sock=listener, print=None, access_log=None)
    return 0


def _tls(ca: Path | None) -> ssl.SSLContext | None:
    try:
        return None if ca is None else ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"--ca {ca} cannot be read as certificates: {error}") from error
