"""Callbacks of a run: your own, and loggers for TensorBoard, MLflow and Weights & Biases, whose libraries are optional."""

from __future__ import annotations

from bbfuse.callbacks.base import Callback, Start, Status
from bbfuse.callbacks.mlflow import MLflow
from bbfuse.callbacks.tensorboard import TensorBoard
from bbfuse.callbacks.wandb import WandB

__all__ = ["Callback", "MLflow", "Start", "Status", "TensorBoard", "WandB"]
