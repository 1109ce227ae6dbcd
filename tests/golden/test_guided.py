"""`guided`: each step against one written from the equations, image by image, in float64 but for the surrogate."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.datasets.base import Split
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import Problem
from bbfuse.optimizers.surrogate.guided import Guided, GuidedConfig
from bbfuse.optimizers.surrogate.network import SurrogateConfig
from tests.helpers.references.imitator import Adam, Imitator
from tests.helpers.references.points import TERMS, answers, images_of, named, small_fuse, step_for

SEED, STEPS, CLASSES, PIXELS = 9, 8, 3, 16
SETTINGS = SurrogateConfig("perceptron", steps=0, lr=2e-3, updates=2, memory=5)
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 2e-5}


class Reference:
    """``g_i = w J_s^T s_i + (S + M_i)^T s_i``, memory corrected with ``y - w p``, ``w`` over decayed products."""

    def __init__(self, lr: float, smoothing: float, pairs: int) -> None:
        self.theta = small_fuse().vector().clone().requires_grad_()
        self.adam = Adam([self.theta])
        self.own = Imitator(SEED, SETTINGS.lr, SETTINGS.updates, SETTINGS.memory)
        self.shared = torch.zeros(CLASSES, PIXELS, dtype=torch.float64)
        self.each = torch.zeros(11, CLASSES, PIXELS, dtype=torch.float64)
        self.yp = self.pp = self.yy = 0.0
        self.lr, self.smoothing, self.pairs = lr, smoothing, pairs

    @property
    def weight(self) -> float:
        return min(max(self.yp / self.pp, 0.0), 1.0)

    def fused(self, images: Tensor) -> Tensor:
        kernel, bias = self.theta[:25].view(1, 1, 5, 5), self.theta[25:]
        return (images + torch.conv2d(images, kernel, bias, padding=2)).clamp(-1.0, 1.0)

    def step(self, step: Step) -> None:
        fused = self.fused(step.images)
        z, found = fused.detach(), []
        for pair in range(self.pairs):
            coins = torch.randint(0, 2, (len(z), PIXELS), generator=named(SEED, "probe", step.number, pair))
            u = torch.where(coins == 1, self.smoothing, -self.smoothing).view_as(z)
            above, below = (z + u).clamp(-1.0, 1.0), (z - u).clamp(-1.0, 1.0)
            found.append(self.gradient(step, z, above, below))
        (gradient,) = torch.autograd.grad(fused, self.theta, (sum(found) / len(found)).float().view_as(fused))
        self.adam.step([gradient], self.lr * (1.0 - 0.95 * step.number / STEPS))

    def gradient(self, step: Step, z: Tensor, above: Tensor, below: Tensor) -> Tensor:
        up, down = ([answers(images, chip).double() for chip, _ in TERMS] for images in (above, below))
        y = (sum(up) - sum(down)) / len(TERMS)
        p = (self.own.logits(above) - self.own.logits(below)).detach().double()
        self.yp, self.pp, self.yy = (
            0.95 * old + float((a * b).sum()) for old, a, b in ((self.yp, y, p), (self.pp, p, p), (self.yy, y, y))
        )
        self.own.learn(torch.cat([above, below]), (torch.cat([sum(up), sum(down)]) / len(TERMS)).float())
        # Broyden's correction, one image after the other; all of them see the memory as it was
        d = (above - below).double().flatten(1)
        updates = {}
        for place, image in enumerate(step.index.tolist()):
            error = y[place] - self.weight * p[place] - (self.shared + self.each[image]) @ d[place]
            updates[image] = torch.outer(error, d[place]) / (d[place] @ d[place])
        share = 0.3 * sum(updates.values()) / len(updates)
        self.shared += share
        for image, update in updates.items():
            self.each[image] += update - share
        # the loss's slope in the logits, in the middle of both sides: share of the term * (softmax - one hot)
        s = torch.zeros(len(z), CLASSES, dtype=torch.float64)
        for (_, weight), *sides in zip(TERMS, up, down, strict=True):
            for side in sides:
                slope = side.softmax(1)
                slope[range(len(z)), step.labels] -= 1.0
                s += weight / 2.6 / 2 * slope * step.weights[:, None].double() / len(z)
        at = z.clone().requires_grad_()
        (prior,) = torch.autograd.grad((self.own.logits(at) * s.float()).sum(), at)
        rows = [(self.shared + self.each[image]).T @ s[place] for place, image in enumerate(step.index.tolist())]
        return torch.stack(rows) + self.weight * prior.double().flatten(1)


def problem(population: bool = False) -> Problem:
    return Problem(11, CLASSES, population, SEED, surrogate=SETTINGS)


def stepped(number: int, fuse: Any) -> Step:
    """A step on seven of the eleven images, others each time."""
    return dataclasses.replace(step_for(number, fuse, SEED), index=(torch.arange(7) * 3 + number) % 11, scorer=None)


@pytest.mark.parametrize(
    ("config", "lr", "smoothing", "population"),
    [
        (GuidedConfig(lr=0.013, smoothing=0.21, directions=2), 0.013, 0.21, False),
        (GuidedConfig(), 5e-3, 0.15, False),
        (GuidedConfig(), 3e-3, 0.15, True),
    ],
)
def test_it_steps_as_the_equations_say(config: GuidedConfig, lr: float, smoothing: float, population: bool) -> None:
    fuse, reference = small_fuse(), Reference(lr, smoothing, config.directions)
    method = Guided(config, problem(population), fuse)
    # a surrogate that knows something, so that weight and trust are neither 0 nor 1
    images = images_of(50, 140)
    method._surrogate.learn(images, 0.7 * answers(images, TERMS[1][0]))
    reference.own.learn(images, 0.7 * answers(images, TERMS[1][0]))
    for number in range(4):
        method.update(stepped(number, fuse), STEPS)
        reference.step(stepped(number, fuse))
        torch.testing.assert_close(fuse.vector(), reference.theta.detach(), **CLOSE)
        assert 0.05 < reference.weight < 0.95
        assert method.weight == pytest.approx(reference.weight, rel=1e-4)
        assert method.trust == pytest.approx(reference.yp**2 / reference.pp / reference.yy, rel=1e-4)


@pytest.mark.parametrize(
    ("products", "weight", "trust"),  # <y, p>, <p, p>, <y, y>
    [
        ((3.0, 4.0, 7.0), 0.75, 9 / 28),
        ((3.0, 0.4, 70.0), 1.0, 9 / 28),
        ((-0.5, 4.0, 7.0), 0.0, 0.0),
        ((0.3, 0.6, 0.25), 0.5, 0.6),
        ((0.0, 0.0, 7.0), 0.0, 0.0),
        ((0.0, 4.0, 0.0), 0.0, 0.0),
        ((0.6, 0.5, 0.9), 1.0, 0.8),
    ],
)
def test_weight_and_trust_of_products(products: tuple[float, ...], weight: float, trust: float) -> None:
    method = Guided(GuidedConfig(), problem(), small_fuse())
    assert (method.weight, method.trust) == (0.0, 0.0)
    method._products = torch.tensor(products, dtype=torch.float64)
    assert method.weight == pytest.approx(weight, rel=1e-12)
    assert method.trust == pytest.approx(trust, rel=1e-12)


def test_it_is_prepared_and_restored_with_its_surrogate() -> None:
    fuse = small_fuse()
    images = images_of(50, 140)
    first, second = (Guided(GuidedConfig(), problem(), small_fuse()) for _ in range(2))
    asked: list[Tensor] = []
    first.prepare(Split(images, torch.zeros(140, dtype=torch.int64)), [], lambda images, chip: asked.append(images) or images)
    assert not asked
    first.update(stepped(0, fuse), STEPS)
    second.load_state_dict(first.state_dict())
    assert (second.weight, second.trust) == (first.weight, first.trust)
    assert torch.equal(second._surrogate.logits(images), first._surrogate.logits(images))
    products = second._products.clone()
    first.update(stepped(1, fuse), STEPS)
    assert torch.equal(second._products, products)
