"""Fitting that makes wrong bits hurt less: what the gradient is taken at and what is clipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Dataset
from backends.memory.config import PRESETS, Memory, Quantization
from backends.memory.encoding import store
from backends.memory.simulator import Simulator, scales
from backends.targets import networks
from backends.targets.fit import FitConfig, hardening_of
from backends.training.fitting import fit
from backends.training.hardening import Hardened, Hardening
from backends.training.recipe import LARGE_RECIPE, RECIPE, Recipe

RQUANT = PRESETS["rquant"][0]
SHORT = Recipe(steps=3, lr=1e-2)


def small(seed: int = 0) -> nn.Module:
    """A convolution, a normalisation whose scale has left 1, and a linear layer, for images 1 x 4 x 4."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        norm = nn.GroupNorm(2, 4)
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias)
        return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(8, 1, 4, 4, generator=rng) * 2 - 1, torch.randint(3, (8,), generator=rng)


def gradients(hardening: Hardening, seed: int = 0) -> tuple[dict[str, Tensor], float]:
    """What one step leaves, and the loss of its first pass."""
    network, (images, labels) = small(), batch()
    losses: list[float] = []
    hardened = Hardened(network, hardening, seed)

    def loss() -> Tensor:
        found = F.cross_entropy(network(images), labels)
        losses.append(found.item())
        return found

    hardened.backward(loss)
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}, losses[0]


@given(
    st.builds(
        Quantization,
        st.sampled_from([2, 3, 4, 8, 16]), st.booleans(), st.booleans(), st.booleans(),
        st.sampled_from(["tensor", "global", "channel"]),
    ),
    st.sampled_from(["weights", "parameters"]),
    st.integers(0, 100),
)  # fmt: skip
def test_the_gradient_is_taken_at_what_the_memory_gives_back(quantization: Quantization, stored: str, seed: int) -> None:
    network = small(seed)
    simulator = Simulator(small(seed), Memory(stored=stored), quantization)  # type: ignore[arg-type]
    hardened = Hardened(network, Hardening(quantization, stored))  # type: ignore[arg-type]
    images, _ = batch()
    with hardened.reading(store(hardened.tensors, quantization)):
        assert torch.allclose(network(images), simulator.logits(images, NOMINAL), atol=1e-5)
        for name, weights in simulator.weights(NOMINAL).items():
            assert torch.allclose(network.get_parameter(name), weights, atol=1e-6)


def test_the_gradient_goes_straight_through_to_the_float_weights() -> None:
    network, (images, labels) = small(), batch()
    found, loss = gradients(Hardening(RQUANT))
    with torch.no_grad():
        for name, weights in Simulator(small(), Memory("rquant")).weights(NOMINAL).items():
            network.get_parameter(name).copy_(weights)
    expected = F.cross_entropy(network(images), labels)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad, atol=1e-5)


def test_after_fitting_the_weights_are_floats_and_a_scale_is_a_scale_again() -> None:
    network = small()
    before = {name: p.clone() for name, p in network.named_parameters()}
    hardened = Hardened(network, Hardening(replace(RQUANT, bits=2)))
    hardened.backward(lambda: network(batch()[0]).square().mean())
    hardened.finish()
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter, before[name], atol=1e-6)


@pytest.mark.parametrize("stored", ["weights", "parameters"])
def test_what_is_stored_stays_within_the_clip(digits: Dataset, stored: str) -> None:
    hardening = Hardening(RQUANT, stored, clip=0.05)  # type: ignore[arg-type]
    network = fit(_normalised(), digits.train, replace(SHORT, hardening=hardening))
    for name, parameter in network.named_parameters():
        distance = parameter - 1.0 if name in scales(network) else parameter
        clipped = stored == "parameters" or (parameter.ndim > 1)
        assert (float(distance.detach().abs().max()) <= 0.05 + 1e-6) == clipped, name


def _normalised() -> nn.Module:
    """For digits, with weights and scales that three steps do not bring near a clip of 0.05 by themselves."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    nn.init.constant_(network[1].weight, 1.3)
    nn.init.constant_(network[1].bias, 0.3)
    return network


def test_random_errors_at_rate_zero_are_two_clean_passes() -> None:
    clean, _ = gradients(Hardening(RQUANT))
    twice, _ = gradients(Hardening(RQUANT, rate=0.0))
    halved, _ = gradients(Hardening(RQUANT, rate=0.0, gradients="mean"))
    for name, gradient in clean.items():
        assert torch.equal(twice[name], 2 * gradient)
        assert torch.allclose(halved[name], (gradient + gradient.clamp(-0.05, 0.05)) / 2, atol=1e-7)


@pytest.mark.parametrize("rule", ["sum", "mean"])
def test_the_second_gradient_is_that_of_the_chip_with_the_same_ranges(rule: str) -> None:
    network, (images, labels) = small(), batch()
    clean, _ = gradients(Hardening(RQUANT))
    both, _ = gradients(Hardening(RQUANT, rate=0.05, pattern=7, gradients=rule))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weights in Simulator(small(), Memory("rquant")).weights(Chip(0.05, 7)).items():
            network.get_parameter(name).copy_(weights)
    F.cross_entropy(network(images), labels).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        second = parameter.grad if rule == "sum" else parameter.grad.clamp(-0.05, 0.05)
        expected = (clean[name] + second) / (1 if rule == "sum" else 2)
        assert torch.allclose(both[name], expected, atol=1e-4), name


def test_errors_wait_for_the_loss_and_a_fresh_chip_comes_each_step() -> None:
    clean, loss = gradients(Hardening(RQUANT))
    waiting, _ = gradients(Hardening(RQUANT, rate=0.2, start=loss - 0.01))
    assert all(torch.equal(waiting[name], clean[name]) for name in clean)
    begun = [gradients(Hardening(RQUANT, rate=0.2, start=loss + 0.01), seed)[0] for seed in range(3)]
    assert len({float(found["0.weight"].sum()) for found in [clean, *begun]}) == 4


def test_batches_are_the_same_with_errors_and_without(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {}
    for name, hardening in {"plain": Hardening(RQUANT), "errors": Hardening(RQUANT, rate=0.1, start=9.0)}.items():
        network = networks.build("digits", (1, 8, 8))
        seen[name] = []
        network.register_forward_pre_hook(lambda _, images, to=seen[name]: to.append(images[0].clone()))
        fit(network, digits.train, replace(SHORT, hardening=hardening))
    assert len(seen["errors"]) == 2 * len(seen["plain"])
    assert all(torch.equal(a, b) for a, b in zip(seen["errors"][::2], seen["plain"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen["errors"][::2], seen["errors"][1::2], strict=True))


def test_options_that_are_not_used_leave_the_keys_of_the_cache_as_they_are() -> None:
    assert repr(RECIPE) == (
        "Recipe(steps=600, batch=128, lr=0.003, weight_decay=0.01, shift=1, mirror=False, each=False, bfloat16=False, "
        "seed=0, threads=1)"
    )
    assert "10000" in repr(LARGE_RECIPE)
    others = [
        replace(RECIPE, optimizer="sgd"),
        replace(RECIPE, label_smoothing=0.1),
        replace(RECIPE, hardening=Hardening(RQUANT)),
    ]
    assert len({repr(recipe) for recipe in (RECIPE, *others)}) == 4


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_both_optimizers_fit_a_stored_network(digits: Dataset, optimizer: str) -> None:
    hardening = Hardening(RQUANT, clip=0.5, rate=0.01)
    recipe = Recipe(120, lr={"adamw": 3e-3, "sgd": 0.1}[optimizer], optimizer=optimizer, hardening=hardening)  # type: ignore[arg-type]
    network = fit(_normalised(), digits.train, recipe)
    logits = Simulator(network, Memory("rquant")).logits(digits.validation.images, NOMINAL)
    assert (logits.argmax(1) == digits.validation.labels).float().mean() > 0.7


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clip": 0.0}, "`clip` must be greater than 0"),
        ({"randbet": 1.5, "quantization": "rquant"}, r"`randbet` must lie in \[0, 1\]"),
        ({"randbet": 0.01}, "needs `quantization`: give both"),
        ({"pattern": 3, "quantization": "rquant"}, "`pattern` names the chip of `randbet`"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        hardening_of(FitConfig(Path("x.pt"), **settings))  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_fit_on_a_gpu_ends_near_that_on_the_processor(digits: Dataset) -> None:
    recipe = replace(RECIPE, steps=20, hardening=Hardening(RQUANT, rate=0.01, start=9.0))
    here = fit(networks.build("digits", (1, 8, 8)), digits.train, recipe)
    there = fit(networks.build("digits", (1, 8, 8)), digits.train, recipe, "cuda")
    for name, weights in here.state_dict().items():
        assert torch.allclose(there.state_dict()[name], weights, atol=1e-2)
