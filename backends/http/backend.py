"""A target behind HTTP."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import torch
from torch import Tensor

from backends.base import Chip, InputError, Sending, TargetError
from backends.http.codecs import Message, RefusedError
from backends.http.discovery import Wanted, found
from backends.http.transport import Connection, Manners, TooMuchError, UnreachableError

__all__ = ["Manners", "RemoteBackend", "Wanted"]


class RemoteBackend:
    """Strict access by construction: what comes back is what the server sends.

    Several threads may ask at once. Pickled it opens its connections anew and reads its secret from the environment.
    """

    def __init__(
        self,
        url: str,
        model: str,
        timeout: float = 30.0,
        attempts: int = 4,
        manners: Manners = Manners(),  # noqa: B008
        wanted: Wanted = Wanted(),  # noqa: B008
    ) -> None:
        """Ask the server for the model's metadata.

        Raises:
            InputError: nobody answers at ``url``, or not with the metadata of an image classifier called ``model``, or what is
                wanted of it does not fit them.
        """
        self._connection = Connection(url, timeout, attempts, manners)
        try:
            self.dialect = found(self._metadata, model, wanted)
        except UnreachableError as error:
            raise InputError(f"--remote.url {url} cannot be reached: {error}") from error
        except InputError:
            raise
        except (RefusedError, TargetError, ValueError) as error:
            words = self._connection.hidden(str(error))
            raise InputError(f"--remote.url {url} does not describe an image classifier called {model}: {words}") from None
        self.info = self.dialect.info
        self._limit = self.info.limit

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.base.Backend`; in parts where the server takes fewer images at once.

        A part that is too large for the server (413, or two attempts without an answer in time) is halved, and so is from then on
        every other one.
        """
        waiting, answers = deque([images]), []
        while waiting:
            part = waiting.popleft()
            if self._limit is not None and len(part) > self._limit:
                waiting.extendleft(reversed(part.split(self._limit)))
                continue
            try:
                answers.append(self._ask(part, chip, sending))
            except TooMuchError as error:
                if len(part) == 1:
                    raise TargetError(f"{self._connection.url} does not take a single image: {error}") from None
                # where threads meet here the larger limit may stay, which is halved again when it is met
                self._limit = min(self._limit or len(part), (len(part) + 1) // 2)
                waiting.appendleft(part)
            except RefusedError as error:
                raise TargetError(f"{self._connection.url} refused a request: {error}") from None
        return torch.cat(answers)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _ask(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        due = (len(images), self.info.classes)

        def read(answer: Message) -> Tensor:
            logits = self.dialect.decode(answer)
            if tuple(logits.shape) != due:
                raise ValueError(f"shape {tuple(logits.shape)} where {due} was due")
            if not torch.isfinite(logits).all():
                raise ValueError("logits that are not finite (NaN or infinity)")
            return logits

        request = self.dialect.encode(images, chip)
        return self._connection.exchange(self.dialect.path, request, read, lambda: sending(len(images)), len(images) > 1)

    def _metadata(self, path: str) -> Any:
        return self._connection.exchange(path, None, lambda answer: json.loads(answer.body))
