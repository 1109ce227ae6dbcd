"""A target behind an HTTP API."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import torch
from torch import Tensor

from backends.base import Chip, InputError, Sending, TargetError
from backends.http.codecs.base import Message, RefusedError
from backends.http.discovery import DiscoveryOverrides, found
from backends.http.transport import Connection, TooMuchError, TransportSettings, UnreachableError

__all__ = ["DiscoveryOverrides", "RemoteBackend", "TransportSettings"]


class RemoteBackend:
    """The client of an HTTP API, with strict access: a response holds logits alone.

    Threads may share it. After unpickling it opens new connections and reads the API key from the environment again.
    """

    def __init__(
        self,
        url: str,
        model: str,
        timeout: float = 30.0,
        attempts: int = 4,
        settings: TransportSettings = TransportSettings(),  # noqa: B008
        overrides: DiscoveryOverrides = DiscoveryOverrides(),  # noqa: B008
    ) -> None:
        """Read the metadata of the model.

        Raises:
            InputError: no server responds at ``url``, it has no image classifier called ``model``, or ``overrides`` contradict
                its metadata.
        """
        self._connection = Connection(url, timeout, attempts, settings)
        try:
            self.dialect = found(self._metadata, model, overrides)
        except UnreachableError as error:
            raise InputError(f"`remote.url` {url} cannot be reached: {error}") from error
        except InputError:
            raise
        except (RefusedError, TargetError, ValueError) as error:
            words = self._connection.hidden(str(error))
            raise InputError(f"`remote.url` {url} does not describe an image classifier called {model}: {words}") from None
        self.info = self.dialect.info
        self._limit = self.info.limit

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.base.Backend`; in parts if the server takes fewer images in one request.

        A part that is too large for the server (413, or two attempts that time out) is halved, and later parts are as small.
        """
        waiting, responses = deque([images]), []
        while waiting:
            part = waiting.popleft()
            if self._limit is not None and len(part) > self._limit:
                waiting.extendleft(reversed(part.split(self._limit)))
                continue
            try:
                responses.append(self._send(part, chip, sending))
            except TooMuchError as error:
                if len(part) == 1:
                    raise TargetError(f"{self._connection.url} does not take a single image: {error}") from None
                # two threads may race here; a limit that stays too large is halved again later
                self._limit = min(self._limit or len(part), (len(part) + 1) // 2)
                waiting.appendleft(part)
            except RefusedError as error:
                raise TargetError(f"{self._connection.url} refused a request: {error}") from None
        return torch.cat(responses)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _send(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        expected = (len(images), self.info.classes)

        def read(response: Message) -> Tensor:
            logits = self.dialect.decode(response)
            if tuple(logits.shape) != expected:
                raise ValueError(f"shape {tuple(logits.shape)} where {expected} was expected")
            if not torch.isfinite(logits).all():
                raise ValueError("logits that are not finite (NaN or infinity)")
            return logits

        request = self.dialect.encode(images, chip)
        return self._connection.exchange(self.dialect.path, request, read, lambda: sending(len(images)), len(images) > 1)

    def _metadata(self, path: str) -> Any:
        return self._connection.exchange(path, None, lambda response: json.loads(response.body))
