"""Heads: small corrections of the target's answers, which need no gradient through the target.

* ``standardize`` (label-free): ``h(z) = (z - m_chip) / s_chip * s_clean + m_clean``, mean and sd of each class over
  the same raw images.
* ``affine``: ``h(z) = A z / s + b``, fitted on raw answers by cross-entropy with exact gradients, then trained beside the fuse.
* ``net``: the same and ``V relu(U z / s + c)`` on top, 32 hidden units.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.base import NOMINAL, Chip
from bbfuse.querying.ledger import Ask, logits_of

__all__ = ["LEARNT", "Affine", "Head", "Heads", "Net", "OfProbabilities", "Standardize"]

_HIDDEN = 32


class Head(nn.Module):
    """The head that changes nothing, and the base of the others: logits (n, classes) to the same."""

    def forward(self, logits: Tensor) -> Tensor:
        """Corrected logits."""
        return logits

    def penalty(self) -> Tensor:
        """What the head adds to the loss for straying from the identity."""
        return torch.zeros(())


class Standardize(Head):
    """Brings each class's logit to the clean target's mean and standard deviation."""

    def __init__(self, answers: Tensor, reference: Tensor) -> None:
        """From answers of a chip and of the clean target to the same images, each (n, classes)."""
        super().__init__()
        gain = reference.std(0, correction=0) / answers.std(0, correction=0).clamp_min(1e-6)
        self.gain: Tensor
        self.shift: Tensor
        self.register_buffer("gain", gain)
        self.register_buffer("shift", reference.mean(0) - gain * answers.mean(0))

    def forward(self, logits: Tensor) -> Tensor:
        """``gain * z + shift``."""
        return logits * self.gain + self.shift


class OfProbabilities(Head):
    """``head`` behind a target that answers with probabilities, in use without a ledger, which would have made logits of them."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, logits: Tensor) -> Tensor:
        """Corrected logits of probabilities (n, classes)."""
        corrected: Tensor = self.head(logits_of(logits))
        return corrected


class Affine(Head):
    """``A z / s + b`` with ``s`` the spread of the answers that it was fitted on."""

    def __init__(self, classes: int, decay: float) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(classes))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.spread: Tensor
        self.register_buffer("spread", torch.ones(()))
        self._decay = decay

    def forward(self, logits: Tensor) -> Tensor:
        """``A z / s + b``."""
        return logits / self.spread @ self.matrix.T + self.bias

    def penalty(self) -> Tensor:
        """``decay * |A - I|^2``."""
        return self._decay * (self.matrix - torch.eye(len(self.matrix))).square().sum()

    def fit(self, answers: Tensor, labels: Tensor) -> None:
        """Least penalised cross-entropy on ``answers`` (n, classes), by L-BFGS."""
        self.spread.copy_(answers.std().clamp_min(1e-6))
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> float:
            optimizer.zero_grad()
            value = F.cross_entropy(self(answers), labels) + self.penalty()
            value.backward()
            return value.item()

        optimizer.step(loss)
        optimizer.zero_grad()


class Net(Affine):
    """``A z / s + b + V relu(U z / s + c)``; ``V`` starts at zero, so that it begins as an affine head."""

    def __init__(self, classes: int, decay: float) -> None:
        super().__init__(classes, decay)
        # directions of logits, fixed for every run: a head depends on its answers alone
        directions = torch.randn(_HIDDEN, classes, generator=torch.Generator().manual_seed(0)) / classes**0.5
        self.inner = nn.Parameter(directions)
        self.threshold = nn.Parameter(torch.zeros(_HIDDEN))
        self.outer = nn.Parameter(torch.zeros(classes, _HIDDEN))

    def forward(self, logits: Tensor) -> Tensor:
        """``A z / s + b + V relu(U z / s + c)``."""
        return super().forward(logits) + F.relu(logits / self.spread @ self.inner.T + self.threshold) @ self.outer.T

    def penalty(self) -> Tensor:
        """``decay * (|A - I|^2 + |V|^2)``."""
        return super().penalty() + self._decay * self.outer.square().sum()


LEARNT: dict[str, type[Affine]] = {"affine": Affine, "net": Net}
"""Heads that are fitted on one chip's answers and then trained beside the fuse."""


class Heads:
    """The heads of a run: which one belongs to which chip, and what it costs to have it."""

    def __init__(self, name: str, chip: Chip | None, raw: Tensor, classes: int, decay: float, ask: Ask) -> None:
        """``chip`` is the one chip of the run, ``None`` for the population; ``raw`` the images that calibrate a head."""
        self._name = name
        self._chip = chip
        self._raw = raw
        self._ask = ask
        self._reference = torch.zeros(0, classes)
        self.trained = LEARNT[name](classes, decay) if name in LEARNT else None
        self.taken = False
        """Whether the head came from another run."""
        self._first: Head | None = None
        self._kept: Head | None = self.trained or (Head() if name == "none" else None)

    @property
    def images_per_chip(self) -> int:
        """Images sent whenever a chip is met that has no head yet."""
        return len(self._raw) if self._name == "standardize" else 0

    @property
    def asked_first(self) -> tuple[int, ...]:
        """Images of each question that `warm_up` asks."""
        questions = {"none": 0, "standardize": 1 + (self._chip is not None)}.get(self._name, 1)
        return () if self.taken else questions * (len(self._raw),)

    def take_over(self, state: dict[str, Any]) -> None:
        """Begin with the learnt head that another run ended with; `warm_up` fits none then."""
        self.load_state_dict(state)
        self.taken = True

    def warm_up(self, labels: Tensor) -> Tensor | None:
        """Fit what can be fitted before the fuse is trained; raw answers (n, classes) to the first owned images if it asked."""
        if self._name == "standardize":
            self._reference = self._ask(self._raw, NOMINAL)
            if self._chip is not None:
                self._kept = Standardize(self._ask(self._raw, self._chip), self._reference)
        if self.trained is None or self.taken:
            return None
        assert self._chip is not None
        answers = self._ask(self._raw, self._chip)
        self.trained.fit(answers, labels[: len(answers)])
        self._first = copy.deepcopy(self.trained)
        return answers

    def meet(self, chip: Chip, model: Ask | None = None) -> Head:
        """The head for ``chip``; asks the chip for its calibration answers where it has none.

        With a ``model`` of the target in its place the head is calibrated on that, or none if it is learnt from real answers.
        """
        if self._name == "standardize" and chip == NOMINAL:
            return Head()
        if model is not None:
            if self._name != "standardize":
                return Head()
            with torch.no_grad():
                return Standardize(model(self._raw, chip), model(self._raw, NOMINAL))
        return self._kept or Standardize(self._ask(self._raw, chip), self._reference)

    def alone(self, head: Head) -> Head:
        """What ``head`` was before a fuse was trained beside it: the base line that a fuse has to beat."""
        return self._first or head

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        kept, first = (head.state_dict() if head else None for head in (self._kept, self._first))
        return {"reference": self._reference, "kept": kept, "first": first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where `state_dict` was taken."""
        self._reference = state["reference"]
        if state["kept"] is None:
            return
        if self._kept is None:
            self._kept = Standardize(self._reference, self._reference)
        self._kept.load_state_dict(state["kept"])
        if state["first"] is not None:
            self._first = copy.deepcopy(self.trained)
            assert self._first is not None
            self._first.load_state_dict(state["first"])
