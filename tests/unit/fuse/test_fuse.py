"""The fuse: the clipped sum, the order of its vector, calibration, growth, and the tape."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backends.base import InputError
from bbfuse.fuse.module import Fuse
from tests.helpers.references.points import drawn

SHAPE = (2, 8, 8)


def moved(name: str, seed: int = 5) -> Fuse:
    fuse = Fuse(name, SHAPE, torch.Generator().manual_seed(seed))
    fuse.assign(fuse.vector() + 0.2 * drawn(seed, len(fuse.vector())))
    return fuse


def images_of(number: int, count: int) -> Tensor:
    return (0.9 * drawn(number, count, *SHAPE) + 0.2).clamp(-1.0, 1.0)


def norms_of(fuse: Fuse) -> list[nn.BatchNorm2d]:
    return [m for m in fuse.modules() if isinstance(m, nn.BatchNorm2d)]


def test_it_is_the_clipped_sum_of_the_image_and_its_generators() -> None:
    fuse, images = moved("Mix+Filter+MLP"), images_of(1, 5)
    whole = images + sum(generator(images) for generator in fuse.generators)
    assert (whole > 1.0).any()
    assert (whole < -1.0).any()
    torch.testing.assert_close(fuse(images), torch.minimum(torch.maximum(whole, torch.tensor(-1.0)), torch.tensor(1.0)))
    assert fuse.name == "Mix+Filter+MLP"
    assert [sum(p.numel() for p in generator.parameters()) for generator in fuse.generators] == [
        6,
        102,
        128 * 64 + 64 + 64 * 128 + 128,
    ]


def test_the_vector_has_the_parameters_in_the_order_of_their_layers() -> None:
    fuse = moved("Mix+Filter")
    mix, one = fuse.generators
    whole = torch.cat([mix.weight.flatten(), mix.bias, one.weight.flatten(), one.bias]).detach()
    assert torch.equal(fuse.vector(), whole)
    assert not fuse.vector().requires_grad
    other = drawn(3, len(whole))
    fuse.assign(other)
    assert torch.equal(mix.weight.detach().flatten(), other[:4])
    assert torch.equal(mix.bias.detach(), other[4:6])
    assert torch.equal(one.weight.detach().flatten(), other[6:106])
    assert torch.equal(one.bias.detach(), other[106:])
    pieces = fuse.unflatten(other)
    assert list(pieces) == ["generators.0.weight", "generators.0.bias", "generators.1.weight", "generators.1.bias"]
    assert torch.equal(pieces["generators.1.weight"], other[6:106].view(2, 2, 5, 5))


def test_at_another_vector_it_makes_what_it_would_there_and_stays() -> None:
    fuse, images = moved("Mix+Filter"), images_of(1, 5)
    before, other = fuse.vector().clone(), 0.3 * drawn(3, len(fuse.vector()))
    made = fuse.at(other, images)
    assert torch.equal(fuse.vector(), before)
    fuse.assign(other)
    assert torch.equal(made, fuse(images))


def test_gradients_are_added_up_in_the_order_of_the_vector() -> None:
    fuse = moved("Mix+Filter")
    size = len(fuse.vector())
    first, second = drawn(1, size), drawn(2, size)
    fuse.add_gradient(first)
    assert fuse.generators[0].weight.grad.data_ptr() != first.data_ptr()
    fuse.add_gradient(second)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in fuse.parameters() if p.grad is not None]), first + second)


def test_its_weights_are_drawn_from_its_stream_and_the_last_layer_is_zero() -> None:
    rng, twin = torch.Generator().manual_seed(8), torch.Generator().manual_seed(8)
    state = torch.get_rng_state()
    fuse = Fuse("MLP+Filters", SHAPE, rng)
    assert torch.equal(torch.get_rng_state(), state)
    for generator, build in zip(
        fuse.generators,
        (lambda: [nn.Linear(128, 64), nn.Linear(64, 128)], lambda: [nn.Conv2d(2, 16, 3), nn.Conv2d(16, 2, 3)]),
        strict=True,
    ):
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(4_611_686_018_427_387_904, (), generator=twin)))
            first, last = build()
        weight, bias, last_weight, last_bias = generator.parameters()
        assert torch.equal(weight, first.weight)
        assert torch.equal(bias, first.bias)
        assert last_weight.shape == last.weight.shape
        assert not last_weight.any()
        assert not last_bias.any()


@pytest.mark.parametrize("name", ["ConvS", "DeConvL", "UNetS", "UNetXS"])
def test_only_the_last_layer_starts_at_zero(name: str) -> None:
    parameters = list(Fuse(name, SHAPE, torch.Generator().manual_seed(8)).named_parameters())
    scales = [(key, p) for key, p in parameters if key.endswith("weight")]
    assert [key for key, p in scales if not p.any()] == [scales[-1][0]]
    images = images_of(1, 3)
    fuse = Fuse(name, SHAPE, torch.Generator().manual_seed(8))
    fuse.calibrate(images)
    assert torch.equal(fuse(images), images)


def test_it_grows_without_a_change_of_a_bit() -> None:
    fuse, images = moved("ConvS"), images_of(1, 9)
    fuse.calibrate(images)
    before, vector = fuse(images), fuse.vector()
    statistics = [norm.running_mean.clone() for norm in norms_of(fuse)]
    fuse.grow("UNetS", torch.Generator().manual_seed(3))
    assert not any(m.training for m in fuse.modules())
    fuse.calibrate(images_of(2, 9))
    assert torch.equal(fuse(images), before)
    assert torch.equal(fuse.vector()[: len(vector)], vector)
    assert torch.equal(fuse.vector()[len(vector) :], Fuse("UNetS", SHAPE, torch.Generator().manual_seed(3)).vector())
    for norm, old in zip(norms_of(fuse), statistics, strict=False):
        assert torch.equal(norm.running_mean, old)  # set before, not again
    assert all(norm.running_mean.any() for norm in norms_of(fuse))


def test_calibration_is_the_mean_over_batches_of_256() -> None:
    fuse, images = moved("ConvS"), images_of(1, 300)
    fuse.calibrate(images)
    first, norm = fuse.generators[0][0], fuse.generators[0][1]
    with torch.no_grad():
        parts = [first(images[:256]), first(images[256:])]
    mean = (parts[0].mean((0, 2, 3)) + parts[1].mean((0, 2, 3))) / 2
    variance = (parts[0].var((0, 2, 3)) + parts[1].var((0, 2, 3))) / 2
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert not any(m.training for m in fuse.modules())


def test_on_the_tape_statistics_move_a_tenth_of_the_way_to_the_batch() -> None:
    fuse, images = moved("ConvS"), images_of(2, 6)
    fuse.calibrate(images_of(1, 20))
    first, norm = fuse.generators[0][0], fuse.generators[0][1]
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    seen = first(images).detach()
    fused = fuse.differentiable(images)
    assert fused.requires_grad
    torch.testing.assert_close(norm.running_mean, 0.9 * mean + 0.1 * seen.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, 0.9 * variance + 0.1 * seen.var((0, 2, 3)))
    assert not any(m.training for m in fuse.modules())
    assert not torch.allclose(fused, fuse(images))  # it was made with the batch's own


@pytest.mark.parametrize(("count", "moves"), [(1, False), (2, True)])
def test_a_single_image_moves_no_statistics(count: int, moves: bool) -> None:
    fuse = moved("ConvS")
    fuse.calibrate(images_of(1, 20))
    before = fuse.generators[0][1].running_mean.clone()
    expected = fuse(images_of(2, count))
    made = fuse.differentiable(images_of(2, count))
    assert torch.equal(fuse.generators[0][1].running_mean, before) != moves
    assert torch.equal(made, expected) != moves


def test_it_is_loaded_from_its_file(tmp_path: Path) -> None:
    fuse, images = moved("Mix+ConvS"), images_of(1, 9)
    fuse.calibrate(images)
    torch.save({"generator": "Mix+ConvS", "image_shape": [2, 8, 8], "fuse": fuse.state_dict()}, tmp_path / "fuse.pt")
    loaded = Fuse.load(tmp_path / "fuse.pt")
    assert loaded.image_shape == SHAPE
    assert torch.equal(loaded(images), fuse(images))


def test_a_pickle_that_would_run_something_is_not_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> object:
            return Path.mkdir, (tmp_path / "sprung",)

    torch.save({"generator": Trap()}, tmp_path / "fuse.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        Fuse.load(tmp_path / "fuse.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_name_that_is_none_is_refused() -> None:
    for name in ("Filtre", "Mix+Filtre", ""):
        with pytest.raises(
            InputError, match=rf"^`generator` must be one of Conv1d, .*, UNetXS, or module:attribute, got {name.split('+')[-1]}"
        ):
            Fuse(name, SHAPE, torch.Generator())
