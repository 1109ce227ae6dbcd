"""A logger for Weights & Biases."""

from __future__ import annotations

from typing import Any

from bbfuse.callbacks.base import Callback, Start, Status
from bbfuse.callbacks.scalars import of_status, of_summary, required

__all__ = ["WandB"]


class WandB(Callback):
    """Logs settings, training loss, validation accuracy, images sent and final accuracies to Weights & Biases.

    ``options`` go to ``wandb.init``; ``mode="offline"`` writes to a folder only and needs no account.
    """

    def __init__(self, project: str = "bbfuse", **options: Any) -> None:
        """Raises:
        InputError: the library wandb is not installed.
        """
        self._wandb = required("wandb", "wandb", "loggers")
        self._options = {"project": project, **options}
        self._run: Any = None

    def on_start(self, start: Start) -> None:
        """Start the run of Weights & Biases."""
        self._run = self._wandb.init(name=start.folder.name, config=start.config, **self._options)

    def on_step(self, status: Status) -> None:
        """Log loss and images sent."""
        self._run.log(of_status(status), step=status.step)

    def on_validation(self, status: Status) -> None:
        """Log the validation accuracy."""
        self._run.log({"validation": status.validation}, step=status.step)

    def on_end(self, summary: dict[str, Any]) -> None:
        """Write the final accuracies and finish."""
        self._run.summary.update(of_summary(summary))
        self._run.finish()
