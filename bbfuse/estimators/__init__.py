"""How answers become a gradient for the fuse: one file a method, opened by name."""

from __future__ import annotations

from bbfuse.config import RunConfig
from bbfuse.estimators.interface import Estimator, Problem

__all__ = ["Estimator", "Problem", "make"]


def make(config: RunConfig, problem: Problem) -> Estimator:
    """The estimator that ``config.optimizer`` names."""
    if config.optimizer == "backprop":
        from bbfuse.estimators.backprop import Backprop

        return Backprop(config.backprop)
    if config.optimizer == "spsa":
        from bbfuse.estimators.spsa import Spsa

        return Spsa(config.spsa)
    if config.rge.space == "parameters":
        from bbfuse.estimators.rge import ParameterRge

        return ParameterRge(config.rge)
    from bbfuse.estimators.rge import InputRge

    return InputRge(config.rge, problem)
