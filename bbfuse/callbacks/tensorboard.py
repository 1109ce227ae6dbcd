"""A logger for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bbfuse.callbacks.base import Callback, Start, Status
from bbfuse.callbacks.scalars import of_status, of_summary, required, settings

__all__ = ["TensorBoard"]


class TensorBoard(Callback):
    """Writes training loss, validation accuracy and images sent as TensorBoard events; each run has a folder of its own name.

    A resumed run goes on in the same folder, and steps that are repeated replace the earlier ones. ``summary`` is written as
    hyperparameters with the final accuracies.
    """

    def __init__(self, folder: str | Path) -> None:
        """``folder``: what ``tensorboard --logdir`` is given.

        Raises:
            InputError: the library tensorboard is not installed.
        """
        required("tensorboard", "tensorboard", "loggers")
        self._folder = Path(folder)
        self._config: dict[str, Any] = {}
        self._writer: Any = None

    def on_start(self, start: Start) -> None:
        """Open the run's folder of events."""
        from torch.utils.tensorboard import SummaryWriter

        self._config = start.config
        self._writer = SummaryWriter(str(self._folder / start.folder.name), purge_step=start.step + 1 if start.step else None)

    def on_step(self, status: Status) -> None:
        """Write loss and images sent."""
        for name, value in of_status(status).items():
            self._writer.add_scalar(f"training/{name}", value, status.step)

    def on_validation(self, status: Status) -> None:
        """Write the validation accuracy."""
        self._writer.add_scalar("validation/accuracy", status.validation, status.step)

    def on_end(self, summary: dict[str, Any]) -> None:
        """Write the settings with the final accuracies."""
        found = {f"summary/{name}": value for name, value in of_summary(summary).items()}
        self._writer.add_hparams(settings(self._config), found, run_name=".")
        self._writer.close()
