"""Cosine and scale of estimates that are made to have known ones, in windows of a short run."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean, pstdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from backends.datasets.base import Dataset, Split
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.backprop import Backprop
from bbfuse.optimizers.rge import RgeConfig
from bbfuse.optimizers.spsa import SpsaConfig
from bbfuse.seeds import stream
from experiments import alignment
from tests.helpers.studies.drawn import cells, committed, headers, shown_as_a_program

ALONG = (2.0, -0.5, 1.0, 0.7, 3.0, -1.5, 0.2)
ACROSS = (0.0, 0.5, 2.0, 0.1, 4.0, 1.0, 9.0)


class Askew(Backprop):
    """The true gradient times `ALONG`, and at a right angle to it `ACROSS` times its length, by the number of the step."""

    queries_per_image = 6

    def __init__(self, config: Any, problem: Any, fuse: Any) -> None:
        super().__init__(SimpleNamespace(lr=0.1), problem, fuse)  # type: ignore[arg-type]
        assert (problem.owned, problem.classes, problem.population, problem.seed) == (40, 3, False, 0)

    def estimate(self, step: Step) -> None:
        assert (len(step.images), step.seed, [term.weight for term in step.terms]) == (16, 0, [1.0])
        super().estimate(step)
        parameters = [p for p in step.fuse.parameters() if p.grad is not None]
        truth = torch.cat([p.grad.flatten() for p in parameters])  # type: ignore[union-attr]
        other = torch.randn(len(truth), generator=torch.Generator().manual_seed(step.number))
        other -= (other @ truth) / (truth @ truth) * truth
        estimate = ALONG[step.number] * truth + ACROSS[step.number] * truth.norm() / other.norm() * other
        for p, part in zip(parameters, estimate.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p).clone()


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(2)
    train = Split(torch.rand(40, 1, 4, 4, generator=rng) * 1.6 - 0.8, torch.randint(3, (40,), generator=rng))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 3))
    monkeypatch.setattr(alignment, "load", lambda name: Dataset(name, 3, train, train[:9], train))
    monkeypatch.setattr(alignment, "fitted", lambda name, data: network)
    monkeypatch.setattr(alignment, "OPTIMIZERS", {name: SimpleNamespace(create=Askew) for name in ("rge", "nes")})
    monkeypatch.setattr(alignment, "CASES", {"one": ("rge", RgeConfig()), "nes": ("nes", SpsaConfig())})
    monkeypatch.setattr(alignment, "WINDOWS", ((0, 3), (5, 7)))


@pytest.mark.usefixtures("toys")
def test_cosine_and_scale_are_those_of_the_steps_of_a_window() -> None:
    config, rows = alignment.RESULT.compute()
    assert config == {"data": "digits", "chip": 100, "bit_error_rate": 0.05, "batch": 16}
    assert [(row["method"], row["steps_before"], row["batches"], row["answers_per_image"]) for row in rows] == [
        ("one", 0, 3, 6), ("one", 5, 2, 6), ("nes", 0, 3, 6), ("nes", 5, 2, 6)
    ]  # fmt: skip
    cosines = [along / (along**2 + across**2) ** 0.5 for along, across in zip(ALONG, ACROSS, strict=True)]
    for row in rows:
        window = slice(0, 3) if row["steps_before"] == 0 else slice(5, 7)
        assert row["cosine_mean"] == pytest.approx(mean(cosines[window]), abs=1e-4)
        assert row["cosine_sd"] == pytest.approx(pstdev(cosines[window]), abs=1e-4)
        # normalised steps have no scale
        expected = None if row["method"] == "nes" else pytest.approx(mean(ALONG[window]), abs=1e-3)
        assert row["scale_mean"] == expected
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("toys")
def test_the_fuse_follows_the_true_gradient_and_the_sampler_sees_every_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the estimates are, the images and the fuse of each step are the same; hard images come more often."""
    seen: dict[str, list[tuple[Any, ...]]] = {}
    begun: list[Any] = []

    class Watched(Askew):
        def estimate(self, step: Step) -> None:
            mine = seen.setdefault(str(len(begun)), [])
            mine.append((step.fuse.vector().clone(), step.images.clone(), step.weights.clone()))
            super().estimate(step)

    def create(*given: Any) -> Any:
        begun.append(None)
        return Watched(*given)

    sampled: list[tuple[Any, ...]] = []
    drawn_first = alignment.Sampler(40, 16, hard=True).draw

    class Sampler(alignment.Sampler):
        def __init__(self, *given: Any, **known: Any) -> None:
            sampled.append((*given, known))
            super().__init__(*given, **known)

        def observe(self, index: Any, losses: Any) -> None:
            assert len(index) == len(losses) == 16
            sampled.append((len(sampled),))
            super().observe(index, losses)

    lengths: list[int] = []

    class Guide(Backprop):
        def update(self, step: Step, steps: int) -> None:
            lengths.append(steps)
            super().update(step, steps)

    monkeypatch.setattr(alignment, "Backprop", Guide)
    monkeypatch.setattr(alignment, "Sampler", Sampler)
    monkeypatch.setattr(alignment, "OPTIMIZERS", {name: SimpleNamespace(create=create) for name in ("rge", "nes")})
    alignment.RESULT.compute()
    assert [given for given in sampled if len(given) > 1] == [(40, 16, {"hard": True})] * 2
    assert sum(len(given) == 1 for given in sampled) == 2 * 7
    first, second = seen.values()
    assert len(first) == len(second) == 7
    assert lengths == [7] * 14
    torch.testing.assert_close(first[0][0], Fuse("MLP", (1, 4, 4), stream(0, "fuse")).vector())
    index, weights = drawn_first(stream(0, "batch", 0))
    torch.testing.assert_close(first[0][1], alignment.load("digits").train.images[index])
    torch.testing.assert_close(first[0][2], weights)
    for one, other in zip(first, second, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(mine, theirs)
    moved = [(later[0] - now[0]).norm().item() for now, later in pairwise(first)]
    assert min(moved) > 1e-3
    assert len({tuple(images.flatten().tolist()) for _, images, _ in first}) == 7


def test_cases_and_windows_are_those_that_are_committed() -> None:
    result = committed("alignment")
    assert alignment.WINDOWS == ((0, 20), (200, 220), (1000, 1020))
    assert [(row["method"], row["steps_before"]) for row in result["rows"]] == [
        (name, first) for name in alignment.CASES for first in (0, 200, 1000)
    ]
    assert {row["batches"] for row in result["rows"]} == {20}
    assert {row["method"] for row in result["rows"] if row["scale_mean"] is None} == {"fzoo", "nes", "pgpe"}
    settings = {name: settings for name, (_, settings) in alignment.CASES.items()}
    assert (settings["rge"].broyden, settings["rge, plain"].broyden, settings["rge, plain"].directions) == (True, False, 1)
    assert (settings["rge, plain, 8 directions"].broyden, settings["rge, plain, 8 directions"].directions) == (False, 8)
    assert [settings[f"rge, {basis}"].basis for basis in ("coarse", "dct", "coordinates")] == ["coarse", "dct", "coordinates"]
    answers = {row["method"]: row["answers_per_image"] for row in result["rows"]}
    assert (answers["rge"], answers["rge, plain, 8 directions"]) == (2, 16)


def test_the_table_has_a_column_for_each_window() -> None:
    rows = [
        {
            "method": name, "steps_before": first, "answers_per_image": place + 3,
            "cosine_mean": 0.1234 + 0.01 * place + first / 2000, "cosine_sd": 0.0567,
            "scale_mean": None if place % 2 else 1.234 + first / 1000,
        }
        for place, name in enumerate(alignment.CASES) for first in (0, 200, 1000)
    ]  # fmt: skip
    table = alignment._table(rows)
    assert headers(table) == ["method", "responses", "after 0", "after 200", "after 1000"]
    shown = cells(table)
    assert [row[0] for row in shown] == list(alignment.CASES)
    assert shown[0] == ["rge", "3", "0.123 ± 0.057 (1.23)", "0.223 ± 0.057 (1.43)", "0.623 ± 0.057 (2.23)"]
    assert shown[1] == ["rge, plain", "4", "0.133 ± 0.057", "0.233 ± 0.057", "0.633 ± 0.057"]


def test_as_a_program_it_prints_what_is_committed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown_as_a_program("alignment", monkeypatch, capsys) == committed("alignment")
