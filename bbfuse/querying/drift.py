"""What a target is like, by asking it the same twice: does it repeat itself, does it know chips, and does it drift?

A few owned images are asked at nominal voltage and on one chip, twice when a run is opened and again on the way. All of it is
sent, counted and planned for. Changes are the largest of a logit, relative to the standard deviation of all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from bbfuse.querying.ledger import Ledger

__all__ = ["DriftCheck"]

_IMAGES = 8
_ROUNDING = 1e-5  # of the spread: what the order of a sum in float32 may change
_SURELY = 3.0  # times the change between two askings that meant the same


class DriftCheck:
    """Asks ``images`` (n, channels, height, width), the first few of them, ``times`` times after the opening; 0: never at all."""

    def __init__(self, images: Tensor, chip: Chip, times: int) -> None:
        self._questions = [(images[:_IMAGES], NOMINAL)]
        if chip.bit_error_rate > 0.0:
            self._questions.append((images[:_IMAGES], chip))
        self._chip = chip
        self.times = times
        self._reference: Tensor | None = None
        self._honours_chip: bool | None = None
        self._noise: float | None = None
        self._drift: float | None = None

    @property
    def queries_per_check(self) -> tuple[int, ...]:
        """Images of each question of one asking; the opening takes two."""
        return tuple(len(images) for images, _ in self._questions) if self.times else ()

    def first_check(self, ledger: Ledger) -> list[str]:
        """Ask twice, and let the ledger's store be used if the target repeats itself and what it kept before.

        Returns what the user should know, in one line each.
        """
        if not self.times:
            return []
        first, second = (torch.stack(ledger.query_all(self._questions, fresh=True)) for _ in range(2))
        self._reference = first
        self._noise = self._changed(second)
        told = []
        if self._noise > _ROUNDING:
            ledger.uses_cache = False
            kept = "; no answer is taken from `remote.store`" if ledger.cache is not None else ""
            told.append(f"the target does not repeat itself: asked twice, it {_by(self._noise)}{kept}")
        elif ledger.cache is not None:
            told += self._compared(ledger)
        if len(first) > 1:
            self._honours_chip = self._largest(first[1] - first[0]) > self._threshold
            if not self._honours_chip:
                told.append(
                    f"the target answers alike at nominal voltage and on chip {self._chip.seed}: it does not know chips, unless "
                    "it is one"
                )
        return told

    def check(self, ledger: Ledger) -> float:
        """Ask once more; the change since the opening. Answers are no longer reused where the target has drifted."""
        change = self._changed(torch.stack(ledger.query_all(self._questions, fresh=True)))
        self._drift = max(self._drift or 0.0, change)
        if change > self._threshold:
            ledger.uses_cache = False
        return change

    def summary(self, kind: str | None) -> dict[str, Any]:
        """The part ``target`` of the summary; ``None`` for what was not asked."""
        return {
            "answers": kind,
            "deterministic": None if self._noise is None else self._noise <= _ROUNDING,
            "honours_chip": self._honours_chip,
            "noise": self._noise,
            "drift": self._drift,
        }

    @property
    def _threshold(self) -> float:
        """A larger change is not the target's noise."""
        return max(_ROUNDING, _SURELY * (self._noise or 0.0))

    def _changed(self, answers: Tensor) -> float:
        assert self._reference is not None
        return self._largest(answers - self._reference)

    def _largest(self, change: Tensor) -> float:
        assert self._reference is not None
        spread = self._reference.std(correction=0).clamp_min(1e-12)
        return (change.abs().max() / spread).item()

    def _compared(self, ledger: Ledger) -> list[str]:
        """Look whether the store holds what the target says now, and put it there if it holds nothing."""
        assert ledger.cache is not None
        assert self._reference is not None
        for (images, chip), answers in zip(self._questions, self._reference, strict=True):
            keys = ledger.cache.keys(ledger.as_received(images), chip)
            kept = ledger.cache.find(keys)
            if any(row is not None and self._largest(row - now) > _ROUNDING for row, now in zip(kept, answers, strict=True)):
                ledger.uses_cache = False
                return [f"{ledger.cache.path} holds other answers than the target gives now, so it is not used: choose another "
                        "`remote.store`, or delete it"]  # fmt: skip
            ledger.cache.keep(keys, answers)
        return []

    def state_dict(self) -> dict[str, Any]:
        """What was found so far."""
        return {"reference": self._reference, "noise": self._noise, "honours_chip": self._honours_chip, "drift": self._drift}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where `state_dict` was taken."""
        self._reference, self._noise = state["reference"], state["noise"]
        self._honours_chip, self._drift = state["honours_chip"], state["drift"]


def _by(change: float) -> str:
    return f"changed a logit by {100 * change:.2g} % of their spread"
