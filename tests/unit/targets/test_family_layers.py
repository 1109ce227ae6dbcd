"""The layers of the families of targets do what those of their papers do."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Dataset
from backends.memory.config import Memory, Quantization
from backends.memory.simulator import Simulator
from backends.targets import binary, shiftadd, smartexchange, sparse, spiking
from backends.training.fitting import fit
from backends.training.hardening import Hardened, Hardening
from backends.training.recipe import RECIPE, Recipe
from tests.helpers.families import begun

pytestmark = pytest.mark.usefixtures("seeded")


# binary targets


def test_flips_of_fitting_are_as_many_as_said_and_the_gradient_does_not_know_of_them() -> None:
    layer = binary.BinaryLinear(400, 100, flip=0.1).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = layer(torch.eye(400)).T
    wrong = (found * layer.weight.sign() < 0).double().mean().item()
    assert abs(wrong - 0.1) < 5 * (0.1 * 0.9 / 40_000) ** 0.5  # wrongly red once in a million
    (gradient,) = torch.autograd.grad(found.sum(), layer.weight)
    assert torch.equal(gradient, torch.ones_like(gradient))
    assert torch.equal(layer.eval()(torch.eye(400)).T, binary.signs(layer.weight))


def test_signs_pass_the_gradient_inside_of_one_and_know_no_zero() -> None:
    numbers = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    found = binary.Signs()(numbers)
    assert found.tolist() == [-1, -1, 1, 1, 1]
    (gradient,) = torch.autograd.grad(found.sum(), numbers)
    assert gradient.tolist() == [0, 1, 1, 1, 0]


def test_turned_signs_are_foretold_without_trying_any(digits: Dataset) -> None:
    """The linear layer's, whose inputs stay what they are when its own weights alone are wrong."""
    target = begun("binary")
    assert isinstance(target, nn.Sequential)
    images = digits.train.images[:50]
    risks = [binary.sign_errors(target, images, rate) for rate in (1e-3, 0.01, 0.05)]
    for name in risks[0]:
        assert risks[0][name] < risks[1][name] < risks[2][name]
    place, layer = next((place, layer) for place, layer in enumerate(target) if isinstance(layer, binary.BinaryLinear))
    simulator = Simulator(target)
    with torch.no_grad():
        inputs = target[:place](images)
        right = target[place : place + 3](inputs)
        turned = []
        for seed in range(20):
            read = simulator.weights(Chip(0.05, seed))[f"{place}.weight"]
            turned.append((target[place + 1 : place + 3](F.linear(inputs, read)) != right).double().mean().item())
    assert sum(turned) / 20 == pytest.approx(risks[2][str(place)], rel=0.1)
    assert layer.weight.shape[1] == 128


def test_the_margin_is_reached_and_no_more_is_asked(digits: Dataset) -> None:
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    fit(head, digits.train, Recipe(steps=150, lr=0.03, margin=1.0))
    with torch.no_grad():
        logits = head(digits.test.images)
    assert (logits.argmax(1) == digits.test.labels).double().mean() > 0.85
    assert 0.5 < logits.abs().median() < 3.0  # cross-entropy would go on


# shift and add


def test_an_add_layer_answers_with_distances_and_has_the_published_gradients() -> None:
    rng = torch.Generator().manual_seed(0)
    layer = shiftadd.AddConv2d(2)
    images = torch.randn(3, 2, 4, 4, generator=rng, requires_grad=True)
    windows = F.pad(images, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 1, 4, 5).reshape(48, 1, 18)
    filters = layer.weight.view(1, 2, 18)
    wanted = -(windows - filters).abs().sum(2).view(3, 4, 4, 2).permute(0, 3, 1, 2)
    assert torch.allclose(layer.eval()(images), wanted, atol=1e-5)
    found = layer.train()(images)
    assert torch.allclose(found, wanted, atol=1e-5)
    direction = torch.randn(found.shape, generator=rng)
    flat = direction.permute(0, 2, 3, 1).reshape(48, 2, 1)
    of_windows = (F.hardtanh(filters - windows) * flat).sum(1)
    (of_images,) = torch.autograd.grad(windows, images, of_windows[:, None])
    of_filters = ((windows - filters) * flat).sum(0)
    got = torch.autograd.grad(found, (images, layer.weight), direction)
    assert torch.allclose(got[0], of_images, atol=1e-4)
    assert torch.allclose(got[1].view(2, 18), of_filters, atol=1e-3)


def test_a_shift_layer_works_with_powers_of_two_alone() -> None:
    layer = shiftadd.ShiftLinear(50, 20, bias=False)
    layer.weight.data = torch.linspace(-1.3, 1.3, 1000).view(20, 50)
    read = layer(torch.eye(50)).T
    assert torch.equal(torch.log2(read.abs()), torch.log2(read.abs()).round())
    assert ((read / layer.weight) >= 2 / 3 - 1e-6).all()
    assert ((read / layer.weight) <= 4 / 3 + 1e-6).all()
    (gradient,) = torch.autograd.grad(read.sum(), layer.weight)
    assert torch.equal(gradient, torch.ones_like(gradient))


# powers of two times a basis


def test_random_weights_are_powers_of_two_times_a_basis_to_a_few_per_cent() -> None:
    matrices = torch.randn(40, 96, 3, generator=torch.Generator().manual_seed(0))
    coefficients, bases = smartexchange.decomposed(matrices)
    error = (coefficients @ bases - matrices).square().sum() / matrices.square().sum()
    assert error < 0.06
    used = coefficients[coefficients != 0].abs()
    assert torch.equal(torch.log2(used), torch.log2(used).round())
    assert used.max() <= 1.0
    assert used.min() >= 2.0**-5
    assert 0.02 < (coefficients == 0).double().mean() < 0.3
    exact = torch.tensor([1.0, -0.5, 0.25])[torch.randint(3, (5, 30, 3), generator=torch.Generator().manual_seed(1))]
    assert torch.allclose(torch.matmul(*smartexchange.decomposed(3.0 * exact)), 3.0 * exact, atol=1e-4)
    zeros = smartexchange.decomposed(torch.zeros(2, 6, 3))
    assert all(part.isfinite().all() for part in zeros)
    assert not (zeros[0] @ zeros[1]).any()


def test_exchanged_layers_answer_with_the_product_that_is_stored() -> None:
    target = begun("smartexchange")
    layers = [layer for layer in target.modules() if isinstance(layer, smartexchange.ExchangedLinear)]
    for layer in layers:
        wanted = (layer.coefficients @ layer.basis).flatten(1)[:, : layer.in_features]
        assert torch.equal(layer(torch.eye(layer.in_features)) - layer.bias, wanted.T + layer.bias - layer.bias)
    safe = Simulator(begun("smartexchange-safe")).weights(Chip(1.0, 0))
    assert not any(name.endswith("basis") for name in safe)


# spiking


def test_spikes_are_counted_and_bounds_change_nothing_while_nothing_is_wrong(digits: Dataset) -> None:
    images = digits.test.images[:60]
    bare = fit(spiking.Spiking(64, 10), digits.train, Recipe(steps=40, lr=1e-2))
    simulators = {}
    for bound in ("none", "zero", "limit", "usual"):
        target = spiking.Spiking(64, 10, bound)  # type: ignore[arg-type]
        target.load_state_dict(bare.state_dict())
        simulators[bound] = Simulator(target)
    with torch.no_grad():
        clean = {bound: simulator.logits(images, NOMINAL) for bound, simulator in simulators.items()}
        broken = {bound: simulator.logits(images, Chip(0.01, 0)) for bound, simulator in simulators.items()}
    assert torch.equal(clean["none"], clean["none"].round())
    assert 0 <= clean["none"].min() < clean["none"].max() <= 25
    right = {bound: (answers.argmax(1) == digits.test.labels[:60]).double().mean() for bound, answers in broken.items()}
    for bound in ("zero", "limit", "usual"):
        assert torch.equal(clean[bound], clean["none"])
        assert right[bound] > right["none"]


@pytest.mark.parametrize(("bound", "instead"), [("none", -3.0), ("zero", 0.0), ("limit", -1.0), ("usual", -0.5)])
def test_a_weight_beyond_the_largest_is_bounded_and_keeps_its_sign(bound: spiking.Bound, instead: float) -> None:
    layer = spiking.SpikingLinear(3, 1, bound, spare=2)
    layer.weight.data = torch.tensor([[0.5, -1.0, 0.25]])
    layer(torch.zeros(1, 3))
    layer.eval().weight.data = torch.tensor([[-3.0, 1.0, 0.25]])
    assert layer(torch.eye(3)).flatten().tolist() == [instead, 1.0, 0.25]


# sparse activations, and sharpness


def test_the_largest_share_of_each_image_survives() -> None:
    images = torch.rand(7, 4, 5, 5, generator=torch.Generator().manual_seed(0)) - 0.3
    found = sparse.Largest(0.25)(images)
    assert ((found != 0).flatten(1).sum(1) == 25).all()
    kept = found != 0
    assert torch.equal(found[kept], images[kept])
    assert (images.masked_fill(kept, -1.0).flatten(1).amax(1) <= found.masked_fill(~kept, 9.0).flatten(1).amin(1)).all()
    assert not sparse.Largest()(-images.abs()).any()


def test_a_sharp_step_takes_its_gradient_up_the_hill() -> None:
    rng = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 2, bias=False))
    images, wanted = torch.randn(6, 4, generator=rng), torch.randn(6, 2, generator=rng)

    def loss() -> Tensor:
        return (network(images) - wanted).square().mean()

    codes = {name: tensor.clone() for name, tensor in Simulator(network, Memory(bits=4)).weights(NOMINAL).items()}
    network.requires_grad_(True)
    before = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}

    def gradient(at: Mapping[str, Tensor]) -> dict[str, Tensor]:
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in at.items()}
        value = (torch.func.functional_call(network, leaves, (images,)) - wanted).square().mean()
        return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))

    uphill = gradient(codes)
    norm = torch.cat([part.flatten() for part in uphill.values()]).norm()
    expected = gradient({name: codes[name] + 0.3 * uphill[name] / norm for name in codes})
    Hardened(network, Hardening(Quantization(4), "weights", sharpness=0.3)).backward(loss)
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-6)  # type: ignore[arg-type]
        assert torch.equal(parameter, before[name])


def test_a_step_of_no_length_is_refused() -> None:
    with pytest.raises(InputError, match="`sharpness` must be greater than 0, got 0"):
        Hardening(sharpness=0.0)
    assert RECIPE.hardening is None
