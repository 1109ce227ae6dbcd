"""The result of ``bbfuse.fit``: the trained parts, the summary and the report of a run, and predictions with them."""

from __future__ import annotations

import functools
import io
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from backends.base import Backend, Chip, InputError
from backends.datasets.base import Dataset
from backends.registry import renew
from bbfuse.callbacks.base import Callback
from bbfuse.cli.tables import closing_table
from bbfuse.config import RunConfig
from bbfuse.deploy.trained import Trained
from bbfuse.execution import outcome
from bbfuse.opening import open_backend, owned_data
from bbfuse.querying.responses import ResponseCheck
from bbfuse.querying.scheduling import IMAGES_PER_REQUEST
from bbfuse.runs.folder import settings

__all__ = ["Result"]


class Result:
    """A run that has ended. Shown in a notebook it is a table of its accuracies."""

    def __init__(self, folder: Path, summary: dict[str, Any]) -> None:
        self.folder = folder
        """The run folder; ``bbfuse.load`` takes it."""
        self.summary = summary
        """The content of ``summary.json``: accuracies, recovered points, images sent, settings."""
        self._config: RunConfig = settings(folder, "folder", trust=True)  # this process made it
        self._calibrated_for: Chip | None = None

    @functools.cached_property
    def trained(self) -> Trained:
        """Fuse and head, as ``bbfuse.load`` gives them."""
        renew(vars(self._config).values())
        return Trained.load(self.folder, trust=True)

    @functools.cached_property
    def _images_per_chip(self) -> int:
        return self.trained.calibrating_images  # 0 once it is calibrated

    @property
    def fuse(self) -> nn.Module:
        """The fuse: inputs (n, *shape) in [-1, 1] to such inputs."""
        return self.trained.fuse

    @property
    def head(self) -> nn.Module:
        """The head: scores of the target (n, classes) to corrected logits."""
        return self.trained.head

    def scores(self, inputs: Any, chip: Chip | None = None) -> Tensor:
        """Corrected logits (n, classes) of ``inputs``, which have the form of the data that the run was given.

        The target is queried through the fuse, beyond the budget of the run. ``chip`` is the run's if not given; after a run for
        the population it has to be given, and the head is calibrated for it with a few owned inputs first.

        Raises:
            InputError: the inputs do not fit, or ``chip`` is missing.
            TargetError: the target failed.
        """
        config, data = self._config, owned_data(self._config)
        images, chip = _inward(inputs, data), chip or config.chip
        if chip is None:
            raise InputError("`chip` must be given after a run for the population: the one that the inputs are sent to")
        with ExitStack() as stack:
            backend = open_backend(config, lambda _: None, stack)
            if self._images_per_chip and self._calibrated_for != chip:
                self.trained.calibrate(_responses(backend, data.train.images[: self._images_per_chip], chip))
                self._calibrated_for = chip
            with torch.no_grad():
                corrected: Tensor = self.trained(images, lambda fused: _responses(backend, fused, chip))
                return corrected

    def predict(self, inputs: Any, chip: Chip | None = None) -> Tensor:
        """Classes (n,) of ``inputs``: the largest of `scores`.

        Raises:
            InputError, TargetError: as `scores`.
        """
        return self.scores(inputs, chip).argmax(1)

    def report(self) -> Path:
        """Print the closing table; returns the path of ``report.html``, a page with figures."""
        closing_table(self.summary)
        return self.folder / "report.html"

    def save(self, folder: str | Path) -> None:
        """Copy the run folder to ``folder``, which ``bbfuse.load`` and ``python -m bbfuse.serve --run`` take.

        Raises:
            InputError: ``folder`` exists already, or cannot be written.
        """
        if Path(folder).exists():
            raise InputError(f"{folder} exists already: choose another folder")
        try:
            shutil.copytree(self.folder, folder)
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error.strerror or error}") from error

    def resume(self, budget: int, callbacks: Sequence[Callback] = ()) -> Result:
        """Go on training with another ``budget``: a new run that starts from this one's fuse, and from its head if that is
        trained.

        Raises:
            InputError, TargetError, KeyboardInterrupt: as `bbfuse.fit`.
        """
        ended = outcome(self._config.replaced(init=self.folder, budget=budget, out=None, trust=True), callbacks)
        return Result(ended.folder, ended.summary)

    def __repr__(self) -> str:
        """Where it is, and what came of it, in one line."""
        accuracy = self.summary["accuracy"]
        reached, before = accuracy.get("kept", accuracy["perturbed_fused"])["mean"], accuracy["perturbed"]["mean"]
        sent = self.summary["queries"]["images"]
        return f"<bbfuse.Result {self.folder}: {100 * before:.1f} % -> {100 * reached:.1f} %, {sent:,} images sent>"

    def _repr_html_(self) -> str:
        console = Console(record=True, file=io.StringIO(), width=100)
        closing_table(self.summary, console)
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def _inward(inputs: Any, data: Dataset) -> Tensor:
    """``inputs`` in the form of ``data`` as float32 (n, *shape) in [-1, 1]."""
    values = inputs if isinstance(inputs, Tensor) else torch.as_tensor(np.asarray(inputs))
    least = values.ndim == len(data.image_shape) + (not data.form.squeezed)
    images = data.form.inward(values) if least else values
    if tuple(images.shape[1:]) != data.image_shape:
        raise InputError(f"`inputs` must have the form of the data of the run, n of {data.image_shape}, got {list(values.shape)}")
    if not (images.abs() <= 1.0 + 1e-6).all():  # also true for NaN
        raise InputError(f"`inputs` must lie in [{data.form.low:g}, {data.form.high:g}] as the data of the run do, got others")
    return images.clamp(-1.0, 1.0)


def _responses(backend: Backend, images: Tensor, chip: Chip) -> Tensor:
    """The responses (n, classes) of ``backend``, checked, as it gives them."""
    check, found = ResponseCheck(backend.info), []
    for part in images.split(min(backend.info.limit or IMAGES_PER_REQUEST, IMAGES_PER_REQUEST)):
        found.append(backend.query(part, chip, lambda _: None))
        check.logits(found[-1], len(part))
    return torch.cat(found)
