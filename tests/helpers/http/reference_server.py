"""The reference server on loopback, with targets that fail as their names say."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import requests
import torch
import uvicorn
from fastapi import FastAPI
from torch import Tensor

from backends.base import Access, BackendInfo, Chip, Sending, TargetError
from backends.http.codecs.oip_json import request_body
from backends.server.command import Connection

KEY = "correct horse"
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
GOOD = request_body(IMAGES, Chip(0.05, 3))


class Broken:
    """A target whose answer is as its name says."""

    def __init__(self, name: str) -> None:
        self.info = BackendInfo(name, Access.LOGITS, (1, 8, 8), 10)

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        if self.info.name == "nan":
            return torch.full((len(images), 10), torch.nan)
        if self.info.name == "failing":
            raise TargetError("no answer came")
        raise ZeroDivisionError("secret words")

    def close(self) -> None: ...


class Served:
    """An application on loopback in a thread."""

    def __init__(self, app: FastAPI) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(uvicorn.Config(app, http=Connection, ws="none", log_level="critical"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()

    def infer(self, body: Any, model: str = "digits", **headers: str) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body)
        return requests.post(f"{self.url}/v2/models/{model}/infer", data=data, headers=headers, timeout=30)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
