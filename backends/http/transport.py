"""Requests to one server: connections, retries, pauses, a rate limit and an API key. The only file that imports `requests`.

Retried are the statuses 408, 425, 429, 500, 502, 503 and 504, broken connections, timeouts, and a 200 whose body is not a valid
response: damaged by the network (cut off, HTML from a gateway) or by the target (a wrong shape, NaN), which look alike. The last
error is reported. Every other status is final. Redirects are not followed: images and key go to the given address alone.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import requests
import urllib3
from requests.adapters import HTTPAdapter

from backends.base import InputError, TargetError
from backends.http.address import check_address, is_loopback
from backends.http.codecs.base import Message, RefusedError

__all__ = ["Connection", "TooMuchError", "TransportSettings", "UnreachableError"]

T = TypeVar("T")
_WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}
_ADVICE = {
    **dict.fromkeys((401, 403), "; `remote.key_env` and `remote.key_header` say which key is sent, and how"),
    **dict.fromkeys((301, 302, 303, 307, 308), " is a redirect, which is not followed: give its target as `remote.url`"),
}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
_LARGEST_RESPONSE = 256 << 20
_IN_FLIGHT = 64
"""Connections that are kept open at most."""
_SHORTEST_PIECE = 8
"""As many consecutive characters of a secret are hidden wherever they appear."""


class TooMuchError(Exception):
    """The request is too large: status 413, or two timeouts."""


class UnreachableError(Exception):
    """No server responds at the address."""


@dataclass(frozen=True)
class TransportSettings:
    """Connection settings beside the timeout of a response and the number of attempts."""

    connect_timeout: float = 10.0
    """seconds to wait for a connection"""
    patience: float = 300.0
    """seconds that a request may take with all attempts and pauses"""
    requests_per_second: float | None = None
    """rate limit of all threads together"""
    key_env: str | None = None
    """environment variable that holds the API key"""
    key_header: str | None = None
    """header that holds the key; without one it is sent as a bearer token"""
    ca: str | None = None
    """file with the certificates to trust in place of the usual ones"""


class Connection:
    """Requests to one address. Threads may share it. A pickle holds no API key; unpickling reads it again."""

    def __init__(self, url: str, timeout: float, attempts: int, settings: TransportSettings) -> None:
        """Nothing is sent yet.

        Raises:
            InputError: the API key is missing, or the connection would not be encrypted.
        """
        self._settings = (url, timeout, attempts, settings)
        self.url = url
        self._timeout, self._attempts, self._transport = timeout, attempts, settings
        check_address(url, settings.key_env is not None)
        if settings.ca is not None and not os.path.exists(settings.ca):
            raise InputError(f"`remote.ca` must be a file with certificates, got {settings.ca}")
        self._secret = _Secret(settings)
        self._turn = _Turn(settings.requests_per_second)
        self._jitter = random.Random()
        self._session = requests.Session()
        self._session.auth = self._secret  # also keeps passwords of a .netrc away
        self._session.trust_env = not is_loopback(url)  # no proxy between this machine and itself
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=_IN_FLIGHT))

    def __reduce__(self) -> tuple[Any, ...]:
        return Connection, self._settings

    def close(self) -> None:
        """Close what is open; a later request opens it again."""
        self._session.close()

    def hidden(self, words: str) -> str:
        """``words`` of the server in one line, with the API key masked."""
        printable = "".join(letter if letter.isprintable() else " " for letter in self._secret.hidden(words))
        return " ".join(printable.split())[:200]

    def exchange(
        self,
        path: str,
        request: Message | None,
        read: Callable[[Message], T],
        before: Callable[[], None] = lambda: None,
        divisible: bool = False,
    ) -> T:
        """The result of ``read`` on the response to ``request`` (``None``: a GET).

        ``before`` is called before every attempt and may raise to forbid it; the error then has the last problem as a note.

        Raises:
            TargetError: no attempt gave a response that ``read`` accepts (it raises ValueError on others), or time was up.
            TooMuchError: the request was too large, or timed out twice if it is ``divisible``.
            RefusedError: the server gave a status that is final.
            UnreachableError: no server responds to a GET.
        """
        began, timeouts, problem = 0.0, 0, ""
        for attempt in range(1, self._attempts + 1):
            self._turn.wait()
            began = began or time.monotonic()  # the wait for the first turn is not counted
            try:
                before()
            except Exception as error:  # shows why another attempt was needed
                if problem:
                    error.add_note(problem)
                raise
            wait: float | None = None
            try:
                left = began + self._transport.patience - time.monotonic()
                status, response = self._send(path, request, min(self._timeout, max(left, 1.0)))
            except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
                problem = self.hidden(_reason(error))
                if request is None and _is_unreachable(error):
                    raise UnreachableError(problem) from None
                timeouts += _is_timeout(error)
                if divisible and timeouts == 2:
                    raise TooMuchError(problem) from None
            else:
                if status == 200:
                    try:
                        return read(response)
                    except (ValueError, RecursionError) as error:
                        problem = f"invalid response: {self.hidden(str(error))}"
                else:
                    problem = f"HTTP {status} {self.hidden(_problem(response))}{_ADVICE.get(status, '')}"
                    if status == 413:
                        raise TooMuchError(problem)
                    if status not in _WORTH_RETRYING:
                        raise RefusedError(status, problem)
                    wait = _retry_after(response.headers)
            if attempt < self._attempts:
                pause = (wait or 0.0) + self._jitter.uniform(0.0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1)))
                if time.monotonic() + pause - began > self._transport.patience:
                    asked = f", which requests a pause of {wait:.0f} s," if wait else ""
                    raise TargetError(
                        f"{self.url} gave no valid response in {attempt} attempts{asked} within `remote.patience` "
                        f"{self._transport.patience:g} s: {problem}"
                    )
                if wait:
                    self._turn.not_for(wait)
                time.sleep(pause)
        raise TargetError(f"{self.url} gave no valid response in {self._attempts} attempts: {problem}")

    def _send(self, path: str, request: Message | None, timeout: float) -> tuple[int, Message]:
        """One attempt; the whole response must arrive within ``timeout`` seconds."""
        wait = min(self._transport.connect_timeout, timeout)
        with self._session.request(
            "GET" if request is None else "POST",
            self.url.rstrip("/") + path if path else self.url,
            data=None if request is None else request.body,
            headers=None if request is None else dict(request.headers),
            timeout=(wait, timeout),
            verify=self._transport.ca or True,
            allow_redirects=False,
            stream=True,
        ) as response:
            end, body = time.monotonic() + max(timeout - response.elapsed.total_seconds(), 0.0), bytearray()
            while part := response.raw.read1(1 << 20, decode_content=True):
                body += part
                if len(body) > _LARGEST_RESPONSE:
                    raise requests.RequestException(f"a response of more than {_LARGEST_RESPONSE} bytes")
                if time.monotonic() > end:
                    raise requests.ReadTimeout(f"no complete response in {timeout:g} s")
            return response.status_code, Message(bytes(body), response.headers)


class _Turn:
    """Delays attempts to keep the rate limit and the pauses that the server requests."""

    def __init__(self, per_second: float | None) -> None:
        self._interval = 1.0 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleep until this thread may send."""
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._interval if self._interval else self._next
        if mine > now:
            time.sleep(mine - now)

    def not_for(self, seconds: float) -> None:
        """Let no thread send within ``seconds``."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class _Secret(requests.auth.AuthBase):
    """The header with the API key, if there is one; the key is in no `repr` of an attribute and in no pickle."""

    def __init__(self, settings: TransportSettings) -> None:
        key = ""
        if settings.key_env is not None:
            key = os.environ.get(settings.key_env, "").strip()
            if not key:
                raise InputError(
                    f"`remote.key_env` must name an environment variable with a key, {settings.key_env} is not set or empty"
                )
            if not re.fullmatch(r"[\x21-\x7e]+", key):
                raise InputError(
                    f"`remote.key_env` {settings.key_env} must hold visible ASCII characters alone, as a header does, got others"
                )
        name = settings.key_header or "Authorization"
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
            raise InputError(f"`remote.key_header` must be the name of a header, such as X-API-Key, got {name[:80]!r}")
        self._put = (lambda: (name, key if settings.key_header else f"Bearer {key}")) if key else None
        size = min(_SHORTEST_PIECE, len(key))
        self._parts = {
            spelt[at : at + size] for spelt in (key, quote(key, safe="")) for at in range(len(spelt) - size + 1) if key
        }

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled")

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._put is not None:
            name, value = self._put()
            request.headers[name] = value
        return request

    def hidden(self, words: str) -> str:
        """``words`` with ``*`` for every piece of the secret."""
        shown = list(words)
        for part in self._parts:
            at = words.find(part)
            while at >= 0:
                shown[at : at + len(part)] = "*" * len(part)
                at = words.find(part, at + 1)
        return "".join(shown)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now, from either form of the header (RFC 9110, section 10.2.3); ``None`` if it is missing or invalid."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _problem(response: Message) -> str:
    """The reason in an error response: ``error``, FastAPI's ``detail``, the last line of a traceback, or plain text."""
    text = response.body[:100_000].decode(errors="replace")
    try:
        body = json.loads(text)
        return str(body.get("error") or body.get("detail") or body)
    except (ValueError, AttributeError, RecursionError):
        return text.strip().rsplit("\n", 1)[-1] if "Traceback (most recent call last)" in text else text


def _is_unreachable(error: Exception) -> bool:
    """Whether no connection could be made and a retry would most likely fail too."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    never = requests.exceptions.SSLError | requests.ConnectTimeout | ValueError
    return isinstance(error, never) or isinstance(cause, urllib3.exceptions.NewConnectionError)


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError)


def _reason(error: Exception) -> str:
    """The innermost cause, which names the actual problem."""
    cause: BaseException = error
    while isinstance(deeper := getattr(cause, "reason", None) or cause.__cause__ or next(iter(cause.args), None), BaseException):
        cause = deeper
    return str(cause) or type(error).__name__
