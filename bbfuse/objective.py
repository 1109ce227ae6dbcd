"""The loss that a fuse is trained on, image by image, and one training step's view of it.

EOPM (NeuralFuse, Eq. 2 to 5), per image: ``w_clean * CE(nominal) + w_perturbed * mean over chips of CE(chip)``,
each answer taken through its head, divided by ``w_clean + w_perturbed`` so that a learning rate means the same for any weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.interface import Chip
from bbfuse.fuse import Fuse
from bbfuse.head import Head
from bbfuse.ledger import Ask, AskAll

__all__ = ["Score", "Step", "Term"]


@dataclass(frozen=True)
class Term:
    """One summand of the objective: a chip, its head and its weight."""

    chip: Chip
    head: Head
    weight: float


@dataclass(frozen=True)
class Score:
    """What n images earned from t terms, without tape."""

    losses: Tensor
    """(n,): each image's share of the step's loss; they sum to it."""
    answers: Tensor
    """(t, n, classes): the raw logits."""
    sensitivity: Tensor
    """(t, n, classes): derivative of the step's loss by each logit, exact, through the heads."""


@dataclass
class Step:
    """What a method may use in one step. Every score is a pure function of images, chips and heads (law 2)."""

    number: int
    seed: int
    fuse: Fuse
    index: Tensor
    """(n,): which owned images these are."""
    images: Tensor
    labels: Tensor
    weights: Tensor
    """(n,): weight of each image in the step's loss."""
    terms: list[Term]
    ask: Ask
    ask_with_tape: Ask
    seen: Callable[[Tensor], Tensor] = lambda images: images
    """Images as the target sees them: rounded where it takes 256 levels only."""
    ask_all: AskAll | None = None
    """Several questions at once; one after the other by `ask` if not given."""
    _difficulty: list[Tensor] = field(default_factory=list)
    _loss: list[float] = field(default_factory=list)
    _scores: int = 0

    def score(self, images: Tensor) -> Score | None:
        """Ask the target about ``images`` (n, channels, height, width) in place of the step's own; the heads learn from it.

        ``None`` would say that the probe failed (a worker lost); in this process it raises or succeeds.
        """
        return self.scores([images])[0]

    def scores(self, probes: Sequence[Tensor]) -> list[Score | None]:
        """The `score` of each of ``probes``, in order; none depends on another's, so that all may be asked at once."""
        questions = [(images, term.chip) for images in probes for term in self.terms]
        answers = iter(self.ask_all(questions) if self.ask_all else [self.ask(*question) for question in questions])
        # heads gather their gradients in the order of the probes, whoever was answered first
        return [self._score([next(answers).requires_grad_() for _ in self.terms]) for _ in probes]

    def _score(self, answers: list[Tensor]) -> Score:
        losses = self._losses(answers)
        losses.sum().backward()
        self._scores += 1
        sensitivity = [a.grad for a in answers if a.grad is not None]
        return Score(losses.detach(), torch.stack(answers).detach(), torch.stack(sensitivity))

    def backward(self) -> None:
        """The true gradient, to the fuse and the heads alike; needs a target that grants it."""
        fused = self.fuse(self.images)
        self._losses([self.ask_with_tape(fused, term.chip) for term in self.terms]).sum().backward()
        self._scores += 1

    def backward_through(self, model: Ask) -> None:
        """The gradient with ``model``'s answers, which are on the tape, in place of the target's; to the fuse alone."""
        fused = self.fuse(self.images)
        loss = self._losses([model(fused, term.chip) for term in self.terms]).sum()
        parameters = list(self.fuse.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient

    def finish(self) -> tuple[float, Tensor] | None:
        """Make the heads' gradients those of the mean over the scores; the step's loss and each image's difficulty (n,).

        ``None`` if nothing was asked, neither the target nor a model of it.
        """
        if not self._loss:
            return None
        for head in {id(term.head): term.head for term in self.terms}.values():
            for p in head.parameters():
                if p.grad is not None:
                    p.grad /= self._scores
            if self._scores and any(True for _ in head.parameters()):
                head.penalty().backward()
        return sum(self._loss) / len(self._loss), torch.stack(self._difficulty).mean(0)

    def _losses(self, answers: list[Tensor]) -> Tensor:
        total = sum(term.weight for term in self.terms)
        per_image = torch.zeros(len(self.labels))
        for term, logits in zip(self.terms, answers, strict=True):
            per_image = per_image + term.weight / total * F.cross_entropy(term.head(logits), self.labels, reduction="none")
        losses = per_image * self.weights / len(self.labels)
        self._loss.append(losses.detach().sum().item())
        self._difficulty.append(1.0 - torch.exp(-per_image.detach()))
        return losses
