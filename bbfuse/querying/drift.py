"""Drift checks: are responses repeatable, do they depend on the chip, and do they change during the run?

A check sends a few owned images, at nominal voltage and on one chip: twice before training, and again during the run. The plan
and the budget include these queries. A change is the largest change of a logit, relative to the standard deviation of all logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from bbfuse.querying.ledger import Ledger

__all__ = ["DriftCheck"]

_IMAGES = 8
_ROUNDING = 1e-5  # of the standard deviation: rounding, since the order of a sum in float32 may differ
_NOISE_FACTOR = 3.0  # a larger multiple of the noise counts as a change


class DriftCheck:
    """Sends a few of ``images`` (n, channels, height, width), twice before training and ``times`` times later; 0: never."""

    def __init__(self, images: Tensor, chip: Chip, times: int) -> None:
        self._queries = [(images[:_IMAGES], NOMINAL)]
        if chip.bit_error_rate > 0.0:
            self._queries.append((images[:_IMAGES], chip))
        self._chip = chip
        self.times = times
        self._reference: Tensor | None = None
        self._honours_chip: bool | None = None
        self._noise: float | None = None
        self._drift: float | None = None

    @property
    def queries_per_check(self) -> tuple[int, ...]:
        """Images of each query of one check; the first check sends them twice."""
        return tuple(len(images) for images, _ in self._queries) if self.times else ()

    def first_check(self, ledger: Ledger) -> list[str]:
        """Send the queries twice; the response cache is used only if both responses and those in the cache agree.

        Returns notes for the user, one line each.
        """
        if not self.times:
            return []
        first, second = (torch.stack(ledger.query_all(self._queries, fresh=True)) for _ in range(2))
        self._reference = first
        self._noise = self._changed(second)
        notes = []
        if self._noise > _ROUNDING:
            ledger.uses_cache = False
            unused = "; `remote.store` is not used" if ledger.cache is not None else ""
            notes.append(f"responses are not repeatable: the same query {_by(self._noise)}{unused}")
        elif ledger.cache is not None:
            notes += self._compared(ledger)
        if len(first) > 1:
            self._honours_chip = self._largest(first[1] - first[0]) > self._threshold
            if not self._honours_chip:
                notes.append(
                    f"responses are the same at nominal voltage and on chip {self._chip.seed}: the server ignores chips, "
                    "or is itself one chip"
                )
        return notes

    def check(self, ledger: Ledger) -> float:
        """Send the queries again; returns the change since the first check. After a drift the cache is not used any more."""
        change = self._changed(torch.stack(ledger.query_all(self._queries, fresh=True)))
        self._drift = max(self._drift or 0.0, change)
        if change > self._threshold:
            ledger.uses_cache = False
        return change

    def summary(self, kind: str | None) -> dict[str, Any]:
        """The part ``target`` of the summary; ``None`` for what was not checked."""
        return {
            "answers": kind,
            "deterministic": None if self._noise is None else self._noise <= _ROUNDING,
            "honours_chip": self._honours_chip,
            "noise": self._noise,
            "drift": self._drift,
        }

    @property
    def _threshold(self) -> float:
        """A larger change is not noise."""
        return max(_ROUNDING, _NOISE_FACTOR * (self._noise or 0.0))

    def _changed(self, responses: Tensor) -> float:
        assert self._reference is not None
        return self._largest(responses - self._reference)

    def _largest(self, change: Tensor) -> float:
        assert self._reference is not None
        spread = self._reference.std(correction=0).clamp_min(1e-12)
        return (change.abs().max() / spread).item()

    def _compared(self, ledger: Ledger) -> list[str]:
        """Compare the cache with the responses received now; store them if it has none."""
        assert ledger.cache is not None
        assert self._reference is not None
        for (images, chip), responses in zip(self._queries, self._reference, strict=True):
            keys = ledger.cache.keys(ledger.as_received(images), chip)
            kept = ledger.cache.find(keys)
            if any(row is not None and self._largest(row - now) > _ROUNDING for row, now in zip(kept, responses, strict=True)):
                ledger.uses_cache = False
                return [f"{ledger.cache.path} differs from the responses received now, so it is not used: choose another "
                        "`remote.store`, or delete it"]  # fmt: skip
            ledger.cache.keep(keys, responses)
        return []

    def state_dict(self) -> dict[str, Any]:
        """The results so far."""
        return {"reference": self._reference, "noise": self._noise, "honours_chip": self._honours_chip, "drift": self._drift}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._reference, self._noise = state["reference"], state["noise"]
        self._honours_chip, self._drift = state["honours_chip"], state["drift"]


def _by(change: float) -> str:
    return f"changed a logit by {100 * change:.2g} % of their spread"
