"""Fuse, heads, sampling and random streams."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Dataset
from bbfuse import seeds
from bbfuse.fuse.generators.base import GENERATORS
from bbfuse.fuse.module import Fuse
from bbfuse.heads.affine import Affine, Net
from bbfuse.heads.base import HEADS
from bbfuse.heads.per_chip import ChipHeads
from bbfuse.training.sampling import Sampler
from tests.helpers.targets import CHIP, LinearBackend

SHAPES = {name: {"MLP": (1, 8, 8), "Conv1d": (3, 20)}.get(name, (3, 32, 32)) for name in GENERATORS}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_new_fuse_changes_nothing_and_the_range_is_kept(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    fuse = Fuse(name, SHAPES[name], rng)
    images = torch.rand((4, *SHAPES[name]), generator=rng) * 2 - 1
    fuse.calibrate(images)
    assert torch.equal(fuse(images), images)
    moved = fuse.at(fuse.vector() + 0.5, images)
    assert moved.shape == images.shape
    assert moved.abs().max() <= 1.0
    assert torch.equal(fuse(images), images)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_fuse_depends_on_its_stream_and_leaves_the_global_one_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, second, other = (Fuse(name, SHAPES[name], seeds.stream(seed, "fuse")).vector() for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other) or not first.any()  # a single layer starts at zero
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", GENERATORS)
def test_an_image_is_treated_alike_in_every_batch_and_a_score_moves_nothing(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    fuse = Fuse(name, SHAPES[name], rng)
    images = torch.rand((6, *SHAPES[name]), generator=rng) * 2 - 1
    fuse.calibrate(images)
    with torch.no_grad():
        for p in fuse.parameters():
            p += 0.02 * torch.randn(p.shape, generator=rng)
    before = {name: value.clone() for name, value in fuse.state_dict().items()}
    together = fuse(images)
    assert not torch.equal(together, images)
    assert torch.allclose(together[:2], fuse(images[:2]), atol=1e-5)
    fuse.at(fuse.vector() + 0.1, images)
    assert all(torch.equal(value, before[name]) for name, value in fuse.state_dict().items())


def test_calibration_gives_every_normalisation_the_statistics_of_what_it_sees() -> None:
    rng = torch.Generator().manual_seed(0)
    fuse = Fuse("ConvS", SHAPES["ConvS"], rng)
    images = torch.rand((256, *SHAPES["ConvS"]), generator=rng) * 2 - 1
    fuse.calibrate(images)
    first, norm = fuse.generators[0][0], fuse.generators[0][1]  # type: ignore[index]
    seen = first(images)
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, seen.var((0, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize("name", GENERATORS)
def test_on_the_tape_statistics_are_those_of_the_batch_and_the_stored_ones_follow(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    fuse = Fuse(name, SHAPES[name], rng)
    owned, images = (torch.rand((8, *SHAPES[name]), generator=rng) * scale - 1 for scale in (1, 2))
    fuse.calibrate(owned)
    with torch.no_grad():
        for p in fuse.parameters():
            p += 0.02 * torch.randn(p.shape, generator=rng)
    norms = [m for m in fuse.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    plain = copy.deepcopy(fuse).train()
    torch.testing.assert_close(fuse.differentiable(images), plain(images))
    assert not any(m.training for m in fuse.modules())
    for norm, same, old in zip(norms, (m for m in plain.modules() if isinstance(m, torch.nn.BatchNorm2d)), before, strict=True):
        torch.testing.assert_close(norm.running_mean, same.running_mean)
        of_batch = (same.running_mean - 0.9 * old) / 0.1  # a tenth of the way
        assert not torch.allclose(of_batch, old)
    for _ in range(40):
        fuse.differentiable(images)
    if norms:  # by then the stored ones are the batch's
        torch.testing.assert_close(fuse(images), plain.train()(images), rtol=0.02, atol=0.02)
    assert torch.isfinite(fuse.differentiable(images[:1])).all()


@pytest.mark.parametrize(
    ("name", "parameters"),  # NeuralFuse, Table 7
    [("ConvL", 723_273), ("ConvS", 113_187), ("DeConvL", 647_785), ("DeConvS", 156_777), ("UNetL", 482_771), ("UNetS", 121_195)],
)
def test_the_papers_generators_have_its_parameter_counts(name: str, parameters: int) -> None:
    assert len(Fuse(name, (3, 32, 32), torch.Generator()).vector()) == parameters


@pytest.mark.parametrize("name", GENERATORS)
def test_vector_and_gradient_have_the_order_of_the_parameters(name: str) -> None:
    fuse = Fuse(name, SHAPES[name], torch.Generator())
    fuse.add_gradient(torch.arange(len(fuse.vector()), dtype=torch.float32))
    fuse.add_gradient(torch.ones(len(fuse.vector())))
    assert torch.equal(torch.cat([p.grad.flatten() for p in fuse.parameters()]), torch.arange(1.0, len(fuse.vector()) + 1))


def test_what_does_not_fit_is_refused() -> None:
    rng = torch.Generator()
    for name, shape, words in [
        ("ConvXXL", (1, 8, 8), "must be one of Conv1d, .*, got ConvXXL"),
        ("MLP", (3, 32, 32), "got 32x32"),
        ("UNetXS", (1, 6, 8), "got 6x8"),
        ("ConvL", (3, 36, 36), "divisible by 8, got 36x36"),
        ("UNetS", (3, 36, 36), "divisible by 8, got 36x36"),
    ]:
        with pytest.raises(InputError, match=words):
            Fuse(name, shape, rng)


def test_a_net_undoes_what_no_affine_head_can() -> None:
    rng = torch.Generator().manual_seed(0)
    clean = torch.randn((600, 3), generator=rng)
    labels = clean.abs().argmax(1)  # the answers have lost which sign meant much
    affine, net = Affine(3, decay=1e-6), Net(3, decay=1e-6)
    assert torch.equal(affine(clean), net(clean))
    for head in (affine, net):
        head.fit(clean, labels)
    assert (affine(clean).argmax(1) == labels).float().mean() < 0.6
    assert (net(clean).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "chip"),
    [("none", CHIP), ("none", None), ("standardize", CHIP), ("standardize", None), ("affine", CHIP), ("net", CHIP)],
)
def test_heads_cost_what_they_say_and_survive_saving(
    name: str, chip: Chip | None, linear: LinearBackend, digits: Dataset
) -> None:
    def make() -> ChipHeads:
        settings, raw = HEADS[name].Config(), digits.train.images[:60]
        return ChipHeads(name, settings, chip, raw, 10, lambda images, at: linear.query(images, at, lambda _: None))

    heads, other = make(), make()
    heads.fit(digits.train.labels[:60])
    assert linear.received == sum(heads.queries_before_training)
    other.load_state_dict(heads.state_dict())
    for met in (NOMINAL, chip or CHIP):
        before = linear.received
        logits = torch.eye(10)
        assert torch.equal(heads.head_for(met)(logits), other.head_for(met)(logits))
        assert linear.received - before == (2 * heads.images_per_chip if chip is None and met != NOMINAL else 0)
        assert torch.equal(heads.before_training(heads.head_for(met))(logits), other.before_training(other.head_for(met))(logits))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 1000))
@settings(max_examples=200)
def test_a_batch_never_holds_an_image_twice_and_its_weights_are_the_inverse_probabilities(
    difficulty: list[float], batch: int, seed: int
) -> None:
    sampler = Sampler(len(difficulty), batch, hard=True)
    sampler.observe(torch.arange(len(difficulty)), torch.tensor(difficulty))
    p = sampler.probabilities()
    size = min(batch, len(difficulty))
    assert p.sum().item() == pytest.approx(1.0)
    assert p.max().item() <= 1.0 / size + 1e-12
    index, weights = sampler.draw(torch.Generator().manual_seed(seed))
    assert len(index) == size
    assert len(index.unique()) == size
    assert torch.allclose(weights.double() * len(p) * p[index], torch.ones(size, dtype=torch.float64), atol=1e-5)


@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(1, 20), st.integers(0, 9999))
def test_training_validation_and_reporting_chips_never_meet(seed: int, step: int, count: int, validations: int) -> None:
    training = set(seeds.training_chips(seed, step, count))
    validation = {seeds.validation_chip(index) for index in range(0, validations, 97)}
    reporting = set(seeds.reporting_chips(10))
    assert not training & validation
    assert not training & reporting
    assert not validation & reporting
    assert reporting == set(range(50_000, 50_010))  # NeuralFuse's


def test_streams_differ_by_every_part_of_their_name() -> None:
    names = [
        (0, "probe", 1, 2),
        (0, "probe", 12),
        (0, "probe", 1),
        (1, "probe", 1),
        (0, "batch", 1),
        (0, "probe", 2, 1),
    ]
    first = [torch.randint(2**60, (1,), generator=seeds.stream(*name)).item() for name in names]
    assert len(set(first)) == len(names)
    assert torch.randint(2**60, (1,), generator=seeds.stream(*names[0])).item() == first[0]
