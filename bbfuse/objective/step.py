"""One training step as an optimizer sees it, and the probes that it sends.

A probe is a few numbers. Its images are a function of the step and of these numbers, so that vectors of the fuse's size are sent
to workers once per step at most. The result of a probe is a `Score`. Scores are summed in the order of the probes, whichever
process computed them.
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
        """Whether the optimizer needs the score of every image; if not, the loss alone."""
        ...

    def images(self, step: Step) -> Tensor:
        """The images (n, channels, height, width) to send, without gradient; the same in every process."""
        ...

    def prepare(self, step: Step) -> None:
        """Compute in advance what the optimizer needs beside the score, while workers score the probe. Calling it is optional."""
        ...


@dataclass(frozen=True, eq=False)
class FixedImages:
    """Given images."""

    pixels: Tensor
    per_image = True

    def images(self, step: Step) -> Tensor:
        """See `Probe`."""
        return self.pixels

    def prepare(self, step: Step) -> None:
        """See `Probe`; nothing."""


@dataclass(frozen=True)
class Score:
    """The result for n images and t terms, without gradient. The last three are empty if a worker computed the loss alone."""

    loss: float
    """The step's loss."""
    difficulty: Tensor
    """(n,): one minus the probability of the label, its geometric mean over the terms; empty if it is not needed."""
    gradients: Sequence[Tensor]
    """Gradient of the loss with respect to each parameter of the step's heads."""
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    """(n,): each image's share of the loss."""
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    """(t, n, classes): the raw logits."""
    sensitivity: Tensor = field(default_factory=lambda: torch.empty(0))
    """(t, n, classes): exact derivative of the loss with respect to each logit, through the heads."""


Scorer = Callable[["Step", Sequence[Probe]], list[Score | None]]
"""Scores the probes of a step, in order; ``None`` where the score of a probe is lost."""


@dataclass(kw_only=True)
class Step:
    """What an optimizer may use in one step. Every score is a pure function of images, chips and heads (law 2)."""

    number: int
    seed: int
    fuse: Fuse
    index: Tensor
    """(n,): indices of the owned images."""
    images: Tensor
    labels: Tensor
    weights: Tensor
    """(n,): weight of each image in the step's loss."""
    terms: list[Term]
    query: QueryFn
    query_with_gradient: QueryFn
    as_received: Callable[[Tensor], Tensor] = lambda images: images
    """Images as the target receives them: rounded if it takes 256 levels only."""
    query_all: QueryAllFn | None = None
    """Sends several queries at once; if not given they are sent one after the other by `query`."""
    scorer: Scorer | None = None
    """Scores the probes; this process if not given."""
    hard: bool = True
    """Whether the difficulty of every image is needed."""
    _difficulty: list[Tensor] = field(default_factory=list)
    _loss: list[float] = field(default_factory=list)
    _scores: int = 0
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def score(self, images: Tensor) -> Score | None:
        """The score of ``images`` (n, channels, height, width) in place of the step's own; adds to the gradients of the heads."""
        return self.scores([FixedImages(images)])[0]

    def scores(self, probes: Sequence[Probe]) -> list[Score | None]:
        """The score of each of ``probes``, in order; they are independent, so that all may be sent at once.

        ``None`` if a probe failed.
        """
        found = (self.scorer or Step.scored_here)(self, probes)
        # in the order of the probes, not of their arrival
        for score in found:
            if score is not None:
                self._gather(score)
        return found

    def scored_here(self, probes: Sequence[Probe]) -> list[Score | None]:
        """The scores of ``probes`` by queries of this process; they are not added to the step."""
        return [self.scored(responses) for responses in self.responses(probes)]

    def responses(self, probes: Sequence[Probe]) -> list[list[Tensor]]:
        """The logits (n, classes) of each term for each of ``probes``."""
        with torch.no_grad():
            batches = [probe.images(self) for probe in probes]
        queries = [(images, term.chip) for images in batches for term in self.terms]
        responses = iter(self.query_all(queries) if self.query_all else [self.query(*query) for query in queries])
        return [[next(responses) for _ in self.terms] for _ in probes]

    def scored(self, responses: Sequence[Tensor]) -> Score:
        """The score of ``responses`` (n, classes), one for each term."""
        responses = [logits.requires_grad_() for logits in responses]
        losses, difficulty = self._losses(responses)
        gradients = torch.autograd.grad(losses.sum(), [*responses, *self.head_parameters()])
        sensitivity, of_heads = torch.stack(gradients[: len(responses)]), gradients[len(responses) :]
        loss = losses.detach().double().sum().item()
        return Score(loss, difficulty, of_heads, losses.detach(), torch.stack(responses).detach(), sensitivity)

    def _gather(self, score: Score) -> None:
        for p, gradient in zip(self.head_parameters(), score.gradients, strict=True):
            p.grad = gradient if p.grad is None else p.grad + gradient
        self._loss.append(score.loss)
        self._difficulty.append(score.difficulty)
        self._scores += 1

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The result of ``make``, computed once in this step: for what several probes share."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def heads(self) -> list[Head]:
        """The heads of the terms, without duplicates."""
        return list({id(term.head): term.head for term in self.terms}.values())

    def head_parameters(self) -> list[Tensor]:
        """All parameters of `heads`."""
        return [p for head in self.heads() for p in head.parameters()]

    def backward(self) -> None:
        """Add the true gradient to the fuse and the heads; requires a backend that grants gradients."""
        fused = self.fuse.differentiable(self.images)
        losses = self._recorded([self.query_with_gradient(fused, term.chip) for term in self.terms])
        losses.sum().backward()
        self._scores += 1

    def backward_through(self, model: QueryFn) -> None:
        """Set the fuse's gradient to the one through ``model``, whose responses are differentiable and replace the target's."""
        fused = self.fuse.differentiable(self.images)
        loss = self._recorded([model(fused, term.chip) for term in self.terms]).sum()
        parameters = list(self.fuse.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient

    def finish(self) -> tuple[float, Tensor] | None:
        """Divide the heads' gradients by the number of scores; returns the step's loss and each image's difficulty (n,), which is
        empty if it is not needed.

        ``None`` if neither the target nor a model of it was queried.
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

    def _recorded(self, responses: Sequence[Tensor]) -> Tensor:
        losses, difficulty = self._losses(responses)
        self._loss.append(losses.detach().double().sum().item())
        self._difficulty.append(difficulty)
        return losses

    def _losses(self, responses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The weighted loss of each image (n,), differentiable, and its difficulty."""
        per_image = eopm.losses(self.terms, responses, self.labels)
        losses = per_image * self.weights / len(self.labels)
        return losses, 1.0 - torch.exp(-per_image.detach()) if self.hard else torch.empty(0)
