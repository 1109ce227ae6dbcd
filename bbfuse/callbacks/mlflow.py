"""A logger for MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bbfuse.callbacks.base import Callback, Start, Status
from bbfuse.callbacks.scalars import of_status, of_summary, required, settings

__all__ = ["MLflow"]


class MLflow(Callback):
    """Logs settings, training loss, validation accuracy, images sent and final accuracies to MLflow, with the report.

    Without ``uri`` it uses MLflow's own default, which `mlflow.set_tracking_uri` or MLFLOW_TRACKING_URI set.
    """

    def __init__(self, uri: str | None = None, experiment: str = "bbfuse") -> None:
        """``uri``: the tracking store, such as ``file:./mlruns``, ``sqlite:///mlflow.db`` or a server's address.

        Raises:
            InputError: the library mlflow is not installed.
        """
        self._client = required("mlflow", "mlflow", "loggers").MlflowClient(uri)
        self._experiment = experiment
        self._run = ""
        self._folder = Path()

    def on_start(self, start: Start) -> None:
        """Create the run, in its experiment."""
        found = self._client.get_experiment_by_name(self._experiment)
        identity = self._client.create_experiment(self._experiment) if found is None else found.experiment_id
        self._folder = start.folder
        self._run = self._client.create_run(identity, run_name=start.folder.name).info.run_id
        for name, value in settings(start.config).items():
            self._client.log_param(self._run, name, value)

    def on_step(self, status: Status) -> None:
        """Log loss and images sent."""
        self._log(of_status(status), status.step)

    def on_validation(self, status: Status) -> None:
        """Log the validation accuracy."""
        assert status.validation is not None
        self._log({"validation": status.validation}, status.step)

    def on_end(self, summary: dict[str, Any]) -> None:
        """Log the final accuracies and the files ``summary.json`` and ``report.html``."""
        self._log({f"summary.{name}": value for name, value in of_summary(summary).items()}, 0)
        for name in ("summary.json", "report.html"):
            self._client.log_artifact(self._run, str(self._folder / name))
        self._client.set_terminated(self._run)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._run, name, value, step=step)
