"""EOPM (NeuralFuse, Eq. 2 to 5) written out in numpy, and a step with four terms on five images that differ in everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from bbfuse.fuse.module import Fuse
from bbfuse.heads.affine import Affine, Net
from bbfuse.heads.base import Head
from bbfuse.objective.eopm import Term
from bbfuse.objective.step import Step
from bbfuse.querying.responses import Query

Array = np.ndarray[Any, np.dtype[np.float64]]

SHAPE, CLASSES, IMAGES = (1, 2, 3), 4, 5
FIRST, SECOND = Chip(0.05, 7), Chip(0.2, 11)
CHIPS = (NOMINAL, FIRST, SECOND, FIRST)
TERM_WEIGHTS = (0.7, 2.3, 1.4, 3.1)
SHARE = np.array(TERM_WEIGHTS) / 7.5
LABELS = np.array([2, 0, 3, 3, 1])
IMAGE_WEIGHTS = np.array([0.4, 1.7, 0.9, 2.6, 1.3])
DECAYS = (0.03, 0.011)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def target(images: Tensor, chip: Chip) -> Tensor:
    """A smooth target; a chip has weights of its own."""
    return torch.tanh(images.flatten(1) @ drawn(chip.seed, 6, CLASSES)) * 3.0 + drawn(chip.seed + 1, CLASSES)


def heads() -> tuple[Head, Affine, Net]:
    """None at nominal voltage, an affine one of two terms, a net of one."""
    affine, net = Affine(CLASSES, DECAYS[0]).double(), Net(CLASSES, DECAYS[1]).double()
    with torch.no_grad():
        for seed, p in enumerate([*affine.parameters(), *net.parameters()]):
            p.add_(0.3 * drawn(20 + seed, *p.shape))
        affine.spread.fill_(1.7)
        net.spread.fill_(0.6)
    return Head(), affine, net


class Case:
    """A step with four terms on five images that differ in everything, and what it asked."""

    def __init__(self, **changed: Any) -> None:
        none, self.affine, self.net = heads()
        self.asked: list[Query] = []
        self.fuse = Fuse("MLP", SHAPE, torch.Generator().manual_seed(3)).double()
        with torch.no_grad():
            for seed, p in enumerate(self.fuse.parameters()):
                p.add_(0.1 * drawn(40 + seed, *p.shape))
        self.images = drawn(1, IMAGES, *SHAPE).clamp(-0.8, 0.8) * 0.9
        of_terms = zip(CHIPS, (none, self.affine, self.net, self.affine), TERM_WEIGHTS, strict=True)
        self.step = Step(
            number=0, seed=0, fuse=self.fuse, index=torch.arange(IMAGES), images=self.images, labels=torch.from_numpy(LABELS),
            weights=torch.from_numpy(IMAGE_WEIGHTS), terms=[Term(*parts) for parts in of_terms], query=self.query,
            query_with_gradient=target, **changed,
        )  # fmt: skip

    def query(self, images: Tensor, chip: Chip) -> Tensor:
        self.asked.append((images, chip))
        return target(images, chip)

    def expected(self, images: Tensor) -> dict[str, Array]:
        return eopm([target(images, chip).detach().numpy() for chip in CHIPS], self.affine, self.net)

    def gradients(self) -> dict[str, Array]:
        found = {f"affine.{name}": p.grad for name, p in self.affine.named_parameters()}
        found |= {f"net.{name}": p.grad for name, p in self.net.named_parameters()}
        return {name: gradient.numpy() for name, gradient in found.items() if gradient is not None}

    def penalties(self) -> dict[str, Array]:
        """The gradient of ``decay (|A - I|^2 + |V|^2)`` by what it depends on."""
        away = [
            2.0 * decay * (of(head.matrix) - np.eye(CLASSES)) for decay, head in zip(DECAYS, (self.affine, self.net), strict=True)
        ]
        return {"affine.matrix": away[0], "net.matrix": away[1], "net.outer": 2.0 * DECAYS[1] * of(self.net.outer)}


def of(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def eopm(answers: Sequence[Array], affine: Affine, net: Net) -> dict[str, Array]:
    """All that a score tells, and the gradients by the heads' parameters, from the formulas and the chain rule."""
    a, b, s = of(affine.matrix), of(affine.bias), float(affine.spread)
    c, d, r = of(net.matrix), of(net.bias), float(net.spread)
    u, t, v = of(net.inner), of(net.threshold), of(net.outer)
    hidden = np.maximum(np.einsum("hk,ik->ih", u, answers[2] / r) + t, 0.0)
    corrected = [
        answers[0],
        np.einsum("ck,ik->ic", a, answers[1] / s) + b,
        np.einsum("ck,ik->ic", c, answers[2] / r) + d + np.einsum("ch,ih->ic", v, hidden),
        np.einsum("ck,ik->ic", a, answers[3] / s) + b,
    ]
    shares = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in corrected]
    ce = np.array([-np.log(p[np.arange(IMAGES), LABELS]) for p in shares])
    per_image = SHARE @ ce
    # the derivative of the loss by a corrected logit: softmax minus one hot, times all weights
    by = [w * IMAGE_WEIGHTS[:, None] / IMAGES * (p - np.eye(CLASSES)[LABELS]) for w, p in zip(SHARE, shares, strict=True)]
    by_hidden = (by[2] @ v) * (hidden > 0.0)
    return {
        "losses": per_image * IMAGE_WEIGHTS / IMAGES,
        "difficulty": 1.0 - np.exp(-per_image),
        "sensitivity": np.array([by[0], by[1] @ a / s, (by[2] @ c + by_hidden @ u) / r, by[3] @ a / s]),
        "affine.matrix": (by[1].T @ answers[1] + by[3].T @ answers[3]) / s,
        "affine.bias": (by[1] + by[3]).sum(0),
        "net.matrix": by[2].T @ answers[2] / r,
        "net.bias": by[2].sum(0),
        "net.inner": by_hidden.T @ answers[2] / r,
        "net.threshold": by_hidden.sum(0),
        "net.outer": by[2].T @ hidden,
    }
