"""The heads of a run: which head belongs to which chip, and the queries that it needs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from bbfuse.heads.base import HEADS, CalibratedHead, Head, TrainedHead
from bbfuse.querying.responses import QueryFn

__all__ = ["ChipHeads"]


class ChipHeads:
    """The head called ``name`` for every chip of a run."""

    def __init__(self, name: str, settings: Any, chip: Chip | None, raw: Tensor, classes: int, query: QueryFn) -> None:
        """``chip`` is the one chip of the run, ``None`` for the population; ``raw`` the owned images that calibrate a head.

        ``settings`` are those of the head, an instance of its ``Config``.
        """
        self._kind = HEADS[name]
        self._settings = settings
        self._chip = chip
        self._raw = raw
        self._query = query
        self._reference = torch.zeros(0, classes)
        trained = issubclass(self._kind, TrainedHead)
        self.trained: TrainedHead | None = self._kind.create(settings, classes) if trained else None  # type: ignore[attr-defined]
        self.warm_started = False
        """Whether the head came from another run."""
        self._fitted: Head | None = None
        self._kept: Head | None = self.trained or (None if self._is_calibrated else self._kind())

    @property
    def _is_calibrated(self) -> bool:
        return issubclass(self._kind, CalibratedHead)

    @property
    def images_per_chip(self) -> int:
        """Images sent for the head of a chip that has none yet."""
        return len(self._raw) if self._is_calibrated else 0

    @property
    def queries_before_training(self) -> tuple[int, ...]:
        """Images of each query of `fit`."""
        queries = 1 + (self._chip is not None) if self._is_calibrated else int(self.trained is not None)
        return () if self.warm_started else queries * (len(self._raw),)

    def warm_start(self, state: dict[str, Any]) -> None:
        """Begin with the trained head of another run; `fit` then fits none."""
        self.load_state_dict(state)
        self.warm_started = True

    def fit(self, labels: Tensor) -> Tensor | None:
        """Fit what can be fitted before the fuse is trained.

        Returns the chip's raw logits (n, classes) to the first owned images, if a trained head needed them.
        """
        if self._is_calibrated:
            self._reference = self._query(self._raw, NOMINAL)
            if self._chip is not None:
                self._kept = self._calibrated(self._query(self._raw, self._chip), self._reference)
        if self.trained is None or self.warm_started:
            return None
        assert self._chip is not None
        responses = self._query(self._raw, self._chip)
        self.trained.fit(responses, labels[: len(responses)])
        self._fitted = copy.deepcopy(self.trained)
        return responses

    def head_for(self, chip: Chip, simulated_target: QueryFn | None = None) -> Head:
        """The head for ``chip``; a calibrated head that the chip has not yet is calibrated by querying it.

        With a ``simulated_target`` the head is calibrated on that; trained heads, which need real responses, are left out.
        """
        if self._is_calibrated and chip == NOMINAL:
            return Head()
        if simulated_target is not None:
            if not self._is_calibrated:
                return Head()
            with torch.no_grad():
                return self._calibrated(simulated_target(self._raw, chip), simulated_target(self._raw, NOMINAL))
        return self._kept or self._calibrated(self._query(self._raw, chip), self._reference)

    def unfitted(self) -> Head:
        """A head of the kind of this run before it is fitted; one that changes nothing if it cannot be trained."""
        classes = self._reference.shape[1]
        return Head() if self.trained is None else self._kind.create(self._settings, classes)  # type: ignore[attr-defined]

    def renew(self) -> None:
        """Make the trained head one that was not fitted."""
        if self.trained is not None:
            self.trained.load_state_dict(self.unfitted().state_dict())

    def restore_fitted(self) -> None:
        """Make the trained head what it was before it was trained with a fuse."""
        if self.trained is not None and self._fitted is not None:
            self.trained.load_state_dict(self._fitted.state_dict())

    def before_training(self, head: Head) -> Head:
        """``head`` as it was before a fuse was trained with it: the baseline that a fuse has to beat."""
        return self._fitted or head

    def _calibrated(self, responses: Tensor, reference: Tensor) -> Head:
        return self._kind.create(self._settings, responses, reference)  # type: ignore[attr-defined, no-any-return]

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        kept, fitted = (head.state_dict() if head else None for head in (self._kept, self._fitted))
        return {"reference": self._reference, "kept": kept, "first": fitted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._reference = state["reference"]
        if state["kept"] is None:
            return
        if self._kept is None:
            self._kept = self._calibrated(self._reference, self._reference)
        self._kept.load_state_dict(state["kept"])
        if state["first"] is not None:
            self._fitted = copy.deepcopy(self.trained)
            assert self._fitted is not None
            self._fitted.load_state_dict(state["first"])
