"""What TensorBoard, MLflow and Weights & Biases hold of a run, read back by these libraries."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from backends.base import InputError
from bbfuse.callbacks import Callback, MLflow, Start, Status, TensorBoard, WandB, scalars

STATUSES = [Status(100 * step, 900, step, 3, None if step == 2 else 1.0 / step, None) for step in (1, 2, 3)]
SUMMARY = {
    "accuracy": {"clean": 0.99, "clean_fused": None, "perturbed": {"mean": 0.4, "sd": 0.1, "chips": 3}},
    "recovered_points": 51.5, "queries": {"images": 800},
}  # fmt: skip
FINAL = {"accuracy.clean": 0.99, "accuracy.perturbed": 0.4, "recovered_points": 51.5, "images": 800.0}


def logged(callback: Callback, folder: Path, start: int = 0) -> None:
    """A short run."""
    folder.mkdir(exist_ok=True)
    for name in ("summary.json", "report.html"):
        (folder / name).write_text(json.dumps(SUMMARY))
    callback.on_start(Start({"optimizer": "spsa", "spsa": {"c": 0.02}, "grow": None}, folder, start))
    for status in STATUSES[start:]:
        callback.on_step(status)
    callback.on_validation(Status(300, 900, 3, 3, 0.3, 0.75))
    callback.on_end(SUMMARY)


def test_numbers_have_dotted_names_and_nothing_is_made_up() -> None:
    assert scalars.of_summary(SUMMARY) == FINAL
    assert scalars.of_status(STATUSES[0]) == {"images": 100, "loss": 1.0}
    assert scalars.of_status(STATUSES[1]) == {"images": 200}
    nested = {"a": {"b": {"c": 1, "d": None}, "e": True}, "f": [1, 2]}
    assert scalars.settings(nested) == {"a.b.c": 1, "a.e": True, "f": "[1, 2]"}


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(InputError, match=r"^no-such-logger is not installed: python -m pip install 'bbfuse\[loggers\]'$"):
        scalars.required("no_such_logger", "no-such-logger", "loggers")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", [0, 1])
def test_tensorboard_has_the_numbers(start: int, tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logged(TensorBoard(tmp_path / "logs"), tmp_path / "run")
    if start:  # resumed: the steps after the first come again
        logged(TensorBoard(tmp_path / "logs"), tmp_path / "run", start)
    found = reading.EventAccumulator(str(tmp_path / "logs" / "run"))
    found.Reload()
    numbers = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert numbers["training/images"] == [(1, 100.0), (2, 200.0), (3, 300.0)]
    assert numbers["training/loss"] == [(1, 1.0), (3, pytest.approx(1 / 3))]
    assert numbers["validation/accuracy"] == [(3, 0.75)]
    for name, value in FINAL.items():
        assert numbers[f"summary/{name}"][-1][1] == pytest.approx(value)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_settings_numbers_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # new versions want a database otherwise
    mlflow = pytest.importorskip("mlflow")
    uri = f"file:{tmp_path / 'store'}"
    for _ in range(2):  # the second run finds the experiment
        logged(MLflow(uri, "mine"), tmp_path / "run")
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert len(runs) == 2
    data = runs[0].data
    assert data.params == {"optimizer": "spsa", "spsa.c": "0.02"}
    final = {f"summary.{name}": value for name, value in FINAL.items()}
    assert data.metrics == {**final, "images": 300.0, "loss": pytest.approx(1 / 3), "validation": 0.75}
    assert [(m.step, m.value) for m in client.get_metric_history(runs[0].info.run_id, "loss")] == [
        (1, 1.0), (3, pytest.approx(1 / 3)),
    ]  # fmt: skip
    assert sorted(file.path for file in client.list_artifacts(runs[0].info.run_id)) == ["report.html", "summary.json"]
    assert (runs[0].info.status, runs[0].info.run_name) == ("FINISHED", "run")


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_has_the_numbers_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    seen: list[Any] = []
    callback = WandB("mine", mode="offline")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logged(callback, tmp_path / "run")
    seen += list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(seen) == 1
    content = seen[0].read_bytes()
    for words in (b"optimizer", b"validation", b"recovered_points"):
        assert words in content
