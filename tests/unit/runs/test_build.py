"""What the builder opens, starts and describes for a run, with stand-ins for servers and fitted targets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backends.base import Access, InputError
from backends.kinds.remote import RemoteConfig
from backends.simulated import SimulatedBackend
from bbfuse import opening
from bbfuse.config.schema import RunConfig
from bbfuse.costs import bytes_on_the_wire

URL = "http://127.0.0.1:9"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize(("name", "access"), [("local", Access.LOGITS), ("whitebox", Access.GRADIENTS)])
def test_a_target_here_is_simulated_with_or_without_gradients(
    name: Any, access: Access, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.targets.fit.fitted", lambda target, data, trust: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    backend = opening.open_backend(RunConfig(backend=name), pytest.fail, stack)
    assert isinstance(backend, SimulatedBackend)
    assert backend.info.access is access
    assert (backend.info.name, backend.info.image_shape, backend.info.classes) == ("digits", (1, 8, 8), 10)


@pytest.mark.parametrize("assumed", [None, "logits are taken to be scores"])
def test_a_server_is_asked_and_what_it_does_not_say_is_told(
    assumed: str | None, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    remote = SimpleNamespace(dialect=SimpleNamespace(assumed=assumed), close=lambda: closed.append(True))
    monkeypatch.setattr("backends.kinds.remote._connected", lambda opening: remote)
    said: list[str] = []
    backend = opening.open_backend(RunConfig(backend="remote", remote=RemoteConfig(url=URL)), said.append, stack)
    assert backend is remote  # type: ignore[comparison-overlap]
    assert said == ([] if assumed is None else [f"{URL}: {assumed}"])
    stack.close()
    assert closed == [True]


@pytest.mark.parametrize(
    "config", [RunConfig(), RunConfig(backend="whitebox"), RunConfig(backend="remote", remote=RemoteConfig(url=URL))]
)
def test_a_server_is_started_only_for_a_remote_backend_without_an_address(config: RunConfig, stack: ExitStack) -> None:
    assert opening.with_server(config, pytest.fail, stack) is config


@pytest.mark.parametrize("pixels", [None, "uint8"])
def test_our_own_server_is_started_with_the_settings_of_the_run_and_stopped(
    pixels: Any, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def own(*settings: Any) -> SimpleNamespace:
        given.append(settings)
        return SimpleNamespace(url=URL, close=lambda: given.append("closed"))

    monkeypatch.setattr("backends.server.subprocess_server.OwnServer", own)
    config, said = RunConfig(backend="remote", threads=3, remote=RemoteConfig(pixels=pixels)), list[str]()
    found = opening.with_server(config, said.append, stack)
    assert found.remote.url == URL
    assert given == [("digits", "digits", 3, config.memory, pixels or "float32", False)]
    assert said == [f"no `remote.url` given: started the built-in server at {URL}, it stops with this run"]
    stack.close()
    assert given[1:] == ["closed"]


def test_a_device_that_is_not_there_is_refused(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda = RunConfig(backend="whitebox", optimizer="backprop", device="cuda")
    with pytest.raises(InputError, match="`device=cuda` is not available here: use cpu"):
        opening.open_backend(cuda, pytest.fail, stack)


def test_what_a_plan_needs_is_described_without_opening_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    here = opening.described(RunConfig(backend="whitebox"))
    assert (here.info.access, here.dialect, here.info.eight_bits) == (Access.GRADIENTS, None, False)
    for pixels, protocol, kind, binary in (
        (None, None, "signed", True), ("uint8", "oip", "levels", False), ("float32", "oip-binary", "signed", True)
    ):  # fmt: skip
        remote: Any = RemoteConfig(pixels=pixels, protocol=protocol)
        found = opening.described(RunConfig(backend="remote", remote=remote))
        dialect: Any = found.dialect
        assert (found.info.access, found.info.eight_bits) == (Access.LOGITS, pixels == "uint8")
        assert (dialect.pixels.range, dialect.binary, dialect.info) == (kind, binary, found.info)
    server = SimpleNamespace(info="info", dialect="dialect", close=lambda: None)
    monkeypatch.setattr("backends.kinds.remote._connected", lambda opening: server)
    asked = opening.described(RunConfig(backend="remote", remote=RemoteConfig(url=URL)))
    assert (asked.info, asked.dialect) == ("info", "dialect")  # type: ignore[comparison-overlap]


def test_bytes_are_those_of_64_noisy_images_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def sizes(dialect: Any, images: Tensor) -> tuple[Any, Any]:
        seen.append(images)
        up, down = (SimpleNamespace(of=lambda requests, images, a=a: a * requests + images) for a in (1000, 500_000))
        return up, down

    monkeypatch.setattr("backends.http.codecs.sizes.sizes", sizes)
    images = torch.linspace(-1, 1, 70 * 6)[torch.arange(420) * 11 % 420].view(70, 1, 2, 3)
    sent: Any = SimpleNamespace(requests=7, images=33)
    assert bytes_on_the_wire("dialect", images, sent) == {"up": 7033, "down": 3_500_033}  # type: ignore[arg-type]
    noise = torch.randn(64, 1, 2, 3, generator=torch.Generator().manual_seed(0)) / 10
    torch.testing.assert_close(seen[0], torch.maximum(torch.minimum(images[:64] + noise, torch.tensor(1.0)), torch.tensor(-1.0)))
    assert seen[0].max() == -seen[0].min() == 1.0
