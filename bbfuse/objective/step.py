"""One training step as an optimizer sees it, and the probes that it sends.

A probe is a few numbers. The images that it stands for are a function of the step and of these numbers, so that vectors of the
fuse's size travel to workers once a step at most. The result of a probe is a `Score`; sums over scores are taken in the order of
the probes, wherever they were computed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from bbfuse.objective import eopm
from bbfuse.objective.eopm import Term
from bbfuse.querying.responses import QueryAllFn, QueryFn

__all__ = ["FixedImages", "Probe", "Score", "Scorer", "Step"]


class Probe(Protocol):
    """One batch of images in place of the step's own."""

    @property
    def per_image(self) -> bool:
        """Whether it is asked for what every image earned; if not, for the loss alone."""
        ...

    def images(self, step: Step) -> Tensor:
        """The images (n, channels, height, width) that are sent, without tape; the same wherever they are made."""
        ...

    def prepare(self, step: Step) -> None:
        """Make what the method will take of it beside its score: a driver has time while others score it. May be left out."""
        ...


@dataclass(frozen=True, eq=False)
class FixedImages:
    """Images as they are."""

    pixels: Tensor
    per_image = True

    def images(self, step: Step) -> Tensor:
        """See `Probe`."""
        return self.pixels

    def prepare(self, step: Step) -> None:
        """See `Probe`; nothing."""


@dataclass(frozen=True)
class Score:
    """What n images earned from t terms, without tape. The last three are empty where a worker was asked for the loss alone."""

    loss: float
    """The step's loss."""
    difficulty: Tensor
    """(n,): one minus the probability given to the label, its geometric mean over the terms; empty if it is not wanted."""
    gradients: Sequence[Tensor]
    """Of the loss by each parameter of the step's heads."""
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    """(n,): each image's share of the loss."""
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    """(t, n, classes): the raw logits."""
    sensitivity: Tensor = field(default_factory=lambda: torch.empty(0))
    """(t, n, classes): derivative of the loss by each logit, exact, through the heads."""


Scorer = Callable[["Step", Sequence[Probe]], list[Score | None]]
"""Who scores the probes of a step, in order; ``None`` where one is lost for good."""


@dataclass(kw_only=True)
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
    query: QueryFn
    query_with_gradient: QueryFn
    as_received: Callable[[Tensor], Tensor] = lambda images: images
    """Images as the target sees them: rounded where it takes 256 levels only."""
    query_all: QueryAllFn | None = None
    """Several questions at once; one after the other by `query` if not given."""
    scorer: Scorer | None = None
    """Who scores the probes; this process if not given."""
    hard: bool = True
    """Whether it is wanted how hard every image was."""
    _difficulty: list[Tensor] = field(default_factory=list)
    _loss: list[float] = field(default_factory=list)
    _scores: int = 0
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def score(self, images: Tensor) -> Score | None:
        """Ask the target about ``images`` (n, channels, height, width) in place of the step's own; the heads learn from it."""
        return self.scores([FixedImages(images)])[0]

    def scores(self, probes: Sequence[Probe]) -> list[Score | None]:
        """The score of each of ``probes``, in order; none depends on another's, so that all may be asked at once.

        ``None`` says that a probe failed.
        """
        found = (self.scorer or Step.scored_here)(self, probes)
        # in the order of the probes, whoever was answered first
        for score in found:
            if score is not None:
                self._gather(score)
        return found

    def scored_here(self, probes: Sequence[Probe]) -> list[Score | None]:
        """The scores of ``probes`` by this step's own questions; nothing is added up."""
        return [self.scored(answers) for answers in self.answers(probes)]

    def answers(self, probes: Sequence[Probe]) -> list[list[Tensor]]:
        """The logits (n, classes) of each term that each of ``probes`` earns."""
        with torch.no_grad():
            asked = [probe.images(self) for probe in probes]
        questions = [(images, term.chip) for images in asked for term in self.terms]
        answers = iter(self.query_all(questions) if self.query_all else [self.query(*question) for question in questions])
        return [[next(answers) for _ in self.terms] for _ in probes]

    def scored(self, answers: Sequence[Tensor]) -> Score:
        """What ``answers`` (n, classes), one a term, are worth."""
        answers = [a.requires_grad_() for a in answers]
        losses, difficulty = self._losses(answers)
        gradients = torch.autograd.grad(losses.sum(), [*answers, *self.head_parameters()])
        sensitivity, of_heads = torch.stack(gradients[: len(answers)]), gradients[len(answers) :]
        loss = losses.detach().double().sum().item()
        return Score(loss, difficulty, of_heads, losses.detach(), torch.stack(answers).detach(), sensitivity)

    def _gather(self, score: Score) -> None:
        for p, gradient in zip(self.head_parameters(), score.gradients, strict=True):
            p.grad = gradient if p.grad is None else p.grad + gradient
        self._loss.append(score.loss)
        self._difficulty.append(score.difficulty)
        self._scores += 1

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made once in this step: what several probes share."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def heads(self) -> list[Head]:
        """The heads of the terms, each of them once."""
        return list({id(term.head): term.head for term in self.terms}.values())

    def head_parameters(self) -> list[Tensor]:
        """All parameters of `heads`."""
        return [p for head in self.heads() for p in head.parameters()]

    def backward(self) -> None:
        """The true gradient, to the fuse and the heads alike; needs a target that grants it."""
        fused = self.fuse.on_tape(self.images)
        losses = self._noted([self.query_with_gradient(fused, term.chip) for term in self.terms])
        losses.sum().backward()
        self._scores += 1

    def backward_through(self, model: QueryFn) -> None:
        """The gradient with ``model``'s answers, which are on the tape, in place of the target's; to the fuse alone."""
        fused = self.fuse.on_tape(self.images)
        loss = self._noted([model(fused, term.chip) for term in self.terms]).sum()
        parameters = list(self.fuse.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient

    def finish(self) -> tuple[float, Tensor] | None:
        """Make the heads' gradients those of the mean over the scores; the step's loss and each image's difficulty (n,), which is
        empty if it was not wanted.

        ``None`` if nothing was asked, neither the target nor a model of it.
        """
        if not self._loss:
            return None
        for head in self.heads():
            for p in head.parameters():
                if p.grad is not None:
                    p.grad /= self._scores
            if self._scores and any(True for _ in head.parameters()):
                head.penalty().backward()
        return sum(self._loss) / len(self._loss), torch.stack(self._difficulty).mean(0)

    def _noted(self, answers: Sequence[Tensor]) -> Tensor:
        losses, difficulty = self._losses(answers)
        self._loss.append(losses.detach().double().sum().item())
        self._difficulty.append(difficulty)
        return losses

    def _losses(self, answers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The weighted loss of each image (n,), on the tape, and its difficulty."""
        per_image = eopm.losses(self.terms, answers, self.labels)
        losses = per_image * self.weights / len(self.labels)
        return losses, 1.0 - torch.exp(-per_image.detach()) if self.hard else torch.empty(0)
