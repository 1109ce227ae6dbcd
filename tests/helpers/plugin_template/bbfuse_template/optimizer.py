"""An optimizer with settings."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from backends.settings import Count, Positive
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import OPTIMIZERS, GradientEstimator, Problem
from bbfuse.optimizers.probes import normal, simultaneous_perturbation


@dataclass(frozen=True)
class SmoothedConfig:
    """Settings of Gaussian smoothing."""

    lr: Positive = 0.05
    """learning rate"""
    pairs: Count = 2
    """pairs of probes per step"""


@OPTIMIZERS.register("smoothed")
class Smoothed(GradientEstimator):
    """Gaussian smoothing with antithetic pairs."""

    Config = SmoothedConfig

    def __init__(self, settings: SmoothedConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(torch.optim.SGD(fuse.parameters(), lr=0.0), settings.lr)
        self.pairs = settings.pairs
        self.queries_per_image = 2 * settings.pairs

    def estimate(self, step: Step) -> None:
        gradient = simultaneous_perturbation(step, normal, self.pairs, 0.02)
        if gradient is not None:  # None: all probes failed
            step.fuse.add_gradient(gradient.clamp(-1.0, 1.0))
