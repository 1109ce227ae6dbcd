"""EOPM (NeuralFuse, Eq. 2 to 5) against its formula in numpy: losses, difficulty, every gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.base import Chip
from bbfuse.heads.standardize import Standardize
from bbfuse.objective.eopm import Term
from bbfuse.objective.step import FixedImages, Probe, Score, Step
from bbfuse.querying.responses import Query
from tests.helpers.references.eopm import (
    CHIPS,
    CLASSES,
    FIRST,
    IMAGE_WEIGHTS,
    IMAGES,
    LABELS,
    Array,
    Case,
    drawn,
    eopm,
    of,
    target,
)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=2e-6, atol=1e-9)


def test_a_score_is_that_of_the_formula_in_all_its_parts() -> None:
    case = Case()
    score = case.step.score(case.images)
    assert score is not None
    expected = case.expected(case.images)
    assert score.loss == pytest.approx(expected["losses"].sum(), rel=1e-6)
    for name in ("losses", "difficulty", "sensitivity"):
        close(getattr(score, name), expected[name])
    close(score.logits, [target(case.images, chip).detach() for chip in CHIPS])
    names = [f"affine.{name}" for name, _ in case.affine.named_parameters()]
    names += [f"net.{name}" for name, _ in case.net.named_parameters()]
    assert len(score.gradients) == len(names) == 7
    for name, gradient in zip(names, score.gradients, strict=True):
        close(gradient, expected[name])
    assert not any(part.requires_grad for part in (score.losses, score.difficulty, score.logits, score.sensitivity))


def test_the_sensitivity_is_the_slope_of_the_loss_in_every_logit() -> None:
    case = Case()
    answers = [target(case.images, chip).detach() for chip in CHIPS]
    found = case.step.scored([a.clone() for a in answers]).sensitivity
    slopes = torch.zeros_like(found)
    for place in np.ndindex(*slopes.shape):
        ends = []
        for shift in (1e-6, -1e-6):
            moved = [a.clone() for a in answers]
            moved[place[0]][place[1:]] += shift
            ends.append(eopm([a.numpy() for a in moved], case.affine, case.net)["losses"].sum())
        slopes[place] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(found, slopes, atol=1e-8)


def test_heads_learn_from_the_mean_over_the_scores_and_are_penalised_once() -> None:
    case = Case()
    probes = [case.images, case.images * 0.5 + 0.1, case.images.flip(3)]
    for images in probes:
        case.step.score(images)
    finished = case.step.finish()
    assert finished is not None
    each = [case.expected(images) for images in probes]
    assert finished[0] == pytest.approx(np.mean([one["losses"].sum() for one in each]), rel=1e-6)
    close(finished[1], np.mean([one["difficulty"] for one in each], 0))
    found, penalties = case.gradients(), case.penalties()
    assert len(found) == 7
    for name, gradient in found.items():
        close(gradient, np.mean([one[name] for one in each], 0) + penalties.get(name, 0.0))


def numeric(case: Case) -> list[Array]:
    """The slope of the step's loss in each parameter of the fuse, by central differences."""

    def loss() -> float:
        with torch.no_grad():
            return float(case.expected(case.fuse(case.images))["losses"].sum())

    slopes = []
    for p in case.fuse.parameters():
        slope = np.zeros(p.numel())
        for place in range(0, p.numel(), 13):
            ends = []
            for shift in (1e-5, -2e-5, 1e-5):
                p.data.view(-1)[place] += shift
                ends.append(loss())
            slope[place] = (ends[0] - ends[1]) / 2e-5
        slopes.append(slope)
    return slopes


def test_backpropagation_gives_fuse_and_heads_the_true_gradient() -> None:
    case = Case()
    case.step.backward()
    case.step.backward()
    expected = case.expected(case.fuse(case.images))
    for p, slope in zip(case.fuse.parameters(), numeric(case), strict=True):
        assert p.grad is not None
        flat = p.grad.flatten()[::13]
        assert flat.abs().max() > 1e-3
        np.testing.assert_allclose(flat / 2.0, slope[::13], atol=1e-8)
    finished = case.step.finish()
    assert finished is not None
    assert finished[0] == pytest.approx(expected["losses"].sum(), rel=1e-6)
    close(finished[1], expected["difficulty"])
    for name, gradient in case.gradients().items():
        close(gradient, expected[name] + case.penalties().get(name, 0.0))


def test_through_a_model_the_fuse_alone_gets_a_gradient_and_it_replaces_what_was_there() -> None:
    case = Case()
    for p in case.fuse.parameters():
        p.grad = torch.full_like(p, 100.0)
    case.step.backward_through(target)
    assert case.asked == []
    for p, slope in zip(case.fuse.parameters(), numeric(case), strict=True):
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.flatten()[::13], slope[::13], atol=1e-8)
    expected = case.expected(case.fuse(case.images))
    finished = case.step.finish()
    assert finished is not None
    assert finished[0] == pytest.approx(expected["losses"].sum(), rel=1e-6)
    close(finished[1], expected["difficulty"])
    assert case.gradients() == {}  # no answer of the target: no loss and no penalty for the heads


def test_a_score_and_a_model_in_one_step_count_alike_in_the_loss_and_the_heads_learn_from_the_score_alone() -> None:
    case = Case()
    case.step.score(case.images)
    case.step.backward_through(target)
    finished = case.step.finish()
    assert finished is not None
    raw, fused = case.expected(case.images), case.expected(case.fuse(case.images))
    assert finished[0] == pytest.approx((raw["losses"].sum() + fused["losses"].sum()) / 2.0, rel=1e-6)
    close(finished[1], (raw["difficulty"] + fused["difficulty"]) / 2.0)
    for name, gradient in case.gradients().items():
        close(gradient, raw[name] + case.penalties().get(name, 0.0))


def test_every_term_is_asked_about_every_probe_in_order_and_a_failed_probe_teaches_nothing() -> None:
    case = Case()
    others = case.images * 0.25
    found = case.step.scores([FixedImages(case.images), FixedImages(others)])
    assert [chip for _, chip in case.asked] == [*CHIPS, *CHIPS]
    assert [images is case.images for images, _ in case.asked] == [True] * 4 + [False] * 4
    several: list[list[Chip]] = []

    def query_all(questions: Sequence[Query]) -> list[Tensor]:
        several.append([chip for _, chip in questions])
        return [target(images, chip) for images, chip in questions]

    together = Case(query_all=query_all)
    for one, other in zip(found, together.step.scores([FixedImages(together.images), FixedImages(others)]), strict=True):
        assert one is not None
        assert other is not None
        assert one.loss == other.loss
    assert several == [[*CHIPS, *CHIPS]]
    assert together.asked == []

    def scorer(step: Step, probes: Sequence[Probe]) -> list[Score | None]:
        return [None, *Step.scored_here(step, probes)[1:]]

    lossy = Case(scorer=scorer)
    failed, kept = lossy.step.scores([FixedImages(lossy.images), FixedImages(others)])
    assert failed is None
    assert kept is not None
    finished = lossy.step.finish()
    assert finished is not None
    expected = lossy.expected(others)
    assert finished[0] == kept.loss == pytest.approx(expected["losses"].sum(), rel=1e-6)
    for name, gradient in lossy.gradients().items():
        close(gradient, expected[name] + lossy.penalties().get(name, 0.0))


def test_with_one_term_its_weight_cancels_and_a_head_without_parameters_gets_no_gradient() -> None:
    reference, answers = drawn(5, 9, CLASSES), drawn(6, 9, CLASSES)
    bare = Case()
    head = Standardize(answers, reference)
    bare.step.terms = [Term(FIRST, head, 2.5)]
    score = bare.step.score(bare.images)
    assert score is not None
    assert score.gradients == ()
    found = bare.step.finish()
    assert found is not None
    z = of(target(bare.images, FIRST))
    z = (z - of(answers).mean(0)) / of(answers).std(0) * of(reference).std(0) + of(reference).mean(0)
    ce = np.log(np.exp(z).sum(1)) - z[np.arange(IMAGES), LABELS]
    assert found[0] == pytest.approx(float(ce @ IMAGE_WEIGHTS) / IMAGES, rel=1e-6)


def test_nothing_asked_is_no_loss_and_difficulty_is_left_out_where_it_is_not_wanted() -> None:
    assert Case().step.finish() is None
    easy = Case(hard=False)
    score = easy.step.score(easy.images)
    assert score is not None
    close(score.losses, easy.expected(easy.images)["losses"])
    finished = easy.step.finish()
    assert finished is not None
    assert (len(score.difficulty), len(finished[1])) == (0, 0)
    assert len(Case().step.scored([target(easy.images, chip) for chip in CHIPS]).difficulty) == IMAGES  # by default it is wanted


def test_what_several_probes_share_is_made_once_in_a_step() -> None:
    case = Case()
    made: list[int] = []
    for value in (3, 4):
        assert case.step.once("shared", lambda value=value: made.append(value) or value) == 3  # type: ignore[misc, func-returns-value]
    assert case.step.once("other", lambda: 5) == 5
    assert made == [3]
    images = torch.full((1, 1, 1, 1), 0.3)
    assert case.step.as_received(images) is images
    assert FixedImages(images).per_image is True
    assert FixedImages(images) != FixedImages(images)  # two probes are two, whatever they send
    assert FixedImages(images).images(case.step) is images
    assert case.step.heads() == [case.step.terms[0].head, case.affine, case.net]


def test_a_score_of_the_loss_alone_has_no_parts_by_image() -> None:
    bare = Score(0.3, torch.empty(0), ())
    assert [len(part) for part in (bare.losses, bare.logits, bare.sensitivity)] == [0, 0, 0]


def test_a_score_of_another_number_of_heads_or_answers_of_another_number_of_terms_is_refused() -> None:
    whole = Case()
    lacking = Score(0.3, torch.zeros(IMAGES), [torch.zeros_like(p) for p in whole.step.head_parameters()][:-1])
    foreign = Case(scorer=lambda step, probes: [lacking])
    with pytest.raises(ValueError, match="shorter"):
        foreign.step.score(foreign.images)
    with pytest.raises(ValueError, match="shorter"):
        whole.step.scored([target(whole.images, chip) for chip in CHIPS[:-1]])


def test_terms_probes_and_scores_cannot_be_changed() -> None:
    case = Case()
    for made, name in (
        (case.step.terms[0], "weight"),
        (FixedImages(case.images), "pixels"),
        (Score(0.3, torch.empty(0), ()), "loss"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, name, 0.5)
