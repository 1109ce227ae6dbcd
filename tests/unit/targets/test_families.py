"""The families of targets: each is a backend like any other, and is stored as it says."""

from __future__ import annotations

import copy

import pytest
import torch

from backends.base import NOMINAL, Access, Chip
from backends.datasets.base import Dataset
from backends.memory.simulator import Simulator
from backends.simulated import SimulatedBackend
from backends.targets import networks
from backends.targets.base import TARGETS, image_shape_of
from backends.testing import check_backend
from tests.helpers.families import begun, short

pytestmark = pytest.mark.usefixtures("seeded")

DENSE = {"digits", "digits-bn", "digits-gn"}
FAMILIES = [name for name in TARGETS if image_shape_of(name) == (1, 8, 8) and name not in DENSE]
WIDTHS = {
    "digits-sparse": {8: 25104}, "binary": {1: 80160}, "bireal": {8: 712, 1: 6336}, "shiftadd": {5: 15248, 8: 20736},
    "shiftadd-plain": {8: 15248 + 20736}, "smartexchange": {4: 25188, 8: 1530}, "smartexchange-safe": {4: 25188},
    "spiking": {8: 9472},
}  # fmt: skip
"""Numbers stored by the bits of their codes."""


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_a_backend_like_any_other(name: str, digits: Dataset) -> None:
    # with more bit errors all activations behind the last layer that adds are 0, on any chip
    chips = [NOMINAL, Chip(1e-3, 0), Chip(1e-3, 1), Chip(1.0, 2)]
    strict = SimulatedBackend("digits", begun(name), (1, 8, 8), 10)
    for chip in chips:
        images = digits.test.images[:40]
        assert torch.equal(strict.query(images, chip, lambda _: None), Simulator(begun(name)).logits(images, chip))
    relaxed = SimulatedBackend("digits", begun(name), (1, 8, 8), 10, access=Access.GRADIENTS)
    for backend in (strict, relaxed):
        check_backend(backend, digits.test.images[:8], chips, begun(name))
    images = digits.test.images[:20].clone().requires_grad_()
    relaxed.query(images, NOMINAL, lambda _: None).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["binary-flip", "shiftadd", "smartexchange", "spiking"])
def test_fitting_a_family_is_the_same_every_time(name: str) -> None:
    first, second = begun(name).state_dict(), short(name).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_memory_gives_back_is_stored_as_itself(name: str) -> None:
    """Also with wrong bits in it, wherever the format is one of its own."""
    simulator = Simulator(begun(name))
    own = {key for bank in simulator.banks for key, slot in bank.slots.items() if bank.bits < 8 and slot.shape}
    read = simulator.weights(Chip(0.1, 3))
    again = networks.build(name, (1, 8, 8)).eval().requires_grad_(False)
    again.load_state_dict({**begun(name).state_dict(), **{key: value for key, value in read.items() if key in own}})
    stored = Simulator(again).weights(NOMINAL)
    assert all(torch.equal(stored[key], read[key]) for key in own)


@pytest.mark.parametrize("name", WIDTHS)
def test_what_is_stored_has_so_many_codes_of_so_many_bits(name: str) -> None:
    found: dict[int, int] = {}
    for bank in Simulator(begun(name)).banks:
        found[bank.bits] = found.get(bank.bits, 0) + bank.patterns.size
    assert found == WIDTHS[name]


@pytest.mark.parametrize("name", ["binary", "bireal-prelu", "shiftadd", "smartexchange", "digits-sparse"])
def test_many_chips_in_one_pass(name: str, digits: Dataset) -> None:
    """In double precision: with the largest quarter of the activations, or with signs, the last digit of a single one decides
    which of two nearly equal activations survives, and it depends on the processor."""
    simulator, images = Simulator(copy.deepcopy(begun(name))), digits.test.images[:5].double()
    simulator._network.double()
    chips = [NOMINAL, Chip(0.01, 1), Chip(0.01, 2)]
    weights = [{name: tensor.double() for name, tensor in simulator.weights(chip).items()} for chip in chips]
    simulator.weights = lambda chip: weights[chips.index(chip)]  # type: ignore[method-assign]
    with torch.no_grad():
        together = simulator.logits_of_all(images, chips)
        one_by_one = torch.stack([simulator.respond(images, read) for read in weights])
    torch.testing.assert_close(together, one_by_one, rtol=1e-9, atol=1e-9 * float(one_by_one.abs().max()))
    assert not torch.equal(together[0], together[1])
