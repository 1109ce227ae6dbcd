"""A target behind HTTP; without an address a server of our own is started."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Interval
from pydantic import AllowInfNan

from backends.base import Backend, BackendInfo
from backends.files import short_name
from backends.http.address import check_address
from backends.kinds.base import BACKENDS, BackendKind, Description, Opening
from backends.settings import Count, NonNegative, NonNegativeInt, Positive, Rule, changed

if TYPE_CHECKING:
    from backends.http.backend import RemoteBackend

__all__ = ["Remote", "RemoteConfig"]


@dataclass(frozen=True)
class RemoteConfig:
    """The server: Open Inference Protocol v2, TensorFlow Serving, or any other JSON by a template."""

    url: str | None = None
    """address of the server, such as http://127.0.0.1:8080; if not given one is started on this machine"""
    model: str | None = None
    """the model's name on the server; the target's name if not given"""
    protocol: Literal["oip", "oip-binary", "tensorflow", "json"] | None = None
    """protocol: Open Inference Protocol v2 in JSON or with binary tensors, TensorFlow Serving's REST form, or JSON by
    `remote.request` and `remote.response`; taken from the server's metadata if not given"""
    layout: Literal["nchw", "nhwc"] | None = None
    """order of the dimensions of images: channels first or last; taken from the metadata, else nchw, if not given"""
    range: Literal["signed", "unit", "levels"] | None = None
    """range of pixels: numbers in [-1, 1], in [0, 1], or integers from 0 to 255; if not given levels where the metadata say so,
    else signed"""
    request: str | None = None
    """template of the JSON request, or a file with it, sent to `remote.url` itself: "{images}" stands for the nested list of
    images, "{bit_error_rate}" and "{chip_seed}" for the chip"""
    response: str | None = None
    """path of the logits in the JSON response, such as result.scores or outputs[0].data"""
    key_env: str | None = None
    """environment variable that holds the server's key, sent as a bearer token; only the variable's name is written to files"""
    key_header: str | None = None
    """header that carries the key unchanged, such as X-API-Key"""
    ca: str | None = None
    """file with the certificates to trust in place of the usual ones"""
    timeout: Positive = 30.0
    """seconds to wait for a response"""
    connect_timeout: Positive = 10.0
    """seconds to wait for a connection"""
    attempts: Count = 4
    """attempts per request at most, when the server is busy, the connection breaks or the response is invalid"""
    patience: Positive = 300.0
    """seconds per request at most, all attempts and the pauses between them together"""
    requests_per_second: Positive | None = None
    """rate limit"""
    reserve: Annotated[float, Interval(ge=0, lt=1), AllowInfNan(False)] = 0.0
    """share of the budget reserved for retries, so that they do not shorten the training"""
    price: NonNegative | None = None
    """price of 1,000 requests, in any currency; plan and summary then contain the cost of the run"""
    pixels: Literal["float32", "uint8"] | None = None
    """how the built-in server takes images: numbers in [-1, 1], or 256 levels, to which every probe is rounded; other servers
    declare it in their metadata"""
    in_flight: Count = 4
    """requests in flight at once, of at most 128 images together, which is the most that a killed run loses; results and counts
    do not depend on it"""
    store: str | None = None
    """folder that caches the responses of `remote.url` for other runs, which then need not send those images again"""
    watch: NonNegativeInt | None = None
    """number of drift checks during the run with eight owned images, after two at the start that find out whether responses are
    repeatable and depend on the chip; 0 for none; 3 with `remote.url` if not given"""

    rules: ClassVar[tuple[Rule, ...]] = ()

    @property
    def checks(self) -> int:
        """Number of drift checks during the run, after those at its start."""
        return self.watch if self.watch is not None else 3 * (self.url is not None)


_NEEDS_A_URL = ("layout", "range", "request", "response", "key_env", "key_header", "ca")


def _template(c: RemoteConfig) -> list[str]:
    return [name for name in ("request", "response") if getattr(c, name) is not None]


def _checked(c: RemoteConfig) -> None:
    """Refuse an address that is none, or over which the key would be sent in the clear."""
    if c.url is not None:
        check_address(c.url, c.key_env is not None)


RemoteConfig.rules = (
    Rule(
        lambda c: c.url is not None and c.pixels is not None,
        "`remote.pixels` has no effect with `remote.url`, whose server declares what it takes: drop it",
    ),
    Rule(
        lambda c: c.url is None and c.store is not None,
        "`remote.store` has no effect without `remote.url`, since the built-in server costs nothing: drop it",
    ),
    Rule(
        lambda c: c.store is not None and not c.checks,
        "`remote.store` needs the check that responses are repeatable: drop `remote.watch=0`",
    ),
    Rule(lambda c: _checked(c), ""),
    Rule(
        lambda c: c.url is None and [name for name in changed(c) if name in _NEEDS_A_URL],
        "`remote.{found[0]}` has no effect without `remote.url`: drop it or give the server's address",
    ),
    Rule(
        lambda c: c.url is None and c.protocol in ("tensorflow", "json"),
        "`remote.protocol={c.protocol}` needs `remote.url`: the built-in server speaks oip and oip-binary",
    ),
    Rule(
        lambda c: c.key_header is not None and c.key_env is None,
        "`remote.key_header` has no effect without `remote.key_env`, which names the variable with the key: give both",
    ),
    Rule(
        lambda c: c.ca is not None and not (c.url or "").startswith("https:"),
        "`remote.ca` has no effect without an https address as `remote.url`: drop it or give one",
    ),
    Rule(
        lambda c: c.protocol not in (None, "json") and _template(c),
        "`remote.{found[0]}` has no effect with `remote.protocol={c.protocol}`: drop one of the two",
    ),
    Rule(
        lambda c: (_template(c) or c.protocol == "json") and len(_template(c)) < 2,
        "`remote.protocol=json` needs `remote.request`, a template, and `remote.response`, a path: give both",
    ),
)


@BACKENDS.register("remote")
class Remote(BackendKind):
    """A server over HTTP: strict access."""

    Config = RemoteConfig
    over_network = True

    @classmethod
    def on_chip(cls, target: str, settings: RemoteConfig) -> bool:
        """See `BackendKind`; what runs behind an address is not known."""
        return settings.url is None

    @classmethod
    def open(cls, opening: Opening) -> Backend:
        """See `BackendKind`; the server's metadata are read."""
        backend = _connected(opening)
        if backend.dialect.assumed is not None:
            opening.say(f"{opening.settings.url}: {backend.dialect.assumed}")
        return backend

    @classmethod
    def describe(cls, opening: Opening) -> Description:
        """See `BackendKind`; the metadata of a given server are read, no server is started."""
        from backends.http.codecs.base import Pixels
        from backends.http.codecs.open_inference import OpenInference
        from backends.targets.networks import build

        if opening.settings.url is not None:
            with closing(_connected(opening)) as backend:
                return Description(backend.info, backend.dialect)
        data, eight_bits = opening.data, opening.settings.pixels == "uint8"
        build(opening.target, data.image_shape, data.classes, data.form, opening.trust)
        info = BackendInfo(opening.target, cls.access, data.image_shape, data.classes, eight_bits)
        pixels = Pixels(range="levels" if eight_bits else "signed")
        return Description(info, OpenInference(info, pixels, binary=opening.settings.protocol != "oip"))


def _connected(opening: Opening) -> RemoteBackend:
    from backends.http.backend import DiscoveryOverrides, RemoteBackend, TransportSettings

    given, data = opening.settings, opening.data
    transport = TransportSettings(
        given.connect_timeout, given.patience, given.requests_per_second, given.key_env, given.key_header, given.ca
    )  # fmt: skip
    overrides = DiscoveryOverrides(
        given.protocol, given.layout, given.range, given.request, given.response, data.image_shape, data.classes
    )  # fmt: skip
    return RemoteBackend(
        given.url, given.model or short_name(opening.target), given.timeout, given.attempts, transport, overrides
    )
