"""A key goes to the server that it is for, over a wire that others cannot read, and is seen nowhere else."""

from __future__ import annotations

import json
import logging
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from backends.base import NOMINAL, InputError, TargetError
from backends.http.backend import RemoteBackend, TransportSettings
from backends.server.subprocess_server import OwnServer
from bbfuse.cli.run import main, parse
from bbfuse.config.checks import validate
from tests.helpers.http.faults import Handler, faulty, script
from tests.helpers.http.servers import METADATA, images, right, sums

KEY = "s3cr3t/Key+of=the~paid-API"


def pieces(key: str) -> list[str]:
    """Every eight characters of ``key`` in a row."""
    return [key[at : at + 8] for at in range(len(key) - 7)]


class Gossip(Handler):
    """Tells everything that it was told whenever it refuses something."""

    told: list[dict[str, str]]

    def spoil(self, fault: str | None, status: int, headers: dict[str, str], body: bytes) -> None:
        self.told.append(dict(self.headers))
        heard = {name: self.headers[name] for name in self.headers}
        if getattr(self.server, "closed", False) and self.command == "POST":
            self.reply(403, {"X-Heard": json.dumps(heard)}, json.dumps({"error": f"not for {heard}"}).encode())
        elif fault is not None:
            self.reply(503, {"X-Heard": json.dumps(heard), "Retry-After": "0"}, f"not now, {heard}".encode())
        else:
            self.reply(status, headers, body)


@pytest.mark.parametrize("header", [None, "X-API-Key"])
def test_the_key_is_in_no_file_and_no_output_at_any_level(
    header: str | None, server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("PAID_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    told: list[dict[str, str]] = []
    monkeypatch.setattr(Gossip, "told", told, raising=False)
    folder = tmp_path / "run"
    flags = ["--backend", "remote", "--remote.key-env", "PAID_API_KEY", "--chip-seed", "1", "--budget", "3000"]
    flags += ["--remote.attempts", "9", "--remote.reserve", "0.2", "--report.images", "100", "--head", "none"]
    flags += [] if header is None else ["--remote.key-header", header]
    with faulty(server.url, 0.2) as proxy:
        proxy.RequestHandlerClass = Gossip
        flags += ["--remote.url", proxy.url]
        assert main([*flags, "--plan"]) == 0
        assert main([*flags, "--out", str(folder)]) == 0
        proxy.closed = True  # type: ignore[attr-defined]
        assert main([*flags, "--out", str(tmp_path / "refused")]) == 1
    sent = [headers.get(header or "Authorization") for headers in told]
    assert sent == [KEY if header else f"Bearer {KEY}"] * len(told)
    assert len(told) > 50
    out, err = capfd.readouterr()
    assert "HTTP 403 not for" in err
    assert "PAID_API_KEY" in (folder / "config.json").read_text()
    logged = "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "POST /v2/models/digits/infer" in logged
    files = [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    for piece in pieces(KEY):
        assert not any(piece in text for text in (out, err, logged, *files))


def refusal(reply: Any, monkeypatch: pytest.MonkeyPatch, key: str = KEY) -> str:
    monkeypatch.setenv("PAID_API_KEY", key)
    with script(METADATA, [reply]) as (url, _):
        backend = RemoteBackend(url, "m", 5.0, 1, TransportSettings(key_env="PAID_API_KEY"))
        assert key not in f"{backend!r} {vars(backend)}"
        with pytest.raises(TargetError) as error:
            backend.query(images(2), NOMINAL, lambda _: None)
        return str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        f"no {KEY} here", f"{KEY}{KEY}", json.dumps({"error": f"Bearer {KEY}"}), json.dumps({"detail": [{"heard": KEY}]}),
        f"cut: {KEY[:12]}", f"cut: {KEY[-12:]}", "asked s3cr3t%2FKey%2Bof%3Dthe~paid-API", f"{'x' * 190}{KEY}",
        "Traceback (most recent call last)\n" + KEY,
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [200, 400, 503])
def test_what_a_server_gives_away_is_hidden(status: int, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = refusal((status, body.encode()), monkeypatch)
    assert not any(piece in words for piece in [*pieces(KEY), *pieces("s3cr3t%2FKey%2Bof%3Dthe~paid-API")])
    assert "\n" not in words


def test_a_short_key_is_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal((400, b"no abc, abcabc"), monkeypatch, "abc").endswith("HTTP 400 no ***, ******")


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAID_API_KEY", KEY)
    with script(METADATA, [sums]) as (elsewhere, got):
        for status in (301, 302, 303, 307, 308):
            with script(METADATA, [(status, b"", {"Location": f"{elsewhere}/v2/models/m/infer"})]) as (url, asked):
                backend = RemoteBackend(url, "m", 5.0, 3, TransportSettings(key_env="PAID_API_KEY"))
                with pytest.raises(TargetError, match="is a redirect, which is not followed"):
                    backend.query(images(2), NOMINAL, lambda _: None)
                assert len(asked) == 1
    assert got == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://192.0.2.7:8080", "`remote.key_env` needs an encrypted connection to another machine"),
        ("http://localhost.example", "needs an encrypted connection"),
        ("http://127.0.0.1.example:80", "needs an encrypted connection"),
        ("http://0x7f.1", "needs an encrypted connection"),
        ("https://me:hunter2@192.0.2.7", "must hold no user or password"),
        ("http://hunter2@127.0.0.1", "must hold no user or password"),
    ],
)
def test_a_key_is_sent_nowhere_that_others_read_it(url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAID_API_KEY", KEY)
    monkeypatch.setattr(requests.Session, "send", lambda *_, **__: pytest.fail("something was sent"))
    with pytest.raises(InputError, match=words) as opened:
        RemoteBackend(url, "m", settings=TransportSettings(key_env="PAID_API_KEY"))
    with pytest.raises(InputError, match=words) as checked:
        validate(parse(["--backend", "remote", "--remote.url", url, "--remote.key-env", "PAID_API_KEY"]))
    assert "hunter2" not in f"{opened.value} {checked.value}"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, "PAID_API_KEY is not set"),
        ("  ", "or empty"),
        ("a\nb", "visible ASCII characters"),
        ("kéy", "visible ASCII characters"),
    ],
)
def test_a_key_that_is_none_is_refused_without_being_shown(key: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAID_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("PAID_API_KEY", key)
    with pytest.raises(InputError, match=words) as error:
        RemoteBackend("http://127.0.0.1:1", "m", settings=TransportSettings(key_env="PAID_API_KEY"))
    assert "\n" not in str(error.value)
    assert "é" not in str(error.value)


def test_a_password_of_the_users_netrc_is_not_sent_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with script(METADATA, [sums]) as (url, got):
        backend = RemoteBackend(url, "m")
        backend._connection._session.trust_env = True  # as for another machine than this one
        backend.query(images(2), NOMINAL, lambda _: None)
    assert "Authorization" not in got[0]["headers"]


def test_certificates_are_checked_and_an_own_authority_is_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAID_API_KEY", KEY)
    certificate, private = tmp_path / "ca.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += [
        "-keyout",
        str(private),
        "-out",
        str(certificate),
        "-subj",
        "/CN=bbfuse",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, private)
    with script(METADATA, [sums], tls) as (url, got):
        with pytest.raises(InputError, match=r"cannot be reached: .*certificate verify failed"):
            RemoteBackend(url, "m", settings=TransportSettings(key_env="PAID_API_KEY"))
        assert got == []
        backend = RemoteBackend(url, "m", settings=TransportSettings(key_env="PAID_API_KEY", ca=str(certificate)))
        assert torch.equal(backend.query(images(3), NOMINAL, lambda _: None), right(images(3)))
    assert [request["headers"]["Authorization"] for request in got] == [f"Bearer {KEY}"]
    with pytest.raises(InputError, match=r"`remote.ca` must be a file"):
        RemoteBackend(url, "m", settings=TransportSettings(ca=str(tmp_path / "none.pem")))
