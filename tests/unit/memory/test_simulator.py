"""Any network on any memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from backends.base import NOMINAL, Chip, InputError
from backends.memory.config import Memory, Quantization
from backends.memory.simulator import Simulator


class _Own(nn.Module):
    """Somebody's network: layers in lists and attributes, 1-D and transposed convolutions, two kinds of normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm1d(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4, affine=False)])
        self.up = nn.ConvTranspose1d(4, 4, 2, stride=2)
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, signals: Tensor) -> Tensor:
        hidden = self.first(signals)
        for norm in self.norms:
            hidden = norm(hidden)
        answers: Tensor = self.last(self.up(hidden.relu()).mean(2))
        return answers


@pytest.fixture
def own() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _Own()
        for norm in network.norms[:2]:
            nn.init.normal_(norm.weight, 1.0, 0.01)
            nn.init.normal_(norm.bias)
    return network


SIGNALS = torch.linspace(-1, 1, 5 * 2 * 6).view(5, 2, 6)
WEIGHTS = {"first.weight", "up.weight", "last.weight"}


def test_weights_of_convolutions_and_linear_layers_or_all_parameters_are_stored(own: nn.Module) -> None:
    assert set(Simulator(own).stored.slots) == WEIGHTS
    assert set(Simulator(own, Memory(stored="parameters")).stored.slots) == {name for name, _ in own.named_parameters()}
    assert set(Simulator(own, Memory("rquant", stored="weights")).stored.slots) == WEIGHTS


@pytest.mark.parametrize("quantization", ["neuralfuse", "normal", "rquant"])
def test_with_many_bits_the_stored_network_answers_like_the_network(own: nn.Module, quantization: str) -> None:
    simulator = Simulator(own, Memory(quantization, bits=16))  # type: ignore[arg-type]
    assert simulator.logits(SIGNALS, NOMINAL) == pytest.approx(own(SIGNALS), abs=1e-3)
    assert not torch.allclose(simulator.logits(SIGNALS, Chip(0.2, 0)), own(SIGNALS), atol=1e-2)


def test_the_scale_of_a_normalisation_is_stored_as_its_distance_from_one(own: nn.Module) -> None:
    stored = Simulator(own, Memory("normal")).stored
    distance = (own.get_parameter("norms.0.weight") - 1.0).abs().max()
    assert stored.slots["norms.0.weight"].code.step * 127 == pytest.approx(distance)


@pytest.mark.parametrize("errors", ["random", "stuck", "column", "neuralfuse-map"])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_memory_answers_by_chip_and_by_nothing_else(own: nn.Module, errors: str, bits: int) -> None:
    memory = Memory(errors=errors, bits=bits)  # type: ignore[arg-type]
    simulator = Simulator(own, memory)
    chips = [NOMINAL, Chip(0.2, 1), Chip(0.2, 2), Chip(1.0, 0)]
    answers = [simulator.logits(SIGNALS, chip) for chip in chips]
    for chip, answer in reversed(list(zip(chips, answers, strict=True))):
        assert torch.equal(Simulator(own, memory).logits(SIGNALS, chip), answer)
    assert not torch.equal(answers[1], answers[2])


@pytest.mark.parametrize("memory", [Memory(), Memory("rquant", errors="stuck")])
def test_many_chips_in_one_pass_answer_as_one_by_one(own: nn.Module, memory: Memory) -> None:
    simulator = Simulator(own, memory)
    chips = [NOMINAL, *(Chip(0.1, seed) for seed in range(5))]
    together = simulator.logits_of_all(SIGNALS, chips)
    assert together.shape == (6, 5, 3)
    for answer, chip in zip(together, chips, strict=True):
        assert answer == pytest.approx(simulator.logits(SIGNALS, chip), abs=1e-4)


def test_a_quantization_of_ones_own_replaces_the_preset(own: nn.Module) -> None:
    scheme = Quantization(5, symmetric=False, ranges="channel")
    stored = Simulator(own, Memory(), scheme).stored
    assert stored.slots["first.weight"].code.quantization == scheme
    assert stored.slots["first.weight"].code.step.shape == (4, 1, 1)


def test_old_chips_are_let_go_of(own: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(own)
    monkeypatch.setattr(simulator, "_room", 3 * 4 * simulator.stored.patterns.size)
    first = simulator.weights(Chip(0.1, 0))
    assert simulator.weights(Chip(0.1, 0)) is first
    for seed in range(1, 4):
        simulator.weights(Chip(0.1, seed))
    again = simulator.weights(Chip(0.1, 0))
    assert again is not first
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_a_network_with_nothing_to_store_is_refused_by_name() -> None:
    for network in (nn.Flatten(), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())):
        with pytest.raises(InputError, match=f"{type(network).__name__} has no convolution or linear layer"):
            Simulator(network)


def test_a_network_with_a_broken_weight_is_refused_by_name(own: nn.Module) -> None:
    own.get_parameter("up.weight").data[0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"up\.weight cannot be stored: it holds nan"):
        Simulator(own)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("errors", ["random", "stuck", "column", "neuralfuse-map"])
def test_a_chip_is_the_same_on_a_gpu(own: nn.Module, errors: str) -> None:
    memory = Memory(errors=errors)  # type: ignore[arg-type]
    here = Simulator(own, memory).weights(Chip(0.05, 3))
    there = Simulator(own.to("cuda"), replace(memory)).weights(Chip(0.05, 3))
    for name, weights in here.items():
        assert there[name].is_cuda
        assert torch.equal(there[name].cpu(), weights)


def test_threads_that_ask_at_once_get_their_own_chips_and_leave_the_network_alone(network: nn.Module) -> None:
    before = [p.clone() for p in network.parameters()]
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    chips = [NOMINAL, *(Chip(0.05, seed) for seed in range(5))]
    expected = [Simulator(network).logits(images, chip) for chip in chips]
    simulators = [Simulator(network), Simulator(network)]
    with ThreadPoolExecutor(8) as pool:
        asked = [(number % 2, number % len(chips)) for number in range(400)]
        found = list(pool.map(lambda one: simulators[one[0]].logits(images, chips[one[1]]), asked))
    assert all(torch.equal(answers, expected[chip]) for answers, (_, chip) in zip(found, asked, strict=True))
    assert all(torch.equal(p, was) for p, was in zip(network.parameters(), before, strict=True))
