"""Whole steps of a run against a loop of their own: batches, weights, terms, both optimizers, difficulty, validation, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backends.base import NOMINAL, Chip
from bbfuse.objective.eopm import EopmConfig
from bbfuse.querying.ledger import Ledger
from bbfuse.runs.folder import events
from bbfuse.training.trainer import Trainer
from tests.helpers.references.open_target import (
    CLASSES,
    CONFIG,
    DATA,
    ONE,
    POPULATION,
    STRICT,
    Open,
    answers,
    chips,
    steps_of,
    terms,
    trained,
)
from tests.helpers.references.points import named


def drawn_batch(difficulty: Any, batch: int, rng: torch.Generator) -> tuple[Any, Tensor]:
    """Systematic sampling of images by the root of their difficulty, and a fifth alike; nothing reaches the cap here."""
    root = np.sqrt(np.maximum(difficulty, 1e-3))
    p = 0.8 * root / root.sum() + 0.2 / len(root)
    assert p.max() < 1.0 / batch
    order = torch.randperm(len(p), generator=rng).numpy()
    points = torch.rand((), generator=rng, dtype=torch.float64).item() + np.arange(batch)
    ends = np.cumsum(p[order]) * batch
    index = np.array([order[np.flatnonzero(ends > point)[0]] for point in points])
    return index, torch.from_numpy(1.0 / (len(p) * p[index])).float()


class Loop:
    """The run of `CONFIG` again: one chip, the affine head, gradients through the target."""

    def __init__(self, fitted: dict[str, Tensor], fuse: Sequence[Tensor], steps: int) -> None:
        self.matrix, self.bias = (fitted[name].clone().requires_grad_() for name in ("matrix", "bias"))
        self.spread, self.steps, self.losses = fitted["spread"], steps, list[float]()
        self.kernel, self.shift = (p.clone().requires_grad_() for p in fuse)
        self.difficulty = np.ones(60)
        with torch.no_grad():
            sure = self.head(answers(DATA.train.images[:40], ONE)).softmax(1)
        self.difficulty[:40] = 1.0 - sure[torch.arange(40), DATA.train.labels[:40]].double().numpy()
        self.fuse_adam = torch.optim.Adam([self.kernel, self.shift])
        self.head_adam = torch.optim.Adam([self.matrix, self.bias])

    def head(self, logits: Tensor) -> Tensor:
        return (logits / self.spread) @ self.matrix.T + self.bias

    def fused(self, images: Tensor) -> Tensor:
        return (images + F.conv2d(images, self.kernel, self.shift, padding=2)).clamp(-1.0, 1.0)

    def step(self, number: int) -> None:
        index, weights = drawn_batch(self.difficulty, 7, named(5, "batch", number))
        corrected = self.head(answers(self.fused(DATA.train.images[index]), ONE))
        wrong = F.cross_entropy(corrected, DATA.train.labels[index], reduction="none")
        loss = (weights * wrong).mean()
        penalty = 0.01 * (self.matrix - torch.eye(CLASSES)).square().sum()
        for adam in (self.fuse_adam, self.head_adam):
            adam.zero_grad()
        (loss + penalty).backward()
        share = 1.0 - 0.95 * number / self.steps
        for adam, lr in ((self.fuse_adam, CONFIG.backprop.lr), (self.head_adam, 0.02)):
            adam.param_groups[0]["lr"] = lr * share
            adam.step()
        self.difficulty[index] = 1.0 - torch.exp(-wrong.detach()).double().numpy()
        self.losses.append(loss.item())


def right(logits: Tensor, labels: Tensor) -> float:
    return float(np.mean(logits.detach().numpy().argmax(1) == labels.numpy()))


def test_a_run_is_the_loop_that_the_documentation_describes(tmp_path: Path) -> None:
    trainer, target, reported, shown = trained(CONFIG, tmp_path / "a")
    # 500 - 40 for the head - 2 validations of 23 - report of 4 * 27 - one request of 128, 7 images a step
    steps = (500 - 40 - 46 - 108 - 128) // 7
    assert trainer.step == steps == 25
    fresh = Trainer(CONFIG, target.info, DATA, Ledger(Open(), 500), None)
    heads = trainer.heads.state_dict()
    loop = Loop(heads["first"], [p.detach() for p in fresh.fuse.parameters()], steps)
    before = right(loop.head(answers(loop.fused(DATA.validation.images[:23]), ONE)), DATA.validation.labels[:23])
    for number in range(steps):
        loop.step(number)
    lines = events(tmp_path / "a")
    np.testing.assert_allclose([line["loss"] for line in lines if "loss" in line], loop.losses, rtol=1e-3)
    for p, expected in zip(trainer.fuse.parameters(), (loop.kernel, loop.shift), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(heads["kept"]["matrix"], loop.matrix.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(heads["kept"]["bias"], loop.bias.detach(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(trainer.sampler.difficulty, loop.difficulty, atol=1e-3)

    after = right(loop.head(answers(loop.fused(DATA.validation.images[:23]), ONE)), DATA.validation.labels[:23])
    assert [line["validation"] for line in lines if "validation" in line] == [before, after]
    assert trainer.validation == shown[-1].validation == after
    test, first = DATA.test, Loop(heads["first"], (loop.kernel.detach(), loop.shift.detach()), steps)
    bare, fused = answers(test.images, ONE), answers(loop.fused(test.images), ONE)
    assert reported["clean"] == right(answers(test.images, NOMINAL), test.labels)
    assert reported["clean_fused"] == right(loop.head(answers(loop.fused(test.images), NOMINAL)), test.labels)
    for name, logits in (
        ("perturbed", bare),
        ("perturbed_head", first.head(bare)),
        ("perturbed_fuse", fused),
        ("perturbed_fused", loop.head(fused)),
    ):
        assert reported[name] == {"mean": right(logits, test.labels), "sd": 0.0, "chips": 1}

    saved = trainer.trained()
    assert (saved["generator"], saved["image_shape"], saved["answers"]) == ("Filter", [1, 8, 8], "logits")
    assert [step.images for step in shown] == [63 + 7 * number for number in range(1, steps + 1)] + [63 + 7 * steps + 23]
    last = shown[-1]
    assert (last.budget, last.step, last.steps, last.loss) == (500, steps, steps, lines[-2]["loss"])
    assert trainer.ledger.images == sum(len(images) for images, _ in target.asked) == 63 + 7 * steps + 23 + 108


def test_one_chip_has_one_term_by_default_and_its_weight_is_five(tmp_path: Path) -> None:
    _, seen = steps_of(STRICT, tmp_path / "a")
    assert len(seen) > 50
    assert all(terms(step) == [(ONE, 5.0)] for step in seen)


def test_a_step_of_the_population_draws_nominal_voltage_one_time_in_six_and_else_its_chips_share_the_weight(
    tmp_path: Path,
) -> None:
    trainer, seen = steps_of(POPULATION, tmp_path / "a")
    assert len(seen) == trainer.plan.steps > 20
    nominal = 0
    for number, step in enumerate(seen):
        if torch.rand((), generator=named(5, "term", number)).item() < 1 / 6:
            assert terms(step) == [(NOMINAL, 1.0)]
            nominal += 1
        else:
            assert terms(step) == [(Chip(0.05, seed), 2.5) for seed in chips(number, 2, 9)]
    assert 0 < nominal < len(seen) / 2


def test_drawing_one_kind_of_term_is_unbiased_for_all_of_them(tmp_path: Path) -> None:
    eopm = EopmConfig(clean_weight=2.1, perturbed_weight=3.4, chips=3)
    config = dataclasses.replace(POPULATION, eopm=eopm, budget=4_000)
    _, one = steps_of(config, tmp_path / "one")
    _, everything = steps_of(dataclasses.replace(config, eopm=dataclasses.replace(eopm, terms="all")), tmp_path / "all")
    found = {step.terms[0].chip == NOMINAL: (number, step) for number, step in enumerate(one)}
    number, drawn_chips = found[False]
    whole = next(step for place, step in enumerate(everything) if place == min(number, len(everything) - 1))
    number = min(number, len(everything) - 1)
    assert terms(whole) == [(NOMINAL, 2.1), *((Chip(0.05, seed), pytest.approx(3.4 / 3)) for seed in chips(number, 3))]
    losses = []
    for kind in (found[True][1].terms, whole.terms[1:], whole.terms):  # the same images, by the three lists of terms
        step = dataclasses.replace(drawn_chips, terms=kind)
        losses.append(step.scored([answers(step.images, term.chip) for term in kind]).loss)
    share = 2.1 / (2.1 + 3.4)
    assert share * losses[0] + (1.0 - share) * losses[1] == pytest.approx(losses[2], rel=1e-6)


def test_without_a_weight_nominal_voltage_is_not_asked(tmp_path: Path) -> None:
    config = dataclasses.replace(POPULATION, eopm=EopmConfig(clean_weight=0.0, terms="all"))
    _, seen = steps_of(config, tmp_path / "a")
    assert all(terms(step) == [(Chip(0.05, chips(number, 1)[0]), 5.0)] for number, step in enumerate(seen))
