"""Where a secret may be sent. Standard library alone, so that settings can be checked before anything is opened."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from backends.base import InputError

__all__ = ["check_address", "is_loopback"]


def is_loopback(url: str) -> bool:
    """Whether ``url`` leads to this machine, by its name or number and without asking anybody."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(url: str, secret: bool) -> None:
    """Refuse a ``url`` that is none or holds a password, and with a ``secret`` to be sent one that is read by all on its way.

    Raises:
        InputError: it is so; no password is in the message.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if "@" in url.split("?")[0]:
        raise InputError("--remote.url must hold no user or password: put the key into an environment variable, --remote.key-env")
    if not known:
        raise InputError(f"--remote.url {url} cannot be reached: it must be http or https and the name of a machine")
    if secret and parts.scheme != "https" and not is_loopback(url):
        raise InputError(f"--remote.key-env needs https on its way to another machine, got {url}: give an https address")
