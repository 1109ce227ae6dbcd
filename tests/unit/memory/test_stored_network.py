"""A tiny network in a memory: what is stored, where, and what each chip makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backends.base import NOMINAL, Chip, InputError
from backends.memory import simulator as module
from backends.memory.config import Memory, Quantization
from backends.memory.encoding import store, store_by_codes
from backends.memory.faults import arrays
from backends.memory.faults import independent as chips
from backends.memory.number_formats import Binary, Code, PowersOfTwo
from backends.memory.simulator import Simulator, errors, scales, stored_tensors


class Speaker(nn.Module):
    """Says itself how two of its tensors are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.signs = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.inner = nn.Linear(3, 3)

    def codes(self) -> Mapping[str, Code]:
        return {"inner.weight": PowersOfTwo(4), "signs": Binary()}

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x) * self.signs
        return output


class Outer(Speaker):
    """Speaks for a speaker within."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Speaker())  # type: ignore[assignment]

    def codes(self) -> Mapping[str, Code]:
        return {"signs": Binary()}


def made(kind: type[nn.Module] = Speaker) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = nn.Sequential(
            nn.Conv1d(2, 3, 2),
            nn.BatchNorm1d(3),
            nn.Flatten(),
            nn.LayerNorm(6),
            nn.Linear(6, 3),
            kind(),
            nn.GroupNorm(1, 3, affine=False),
        )
        nn.init.normal_(net[1].weight, 1.0, 0.2)  # type: ignore[arg-type]
        nn.init.normal_(net[3].weight, 1.0, 0.2)  # type: ignore[arg-type]
        return net


SIGNALS = torch.linspace(-1, 2, 4 * 2 * 3).view(4, 2, 3)
WEIGHTS = ["0.weight", "4.weight"]
PARAMETERS = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "4.weight", "4.bias"]


def test_weights_or_parameters_are_stored_but_for_those_of_modules_that_speak() -> None:
    net = made()
    assert list(stored_tensors(net, "weights")) == WEIGHTS
    assert list(stored_tensors(net, "parameters")) == PARAMETERS
    assert stored_tensors(net, "weights")["0.weight"] is net[0].weight
    assert scales(net) == {"1.weight", "3.weight"}
    assert list(stored_tensors(made(Outer), "weights")) == WEIGHTS


def test_a_layer_alone_has_names_without_a_point_and_empty_tensors_are_left_out() -> None:
    assert list(stored_tensors(nn.Linear(2, 3), "weights")) == ["weight"]
    assert scales(nn.LayerNorm(3)) == {"weight"}
    assert scales(nn.Linear(2, 3)) == set()
    assert list(stored_tensors(nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1, bias=False)), "parameters")) == [
        "0.weight",
        "0.bias",
        "1.weight",
    ]
    empty = nn.Linear(2, 3)
    empty.weight = nn.Parameter(torch.zeros(0, 2))
    assert stored_tensors(empty, "weights") == {}
    (four, one) = Simulator(Speaker()).banks
    assert (list(four.slots), four.first, list(one.slots), one.first) == (["inner.weight"], 0, ["signs"], 36)


@pytest.mark.parametrize(
    ("memory", "names"),
    [
        (Memory(), WEIGHTS), (Memory("normal"), PARAMETERS), (Memory("rquant"), PARAMETERS),
        (Memory(stored="parameters"), PARAMETERS), (Memory("rquant", stored="weights"), WEIGHTS),
    ],
)  # fmt: skip
def test_a_preset_says_what_is_stored_unless_the_memory_does(memory: Memory, names: list[str]) -> None:
    assert list(Simulator(made(), memory).stored.slots) == names


@pytest.mark.parametrize("quantization", ["neuralfuse", "normal", "rquant"])
@pytest.mark.parametrize("bits", [4, 16])
def test_a_chip_flips_bits_of_codes_that_lie_one_bank_behind_the_other(quantization: Any, bits: int) -> None:
    net, chip = made(), Chip(0.2, 5)
    memory = Memory(quantization, bits, stored="parameters")
    rules = {"neuralfuse": (True, True, True), "normal": (True, True, False), "rquant": (False, False, True)}[quantization]
    first = store(
        {name: net.get_parameter(name) - float(name in ("1.weight", "3.weight")) for name in PARAMETERS},
        Quantization(bits, *rules),
    )
    rest = store_by_codes(
        {"5.inner.weight": net.get_parameter("5.inner.weight"), "5.signs": net.get_parameter("5.signs")},
        {"5.inner.weight": PowersOfTwo(4), "5.signs": Binary()}, first.end,
    )  # fmt: skip
    expected: dict[str, Tensor] = {}
    for bank in (first, *rest):
        read = bank.patterns.copy()
        chips.random_flips(bank, read, chip)
        expected |= bank.tensors(read)
    for name in ("1.weight", "3.weight"):
        expected[name] = expected[name] + 1.0
    found = Simulator(net, memory)
    assert [(bank.bits, bank.first, bank.end) for bank in found.banks] == [(b.bits, b.first, b.end) for b in (first, *rest)]
    torch.testing.assert_close(found.weights(chip), expected, rtol=0.0, atol=0.0)
    torch.testing.assert_close(found.logits(SIGNALS, chip), torch.func.functional_call(net, expected, (SIGNALS,)))
    for several in ([NOMINAL, chip, Chip(0.1, 1)], [chip]):
        each = torch.stack([found.logits(SIGNALS, one) for one in several])
        torch.testing.assert_close(found.logits_of_all(SIGNALS, several), each, rtol=1e-5, atol=1e-5)


def test_patterns_are_read_for_the_first_banks_and_the_others_are_as_written() -> None:
    simulator = Simulator(made())
    read = simulator.stored.patterns ^ np.uint8(1)
    found, plain = simulator.read(read), simulator.read()
    torch.testing.assert_close({name: found[name] for name in WEIGHTS}, simulator.stored.tensors(read))
    assert all(torch.equal(found[name], plain[name]) for name in ("5.inner.weight", "5.signs"))
    torch.testing.assert_close(plain, simulator.weights(NOMINAL), rtol=0.0, atol=0.0)


def test_a_quantization_of_ones_own_replaces_that_of_the_memory() -> None:
    scheme = Quantization(5, symmetric=False, ranges="channel")
    assert Simulator(made(), Memory("normal"), scheme).stored.quantization == scheme
    assert Simulator(made(), Memory("rquant", bits=3)).stored.quantization == Quantization(3, False, False)
    assert Simulator(made()).stored.quantization == Quantization()


def test_the_network_is_frozen_and_its_weights_stay_what_they_are() -> None:
    net = made().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    simulator = Simulator(net)
    simulator.logits(SIGNALS, Chip(0.3, 1))
    assert not any(part.training for part in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0.0, atol=0.0)


def test_the_chips_used_last_are_kept_as_far_as_there_is_room() -> None:
    simulator = Simulator(made())
    weights = 12 + 18 + 9 + 3
    assert (simulator._bytes, simulator._room) == (4 * weights, 256 * 2**20)
    simulator._room = 3 * 4 * weights
    kept = {seed: simulator.weights(Chip(0.1, seed)) for seed in range(3)}
    assert simulator.weights(Chip(0.1, 0)) is kept[0]
    simulator.weights(Chip(0.1, 3))
    assert list(simulator._kept) == [Chip(0.1, seed) for seed in (2, 0, 3)]
    again = simulator.weights(Chip(0.1, 1))
    assert again is not kept[1]
    torch.testing.assert_close(again, kept[1], rtol=0.0, atol=0.0)
    small = Simulator(made())
    small._room = 0
    for seed in (8, 9):
        last = small.weights(Chip(0.1, seed))
        assert small.weights(Chip(0.1, seed)) is last
        assert list(small._kept) == [Chip(0.1, seed)]


def test_half_of_a_gpus_memory_is_for_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 31))
    assert module._room(torch.device("cuda")) == 15
    assert module._room(torch.device("cpu")) == 268_435_456


def test_every_name_of_errors_is_the_kind_it_says(tmp_path: Any) -> None:
    kinds = {
        "random": chips.random_flips, "stuck": chips.stuck_cells, "stuck-at-0": chips.stuck_at_zero,
        "stuck-at-1": chips.stuck_at_one, "neuralfuse-map": arrays.neuralfuse_map,
    }  # fmt: skip
    for name, kind in kinds.items():
        assert errors(Memory(errors=name)) is kind  # type: ignore[arg-type]
    stored = store({"w": torch.linspace(-1, 1, 50)}, Quantization())
    np.savez(tmp_path / "chip.npz", rate=[0.2], to_one=np.eye(5)[None], to_zero=np.zeros((1, 5, 5)))
    memories = {
        Memory(errors="column", offset=77): arrays.Columns(77),
        Memory(errors="profile", profile=str(tmp_path / "chip.npz"), offset=3): arrays.Profile(tmp_path / "chip.npz", 3),
    }
    for memory, same in memories.items():
        one, other = stored.patterns.copy(), stored.patterns.copy()
        errors(memory)(stored, one, Chip(0.2, 4))
        same(stored, other, Chip(0.2, 4))
        assert one.tolist() == other.tolist()
        assert one.tolist() != stored.patterns.tolist()


def test_what_cannot_be_stored_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="ReLU has no convolution or linear layer with weights to store"):
        Simulator(nn.ReLU())

    class Wrong(Speaker):
        def codes(self) -> Mapping[str, Code]:
            return {"inner.nothing": Binary()}

    with pytest.raises(InputError, match=r"codes\(\) must name parameters and buffers, and 1.inner.nothing is none of"):
        Simulator(nn.Sequential(nn.Linear(3, 3), Wrong()))
