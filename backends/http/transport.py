"""One server over HTTP: a pooled session, attempts, pauses, a rate and a secret. The only file that imports `requests`.

What is asked again: statuses 408, 425, 429, 500, 502, 503 and 504, broken connections, silence, and a 200 that is no answer. Of
those some are damage on the way (a body that is cut, whose length is a lie, that is not what its protocol says, a gateway's HTML)
and some look like the target's own words (another shape, NaN), but a gateway that injects one injects the other, so all have the
same number of attempts; what is wrong at the last one is told. Everything else the server says is final. Redirects are not
followed: nobody but the address that the user gave gets images or the secret.
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
from backends.http.codecs import Message, RefusedError

__all__ = ["Connection", "Manners", "TooMuchError", "UnreachableError"]

T = TypeVar("T")
_WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}
_ADVICE = {
    **dict.fromkeys((401, 403), "; --remote.key-env and --remote.key-header say which key is sent, and how"),
    **dict.fromkeys((301, 302, 303, 307, 308), " is a redirect, which is not followed: give the address that it leads to"),
}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
_LARGEST_ANSWER = 256 << 20
_IN_FLIGHT = 64
"""Connections that are kept open at most."""
_TELLING = 8
"""So many characters of a secret in a row are hidden wherever they appear."""


class TooMuchError(Exception):
    """The server would answer fewer images: 413, or silence twice."""


class UnreachableError(Exception):
    """Nobody answers at the address."""


@dataclass(frozen=True)
class Manners:
    """How a server is asked, beside the time it has for an answer and the number of attempts."""

    connect_timeout: float = 10.0
    """seconds to wait for a connection"""
    patience: float = 300.0
    """seconds that a request may take with all attempts and pauses"""
    requests_per_second: float | None = None
    """not more than that, all threads together"""
    key_env: str | None = None
    """environment variable that holds a secret"""
    key_header: str | None = None
    """header that carries the secret as it is; without one it is a bearer token"""
    ca: str | None = None
    """file with the certificates to trust in place of the usual ones"""


class Connection:
    """Requests to one address. Threads may share it; pickled it carries no secret, which is read from the environment again."""

    def __init__(self, url: str, timeout: float, attempts: int, manners: Manners) -> None:
        """Nothing is sent yet.

        Raises:
            InputError: there is no secret where it should be, or it would be readable on its way.
        """
        self._settings = (url, timeout, attempts, manners)
        self.url = url
        self._timeout, self._attempts, self._manners = timeout, attempts, manners
        check_address(url, manners.key_env is not None)
        if manners.ca is not None and not os.path.exists(manners.ca):
            raise InputError(f"--remote.ca must be a file with certificates, got {manners.ca}")
        self._secret = _Secret(manners)
        self._turn = _Turn(manners.requests_per_second)
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
        """``words`` of the server in one line, without the secret or a part of it that tells."""
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
        """What ``read`` makes of the answer to ``request`` (``None``: a GET); ``before`` is called before every attempt
        and ends them by an error, which then has what was wrong with the last one as a note.

        Raises:
            TargetError: no attempt brought an answer that ``read`` takes without a ValueError, or patience was at its end.
            TooMuchError: the request was too large, or silence twice if it is ``divisible``.
            RefusedError: the server answered with a status that is final.
            UnreachableError: to a GET; nobody is there to be asked again.
        """
        began, silences, problem = 0.0, 0, ""
        for attempt in range(1, self._attempts + 1):
            self._turn.wait()
            began = began or time.monotonic()  # waiting for the first turn takes no patience
            try:
                before()
            except Exception as error:  # whoever forbids another attempt may want to tell why there is a need of one
                if problem:
                    error.add_note(problem)
                raise
            told: float | None = None
            try:
                left = began + self._manners.patience - time.monotonic()
                status, answer = self._send(path, request, min(self._timeout, max(left, 1.0)))
            except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
                problem = self.hidden(_reason(error))
                if request is None and _nobody(error):
                    raise UnreachableError(problem) from None
                silences += _is_silence(error)
                if divisible and silences == 2:
                    raise TooMuchError(problem) from None
            else:
                if status == 200:
                    try:
                        return read(answer)
                    except (ValueError, RecursionError) as error:
                        problem = f"not what was asked for: {self.hidden(str(error))}"
                else:
                    problem = f"HTTP {status} {self.hidden(_problem(answer))}{_ADVICE.get(status, '')}"
                    if status == 413:
                        raise TooMuchError(problem)
                    if status not in _WORTH_RETRYING:
                        raise RefusedError(status, problem)
                    told = _retry_after(answer.headers)
            if attempt < self._attempts:
                pause = (told or 0.0) + self._jitter.uniform(0.0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1)))
                if time.monotonic() + pause - began > self._manners.patience:
                    asked = f", which asks for a pause of {told:.0f} s" if told else ""
                    raise TargetError(
                        f"{self.url} gave no answer in {attempt} attempts{asked} and --remote.patience "
                        f"{self._manners.patience:g} s: {problem}"
                    )
                if told:
                    self._turn.not_for(told)
                time.sleep(pause)
        raise TargetError(f"{self.url} gave no answer in {self._attempts} attempts: {problem}")

    def _send(self, path: str, request: Message | None, timeout: float) -> tuple[int, Message]:
        """One attempt; the whole answer has to be there ``timeout`` seconds after the request, however it trickles in."""
        wait = min(self._manners.connect_timeout, timeout)
        with self._session.request(
            "GET" if request is None else "POST",
            self.url.rstrip("/") + path if path else self.url,
            data=None if request is None else request.body,
            headers=None if request is None else dict(request.headers),
            timeout=(wait, timeout),
            verify=self._manners.ca or True,
            allow_redirects=False,
            stream=True,
        ) as response:
            end, body = time.monotonic() + max(timeout - response.elapsed.total_seconds(), 0.0), bytearray()
            while part := response.raw.read1(1 << 20, decode_content=True):
                body += part
                if len(body) > _LARGEST_ANSWER:
                    raise requests.RequestException(f"an answer of more than {_LARGEST_ANSWER} bytes")
                if time.monotonic() > end:
                    raise requests.ReadTimeout(f"no whole answer in {timeout:g} s")
            return response.status_code, Message(bytes(body), response.headers)


class _Turn:
    """Lets attempts through no faster than was asked for, and none while the server wants a pause."""

    def __init__(self, per_second: float | None) -> None:
        self._interval = 1.0 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Until it is this thread's turn."""
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._interval if self._interval else self._next
        if mine > now:
            time.sleep(mine - now)

    def not_for(self, seconds: float) -> None:
        """Nobody's turn comes within ``seconds``."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class _Secret(requests.auth.AuthBase):
    """The header with the secret, if there is one; the secret is in no attribute's `repr` and in no pickle."""

    def __init__(self, manners: Manners) -> None:
        key = ""
        if manners.key_env is not None:
            key = os.environ.get(manners.key_env, "").strip()
            if not key:
                raise InputError(f"--remote.key-env {manners.key_env}: there is no such environment variable, or it is empty")
            if not re.fullmatch(r"[\x21-\x7e]+", key):
                raise InputError(f"--remote.key-env {manners.key_env} holds characters that no header may carry")
        name = manners.key_header or "Authorization"
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
            raise InputError(f"--remote.key-header must be the name of a header, such as X-API-Key, got {name[:80]!r}")
        self._put = (lambda: (name, key if manners.key_header else f"Bearer {key}")) if key else None
        size = min(_TELLING, len(key))
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
    """Seconds from now, of both forms (RFC 9110, section 10.2.3); ``None`` where there is no such header or none to be read."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _problem(answer: Message) -> str:
    """What the server says of its refusal: a protocol's ``error``, FastAPI's ``detail``, a trace's last line, or plain text."""
    text = answer.body[:100_000].decode(errors="replace")
    try:
        body = json.loads(text)
        return str(body.get("error") or body.get("detail") or body)
    except (ValueError, AttributeError, RecursionError):
        return text.strip().rsplit("\n", 1)[-1] if "Traceback (most recent call last)" in text else text


def _nobody(error: Exception) -> bool:
    """Whether there was nobody to send anything to, now and most likely later."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    never = requests.exceptions.SSLError | requests.ConnectTimeout | ValueError
    return isinstance(error, never) or isinstance(cause, urllib3.exceptions.NewConnectionError)


def _is_silence(error: Exception) -> bool:
    return isinstance(error, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError)


def _reason(error: Exception) -> str:
    """The innermost cause, which is the one that says something."""
    cause: BaseException = error
    while (deeper := getattr(cause, "reason", None) or cause.__cause__ or (cause.args[0] if cause.args else None)) and isinstance(
        deeper, BaseException
    ):
        cause = deeper
    return str(cause) or type(error).__name__
