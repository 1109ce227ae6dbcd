"""Corrections as generators express them, the best of them as the start, and the choice of the parts that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Split
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.corrections import Correction, express, expresses, sharpenings, tones
from bbfuse.fuse.module import Fuse
from bbfuse.heads.affine import AffineConfig
from bbfuse.heads.per_chip import ChipHeads
from bbfuse.training.selection import COMBINATIONS, best, keep, right_predictions
from bbfuse.training.start import queries, starting

SHAPE = (3, 9, 9)
WEIGHTS = torch.randn(4, 3, generator=torch.Generator().manual_seed(5))
HEALTHY = RunConfig(no_chip=True)


def inputs(n: int = 40, scale: float = 0.4) -> Tensor:
    return scale * (2 * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(2)) - 1)


def made(generator: str) -> Fuse:
    return Fuse(generator, SHAPE, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("generator", ["Mix", "Filter", "Filter+Filters", "Scale", "Scale+Filters"])
def test_a_generator_expresses_gain_and_offset_of_each_channel(generator: str) -> None:
    fuse, x = made(generator), inputs()
    gain, offset = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.0, -0.25, 0.125])
    express(fuse, Correction("any", gain, offset))
    expected = (gain[:, None, None] * x + offset[:, None, None]).clamp(-1, 1)
    assert torch.allclose(fuse(x), expected, atol=1e-6)
    express(fuse, tones(x)[0])
    assert torch.allclose(fuse(x), x, atol=1e-7)


def test_a_scale_of_values_has_the_correction_of_the_first_axis_everywhere() -> None:
    fuse, x = Fuse("Scale", (3, 5), torch.Generator()), inputs()[:, :, 0, :5]
    gain, offset = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.0, -0.25, 0.125])
    express(fuse, Correction("any", gain, offset))
    assert torch.allclose(fuse(x), (gain[:, None] * x + offset[:, None]).clamp(-1, 1), atol=1e-6)
    assert [len(queries(HEALTHY, Fuse("Scale", shape, torch.Generator()), 50)) for shape in ((3, 5), (4,), (3, 8, 8))] == [
        8,
        8,
        8,
    ]


def test_the_stretch_maps_the_range_of_each_channel_to_the_whole_one() -> None:
    x = torch.linspace(-1, 1, 101).view(1, 1, 1, 101) * torch.tensor([0.2, 0.5, 0.01]).view(1, 3, 1, 1) + 0.3
    plain, turned = (c for c in tones(x) if c.name.startswith("stretched"))
    moved = plain.gain[:, None] * x[0, :, 0] + plain.offset[:, None]
    assert moved[:2, 1].tolist() == pytest.approx([-1.0, -1.0], abs=1e-4)
    assert moved[:2, 99].tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    assert plain.gain[2] == pytest.approx(20.0)  # a range below a tenth is not stretched any further
    assert torch.equal(turned.gain, -plain.gain)
    assert torch.equal(turned.offset, -plain.offset)


@pytest.mark.parametrize(("sd", "left"), [(0.5, 0.1), (0.75, 0.5), (1.0, 0.8), (1.25, 0.93)])
def test_a_sharpening_undoes_a_part_of_its_blur(sd: float, left: float) -> None:
    tone = Correction("t", torch.tensor([1.0]), torch.tensor([0.0]))
    kernel = next(c.kernel for c in sharpenings(tone) if c.name == f"t, sharpened by {sd} pixels")
    assert kernel is not None
    assert kernel.sum().item() == pytest.approx(1.0, abs=1e-5)
    places = torch.arange(-3, 4).float()
    bell = torch.exp(-(places**2) / (2 * sd**2))
    blur = torch.outer(bell, bell) / bell.sum() ** 2
    back = F.conv2d(blur.flip(0, 1)[None, None], kernel[None, None], padding=4)[0, 0]
    point = torch.zeros(11, 11)
    point[5, 5] = 1.0
    spread = F.pad(blur, (2, 2, 2, 2))
    assert (back - point).norm() < left * (spread - point).norm()
    single = Fuse("Filter", (1, 9, 9), torch.Generator())
    express(single, Correction("k", torch.tensor([-0.5]), torch.tensor([0.1]), kernel))
    x = inputs()[:, :1]
    assert torch.allclose(single(x), (-0.5 * F.conv2d(x, kernel[None, None], padding=2) + 0.1).clamp(-1, 1), atol=1e-6)


def test_only_filters_sharpen_and_other_networks_express_nothing() -> None:
    assert [expresses(made(name).generators[0]) for name in ("Mix", "Filter", "Filters")] == [True, True, False]
    assert [expresses(made(name).generators[0], kernel=True) for name in ("Mix", "Filter")] == [False, True]
    assert [len(queries(HEALTHY, made(name), 50)) for name in ("Mix", "Filter", "Filters")] == [8, 12, 0]
    assert queries(HEALTHY, made("Mix"), 50)[0] == 50
    assert queries(HEALTHY, made("Mix"), 5000)[0] == 64
    assert queries(HEALTHY.replaced(start="zero"), made("Filter"), 50) == ()
    assert queries(RunConfig(chip_seed=0), made("Filter"), 50) == ()
    assert queries(HEALTHY.replaced(init=Path("runs/a")), made("Filter"), 50) == ()
    with pytest.raises(InputError, match="`start=corrections` needs a generator that can express gains and offsets, got Filters"):
        queries(HEALTHY.replaced(start="corrections"), made("Filters"), 50)


def target(x: Tensor, chip: Chip) -> Tensor:
    assert chip == NOMINAL
    return 9.0 * x.mean((2, 3)) @ WEIGHTS.T


def heads_for(x: Tensor) -> ChipHeads:
    return ChipHeads("affine", AffineConfig(), NOMINAL, x, 4, target)


@pytest.mark.parametrize("shift", [-1.0, 1.0, 0.5])
def test_the_start_undoes_the_shift_and_the_head_is_the_better_one(shift: float) -> None:
    x = inputs(scale=0.9)
    labels = target(x, NOMINAL).argmax(1)
    shifted, fuse = Split(shift * x, labels), made("Mix")
    heads = heads_for(shifted.images)
    heads.fit(labels)
    fitted = {name: tensor.clone() for name, tensor in heads.state_dict()["kept"].items()}
    begun = starting(HEALTHY, fuse, shifted, heads, target)
    assert begun is not None
    with torch.no_grad():
        by_hand = {
            fit: F.cross_entropy(head(target(fuse(shifted.images), NOMINAL)), labels).item()
            for fit, head in ((True, heads.before_training(heads.unfitted())), (False, heads.unfitted()))
        }
    assert begun.loss == pytest.approx(min(by_hand.values()))
    assert begun.fitted_head == (by_hand[True] <= by_hand[False])
    assert len(begun.received) == 8
    kept = heads.state_dict()["kept"]
    assert all(torch.equal(kept[name], (fitted if begun.fitted_head else heads.unfitted().state_dict())[name]) for name in kept)
    bare = ChipHeads("none", None, NOMINAL, x, 4, target)
    without = starting(HEALTHY, fuse, shifted, bare, target)
    assert without is not None
    assert ("inverted" in without.correction.name) == (shift < 0)
    assert without.loss >= begun.loss


@pytest.mark.parametrize(
    ("right", "chosen"),
    [((7, 7, 7, 7), ()), ((7, 7, 8, 7), ("fuse",)), ((7, 8, 7, 8), ("head",)), ((7, 8, 8, 9), ("fuse", "head")),
     ((3, 2, 1, 0), ())],
)  # fmt: skip
def test_the_combination_with_the_most_right_predictions_is_kept_of_equal_ones_the_simplest(
    right: tuple[int, ...], chosen: tuple[str, ...]
) -> None:
    predictions = {parts: torch.arange(12) < number for parts, number in zip(COMBINATIONS, right, strict=True)}
    assert best(predictions) == chosen


def test_each_combination_predicts_with_its_parts_and_what_is_not_kept_changes_nothing() -> None:
    x = inputs()
    labels = target(-x, NOMINAL).argmax(1)
    for parts in COMBINATIONS:
        heads, fuse = heads_for(x), made("Mix")
        heads.fit(labels)
        assert isinstance(heads.trained, nn.Module)
        with torch.no_grad():
            fitted = {name: tensor.clone() for name, tensor in heads.trained.state_dict().items()}
            for parameter in (*fuse.parameters(), *heads.trained.parameters()):
                parameter += 0.3
            trained, fused = heads.trained(target(fuse(x), NOMINAL)), fuse(x)
        right = right_predictions(target, fuse, heads, Split(x, labels), NOMINAL)
        assert torch.equal(right[()], target(x, NOMINAL).argmax(1) == labels)
        assert torch.equal(right["fuse",], target(fused, NOMINAL).argmax(1) == labels)
        assert torch.equal(right["fuse", "head"], trained.argmax(1) == labels)
        keep(parts, fuse, heads)
        with torch.no_grad():
            assert torch.equal(fuse(x), x) == ("fuse" not in parts)
        state = heads.trained.state_dict()
        unfitted = heads.unfitted().state_dict()
        assert all(torch.equal(state[name], unfitted[name]) for name in state) == ("head" not in parts)
        assert all(torch.equal(state[name], fitted[name]) for name in state) == (parts == ("head",))


def test_a_run_ships_and_loads_exactly_what_it_kept(tmp_path: Path) -> None:
    import bbfuse
    from backends.datasets.loading import load
    from backends.targets.fit import fitted
    from bbfuse.config.sections import ValidationConfig
    from bbfuse.execution import execute

    few = ValidationConfig(images=30, times=1)
    execute(HEALTHY.replaced(budget=3000, images=150, validation=few, generator="Filter", out=tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    data = load("digits")
    loaded, test = bbfuse.load(tmp_path / "run"), data.test[: summary["report"]["images"]]
    network = fitted("digits", data)
    with torch.no_grad():
        right = (loaded(test.images, network).argmax(1) == test.labels).double().mean().item()
    assert right == pytest.approx(summary["accuracy"]["kept"]["mean"])
    assert summary["accuracy"]["kept"] == summary["accuracy"][COMBINATIONS[tuple(summary["kept_parts"])]]
    gained = summary["accuracy"]["kept"]["mean"] - summary["accuracy"]["perturbed"]["mean"]
    assert summary["recovered_points"] == pytest.approx(100 * gained)
