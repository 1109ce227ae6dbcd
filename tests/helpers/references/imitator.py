"""The surrogate's perceptron with its Adam, ridge regression, trust and memory, written again from the equations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bbfuse.objective.step import Step
from tests.helpers.references.points import named


class Adam:
    """Kingma and Ba 2015, algorithm 1, with its standard settings."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters, self.steps = list(parameters), 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def step(self, gradients: Sequence[Tensor], lr: float) -> None:
        self.steps += 1
        for place, gradient in enumerate(gradients):
            self.first[place] = 0.9 * self.first[place] + 0.1 * gradient
            self.second[place] = 0.999 * self.second[place] + 0.001 * gradient**2
            mean = self.first[place] / (1.0 - 0.9**self.steps)
            root = (self.second[place] / (1.0 - 0.999**self.steps)).sqrt()
            with torch.no_grad():
                self.parameters[place].sub_(lr * mean / (root + 1e-8))


class Imitator:
    """``W3 relu(W2 relu(W1 x + b1) + b2) + b3`` with 256 hidden units twice."""

    def __init__(self, seed: int, lr: float, updates: int, memory: int, pixels: int = 16, classes: int = 3) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = [nn.Linear(pixels, 256), nn.Linear(256, 256), nn.Linear(256, classes)]
        self.weights = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
        self.adam = Adam(self.weights)
        self.seed, self.lr, self.updates, self.size = seed, lr, updates, memory
        self.memory: list[tuple[Tensor, Tensor]] = []
        self.seen, self.trust = 0, 0.0

    def features(self, images: Tensor) -> Tensor:
        hidden = (images.flatten(1) @ self.weights[0].T + self.weights[1]).clamp(min=0.0)
        return (hidden @ self.weights[2].T + self.weights[3]).clamp(min=0.0)

    def logits(self, images: Tensor) -> Tensor:
        return self.features(images) @ self.weights[4].T + self.weights[5]

    def rematch(self, images: Tensor, answers: Tensor) -> None:
        """Ridge as least squares with a further row ``sqrt(penalty)`` for each unknown, which asks for no change."""
        x = self.features(images).detach().double()
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        missing = answers.double() - self.logits(images).detach().double()
        penalty = 0.1 * x.square().sum() / x.shape[1]
        rows = torch.cat([x, penalty.sqrt() * torch.eye(x.shape[1], dtype=x.dtype)])
        change = torch.linalg.lstsq(rows, torch.cat([missing, missing.new_zeros(x.shape[1], 3)])).solution.float()
        with torch.no_grad():
            self.weights[4] += change[:256].T
            self.weights[5] += change[256]

    def fit(self, images: Tensor, answers: Tensor) -> None:
        """One step of Adam on the squared error, over the mean of the classes' variances."""
        variance = ((answers - answers.mean(0)) ** 2).mean().clamp(min=1e-6)
        loss = ((self.logits(images) - answers) ** 2).sum() / answers.numel() / variance
        self.adam.step(torch.autograd.grad(loss, self.weights), self.lr)

    def remember(self, images: Tensor, answers: Tensor) -> None:
        self.memory = [*self.memory, (images, answers)][-self.size :]

    def recalled(self, *name: str | int) -> tuple[Tensor, Tensor]:
        return self.memory[int(torch.randint(len(self.memory), (), generator=named(self.seed, "surrogate", *name)))]

    def prepare(self, images: Tensor, answers: Tensor, rounds: int) -> None:
        """From what was answered before: the last layer, then ``rounds`` passes over batches of 128."""
        self.rematch(images, answers)
        order = torch.randperm(len(images), generator=named(self.seed, "surrogate", "order")).tolist()
        for start in range(0, len(order), 128):
            self.remember(images[order[start : start + 128]], answers[order[start : start + 128]])
        for number in range(rounds * len(self.memory)):
            self.fit(*self.recalled("warm-up", number))

    def learn(self, images: Tensor, answers: Tensor) -> None:
        wrong = (self.logits(images) - answers).detach().double().square().sum() / len(images)
        spread = answers.double().var(0, correction=0).sum()
        foretold = min(max(1.0 - float(wrong / spread), 0.0), 1.0)
        self.trust = 0.9 * self.trust + 0.1 * foretold if self.seen else foretold
        if self.seen == 0 and not self.memory:
            self.rematch(images, answers)
        self.remember(images, answers)
        for number in range(self.updates):
            self.fit(*(self.recalled("step", self.seen, number) if number else (images, answers)))
        self.seen += 1


def loss_of(step: Step, logits: Sequence[Tensor]) -> Tensor:
    """``1/n sum_i w_i sum_t v_t / sum(v) (log sum exp - logit of the label)``."""
    total = sum(term.weight for term in step.terms)
    each = [
        term.weight / total * (a.logsumexp(1) - a[range(len(a)), step.labels]) for term, a in zip(step.terms, logits, strict=True)
    ]
    return (step.weights * torch.stack(each).sum(0)).sum() / len(step.labels)
