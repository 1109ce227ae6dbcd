"""Rules for the address of a server and for sending an API key there. Standard library only, so that settings load fast."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from backends.base import InputError

__all__ = ["check_address", "is_loopback"]


def is_loopback(url: str) -> bool:
    """Whether ``url`` leads to this machine; decided from the text, without a name lookup."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(url: str, secret: bool) -> None:
    """Check a ``url``; with a ``secret`` it must be encrypted unless it leads to this machine.

    Raises:
        InputError: it is no http or https address, it holds a password, or it would show the secret. The message has no password.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if "@" in url.split("?")[0]:
        raise InputError("`remote.url` must hold no user or password: put a key into the environment variable `remote.key_env`")
    if not known:
        raise InputError(f"`remote.url` must be an http or https address with a host name, got {url}")
    if secret and parts.scheme != "https" and not is_loopback(url):
        raise InputError(f"`remote.key_env` needs an encrypted connection to another machine, got {url}: give an https address")
