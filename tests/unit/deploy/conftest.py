"""A run's folder, and the proxy of its fuse before a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

import bbfuse
from bbfuse.deploy.proxy import application
from tests.helpers.http.upstream import Upstream, running
from tests.helpers.runs import run_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("run") / "affine")


@pytest.fixture(scope="module")
def stage(folder: Path) -> Iterator[tuple[str, Upstream, str]]:
    """The proxy's address, the server behind it, and that one's address."""
    upstream = Upstream()
    with running(upstream.app()) as direct, running(application(bbfuse.load(folder), direct, "digits", 1.0)) as proxy:
        yield proxy, upstream, direct


@pytest.fixture
def proxied(stage: tuple[str, Upstream, str]) -> tuple[str, Upstream, str]:
    _, upstream, _ = stage
    upstream.got.clear()
    upstream.pause = 0.0
    upstream.reply = lambda _: web.json_response({})
    return stage
