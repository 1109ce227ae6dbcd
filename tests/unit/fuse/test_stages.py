"""The order of training: a fuse grows without changing what it does, when it is due, and the plan is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from backends.base import NOMINAL, InputError
from backends.datasets.base import Dataset
from backends.memory.energy import macs, weight_reads
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import Problem
from bbfuse.runs.folder import events
from bbfuse.seeds import stream
from bbfuse.training.stages import Stages, no_longer_improves, stages
from tests.helpers.runs import BASE, run
from tests.helpers.targets import LinearBackend

LADDER = ("Mix", "Filter", "Filters", "UNetXS", "ConvS", "UNetS", "DeConvS", "UNetL", "DeConvL", "ConvL")
SHAPE = (3, 8, 8)
PROBLEM = Problem(owned=6, classes=3, population=False, seed=0)
DIGITS = (1, 8, 8)


def moved(fuse: Fuse) -> None:
    """Move the parameters, as a training would."""
    rng = torch.Generator().manual_seed(1)
    fuse.assign(fuse.vector() + 0.01 * torch.randn(fuse.vector().shape, generator=rng))


@pytest.mark.parametrize("rung", range(1, len(LADDER)))
def test_growing_changes_no_bit_and_the_larger_fuse_moves_with_all_its_parameters(rung: int) -> None:
    images = torch.rand((6, *SHAPE), generator=stream(0, "images")) * 2 - 1
    for small in LADDER[:rung]:
        fuse = Fuse(small, SHAPE, stream(0, "fuse"))
        fuse.calibrate(images)
        moved(fuse)
        before, vector = fuse(images).detach(), fuse.vector()
        assert not torch.equal(before, images)
        fuse.grow(LADDER[rung], stream(0, "fuse", 1))
        fuse.calibrate(images)
        assert torch.equal(fuse(images), before)
        assert torch.equal(fuse.vector()[: len(vector)], vector)
        added = Fuse(LADDER[rung], SHAPE, stream(0, "fuse", 1)).vector()
        assert torch.equal(fuse.vector()[len(vector) :], added)
        assert fuse.name == f"{small}+{LADDER[rung]}"
        fuse(images).square().sum().backward()
        last = list(fuse.generators[1].parameters())[-1]
        assert last.grad is not None
        assert last.grad.any()


def test_the_ladder_goes_up() -> None:
    sizes = [len(Fuse(name, SHAPE, torch.Generator()).vector()) for name in LADDER]
    assert sizes == sorted(set(sizes))


def test_a_sum_costs_what_its_parts_cost_and_is_loaded_from_its_file(tmp_path: Path) -> None:
    whole = Fuse("Filter+UNetS", SHAPE, stream(0, "fuse"))
    parts = [Fuse(name, SHAPE, stream(0, "fuse")) for name in ("Filter", "UNetS")]
    for cost in (weight_reads, macs):
        assert cost(whole, SHAPE) == sum(cost(part, SHAPE) for part in parts)
    images = torch.rand((6, *SHAPE), generator=stream(0, "images")) * 2 - 1
    whole.calibrate(images)
    moved(whole)
    torch.save({"generator": whole.name, "image_shape": list(SHAPE), "fuse": whole.state_dict()}, tmp_path / "fuse.pt")
    assert torch.equal(Fuse.load(tmp_path / "fuse.pt")(images), whole(images))


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=20), st.integers(1, 5), st.floats(0.5, 1.5))
def test_it_stops_paying_where_the_mean_falls_by_less_than_two_percent(early: list[float], repeats: int, factor: float) -> None:
    before = early * repeats
    losses = [7.0] * len(before) + before + [factor * loss for loss in before]
    if abs(factor - 0.98) > 1e-6:
        assert no_longer_improves(losses, len(before)) == (factor > 0.98)
    assert not no_longer_improves(losses[:-1], len(before))  # in mid window
    assert not no_longer_improves(before, len(before))  # nothing to compare with
    assert not no_longer_improves(losses, 0)


def grown(config: RunConfig, losses: Sequence[float | None], warm_up: int = 0) -> list[tuple[int, str]]:
    """The steps at which a run with these losses goes on to its next stage, and what its fuse is then."""
    order = Stages(config, PROBLEM, DIGITS, torch.zeros(6, *DIGITS))
    found, seeds = [], [order.seed]
    for step, loss in enumerate(losses):
        if order.advance(step, len(losses), warm_up):
            found.append((step, order.fuse.name))
            seeds.append(order.seed)
            assert order.begun == step
        order.observe(loss)
    assert order.grown_at_step == found[-1][0]
    assert seeds[0] == PROBLEM.seed
    assert len(set(seeds)) == len(seeds)
    return found


def test_it_grows_when_the_smaller_fuse_stops_paying_at_the_latest_at_half_and_once() -> None:
    config = RunConfig(optimizer="spsa", grow="Filter", chip_seed=0)
    whole = "Filter+MLP"
    assert grown(config, [0.99**k for k in range(100)]) == [(50, whole)]
    assert grown(config, [0.9**k if k < 20 else 0.9**20 for k in range(100)]) == [(40, whole)]
    assert grown(config, [1.0] * 100) == [(20, whole)]
    assert grown(config, [0.5] * 3) == [(2, whole)]


def test_the_warm_up_comes_first_and_its_steps_do_not_count_for_the_growth() -> None:
    config = RunConfig(optimizer="spsa", grow="Filter", chip_seed=0, warm_up=1000)
    assert [(s.generator, s.optimizer) for s in stages(config)] == [("Mix", "cma"), ("Filter", "spsa"), ("MLP", "spsa")]
    assert grown(config, [1.0] * 110, warm_up=10) == [(10, "Mix+Filter"), (30, "Mix+Filter+MLP")]
    alone = dataclasses.replace(config, grow=None)
    assert grown(alone, [1.0] * 110, warm_up=10) == [(10, "Mix+MLP")]


def test_steps_without_a_loss_count_as_steps_and_say_nothing_of_what_pays() -> None:
    config = RunConfig(optimizer="spsa", grow="Filter", chip_seed=0, warm_up=1000)
    every_second = [None if step % 2 else 1.0 for step in range(110)]
    assert grown(config, [None] * 110, warm_up=10) == [(10, "Mix+Filter"), (60, "Mix+Filter+MLP")]
    assert grown(config, every_second, warm_up=10) == [(10, "Mix+Filter"), (49, "Mix+Filter+MLP")]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"grow": "Filtre"}, "`grow` must be one of Conv1d, .*, got Filtre"),
        ({"grow": "MLP"}, r"not from MLP to MLP \(8320 to 8320 parameters\)"),
        ({"grow": "UNetXS", "generator": "Filters"}, "from small to large, not from UNetXS to Filters"),
        ({"grow": "UNetXS", "generator": "Filtre"}, "`generator` must be one of .*, got Filtre"),
        ({"warm_up": 2000, "generator": "Mix"}, "not from Mix to Mix"),
        ({"warm_up": 2000, "grow": "Mix"}, "not from Mix to Mix"),
        ({"warm_up": 20_000}, "`budget=6000` does not allow one step: .* give at least"),
        ({"warm_up": 3}, "`warm_up=3` does not allow one step of the warm-up: give at least 96, or 0"),
    ],
)
def test_what_cannot_grow_is_refused_in_a_line_before_anything_is_asked(
    changed: dict[str, Any], words: str, tmp_path: Path, linear: LinearBackend, digits: Dataset
) -> None:
    with pytest.raises(InputError, match=words) as error:
        run(dataclasses.replace(BASE, **changed), tmp_path / "a", linear, digits)
    assert "\n" not in str(error.value)
    assert linear.received == 0


def test_a_run_says_when_it_grew_and_spends_no_more_than_it_was_given_for_the_warm_up(
    tmp_path: Path, linear: LinearBackend, digits: Dataset
) -> None:
    config = dataclasses.replace(BASE, optimizer="spsa", head="none", warm_up=700, grow="Filter")
    run(config, tmp_path / "a", linear, digits)
    lines = events(tmp_path / "a")
    (first, second) = [line for line in lines if "generator" in line]
    assert (first["generator"], second["generator"]) == ("Mix+Filter", "Mix+Filter+MLP")
    validated = config.validation.images  # at step 0
    assert 700 - 96 < first["images"] - validated <= 700
    steps = max(line["step"] for line in lines)
    assert first["step"] == 7 < second["step"] <= 7 + (steps - 7 + 1) // 2


def test_a_warm_up_alone_wins_back_what_a_mix_can(tmp_path: Path, digits: Dataset) -> None:
    """The target needs a third of the contrast and another grey: two parameters, which CMA-ES finds."""

    class Glaring(LinearBackend):
        def query(self, images: Any, chip: Any, sending: Any) -> Any:
            return super().query(images if chip == NOMINAL else 3.0 * images + 0.3, NOMINAL, sending)

    config = dataclasses.replace(BASE, optimizer="spsa", head="none", warm_up=4_000, budget=7_500)
    accuracy = run(config, tmp_path / "a", Glaring(digits), digits)["accuracy"]
    lost = accuracy["clean"] - accuracy["perturbed"]["mean"]
    assert lost > 0.2
    assert accuracy["perturbed_fused"]["mean"] > accuracy["perturbed"]["mean"] + 0.8 * lost
