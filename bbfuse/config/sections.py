"""Sections of the configuration that every run has, whatever its components."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval, Predicate
from pydantic import AllowInfNan

from backends.settings import Count, NonNegativeInt, Positive

__all__ = ["RayConfig", "ReportConfig", "ValidationConfig"]


def _is_address(text: str) -> bool:
    """Whether it is local, auto, HOST:PORT or ray://HOST:PORT."""
    return text in ("local", "auto") or re.fullmatch(r"(ray://)?[^\s:/]+:\d+", text) is not None


@dataclass(frozen=True)
class RayConfig:
    """The Ray workers."""

    address: Annotated[str, Predicate(_is_address)] = "local"
    """local starts Ray on this machine for this run, auto connects to the one that runs here; or the address of a cluster, such
    as HOST:6379, or with ray[client] installed ray://HOST:10001"""
    timeout: Positive = 300.0
    """seconds without a message after which a busy worker is replaced"""
    cpus: Positive | None = None
    """CPUs that a worker reserves in the cluster; if not given `threads`, or 0.05 if it waits for a server"""
    gpus: Positive | None = None
    """GPUs that a worker reserves in the cluster, below 1 a share of one; none if not given"""


@dataclass(frozen=True)
class ValidationConfig:
    """Validation during the run; its images count like all others."""

    images: Count = 100
    """owned images that are reserved for it and sent each time, drawn like those of the report"""
    times: NonNegativeInt = 8
    """number of validations"""


@dataclass(frozen=True)
class ReportConfig:
    """The closing report on held-out images; its queries are charged to the same budget."""

    chips: Count = 10
    """unseen chips, for the population"""
    images: Count | None = None
    """held-out images, drawn at random by a fixed seed and stratified by class (digits: not stratified); if not given all of
    them, or as many as `report.share` allows"""
    share: Annotated[float, Interval(gt=0, le=1), AllowInfNan(False)] = 1 / 3
    """share of the budget that the report takes at most if `report.images` is not given; then with fewer images, and with fewer
    chips if that leaves less than 100 images"""
