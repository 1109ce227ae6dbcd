"""How a design across layers is measured: its networks, scores, costs and accuracies, and the fit under a limit on weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backends.base import NOMINAL, Chip
from backends.datasets.base import Dataset, Split
from backends.memory.config import Memory
from backends.memory.protection.cost import Cost
from backends.memory.protection.policy import Protection
from backends.memory.protection.simulator import ProtectedSimulator
from backends.training.augmentation import moved
from backends.training.recipe import LARGE_RECIPE, RECIPE
from bbfuse.config.schema import RunConfig
from experiments import cross_layer_designs
from experiments.cross_layer_designs import Design, DesignBench, constrained
from tests.helpers.studies.toys import TOY_SHAPE, toy_data, toy_network


def data(name: str) -> Dataset:
    """The toy with so many training images that every part of them is told apart."""
    rng = torch.Generator().manual_seed(4)
    images = torch.rand((701, *TOY_SHAPE), generator=rng) * 2 - 1
    return replace(toy_data(name), train=Split(images, torch.randint(3, (701,), generator=rng)))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DesignBench:
    monkeypatch.setattr(cross_layer_designs, "load", data)
    monkeypatch.setattr(cross_layer_designs, "fitted", lambda target, known: toy_network())
    monkeypatch.setattr(cross_layer_designs, "FOLDER", tmp_path / "runs" / "designs")
    return DesignBench("digits", "tiny", {}, validation_images=13, validation_chips=3, test_images=19, steps=2)


def test_the_setting_is_the_stated_one() -> None:
    assert cross_layer_designs.ARITHMETIC == 0.01
    assert cross_layer_designs.CLIPS == (1.0, 0.7, 0.5, 0.35, 0.25)
    assert cross_layer_designs.CALIBRATED == 50
    assert Design() == cross_layer_designs.UNPROTECTED == Design(Protection(), 1.0, 8, "none")
    assert Design(Protection("tmr", 1.0, 8, 8, 16)) == cross_layer_designs.FULL


@pytest.mark.parametrize(("name", "draws"), [("digits", 20), ("other", 4)])
def test_channels_are_ranked_on_training_images_of_their_own(
    name: str, draws: int, bench: DesignBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def from_gradients(*given: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        asked.append(given)
        return {"1": torch.arange(3.0)}, {"1": torch.arange(3.0) + 5}

    monkeypatch.setattr(cross_layer_designs, "from_gradients", from_gradients)
    mine = replace(bench, data=name)
    layers, scores = mine.known(1.0)
    assert mine.known(1.0)[0] is layers
    ((network, given, steps, images, drawn, rng),) = asked
    assert network is mine.network(1.0)
    assert given is layers
    train = data(name).train.images
    assert torch.equal(images, train[500:600])
    assert (drawn, rng.initial_seed()) == (draws, 0)
    layer = toy_network()[1]  # type: ignore[index]
    assert steps == {"1": pytest.approx(float(layer.weight.abs().max()) / 127, rel=1e-6)}
    results = layer(train[:500].flatten(1))
    assert torch.allclose(layers["1"].low, results.amin(0))
    assert torch.allclose(layers["1"].high, results.amax(0))
    assert (scores.weights["1"][1], scores.results["1"][1]) == (1.0, 6.0)


def test_a_limited_network_is_fitted_once_and_kept(bench: DesignBench, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[Any] = []

    def fit(network: nn.Module, part: Split, clip: float, steps: int) -> nn.Module:
        fits.append((len(part), clip, steps))
        return toy_network(9)

    monkeypatch.setattr(cross_layer_designs, "constrained", fit)
    assert torch.equal(bench.network(1.0)[1].weight, toy_network()[1].weight)  # type: ignore[index]
    assert fits == []
    wanted = toy_network(9)[1].weight  # type: ignore[index]
    again = replace(bench)
    for one in (bench, bench, again):
        limited = one.network(0.7)
        assert torch.equal(limited[1].weight, wanted)  # type: ignore[index]
        assert not limited.training
        assert not any(parameter.requires_grad for parameter in limited.parameters())
    assert fits == [(701, 0.7, 2)]
    assert [path.name for path in cross_layer_designs.FOLDER.iterdir()] == ["tiny-0.7-2.pt"]


def simulated(bench: DesignBench, design: Design) -> ProtectedSimulator:
    layers, scores = bench.known(design.clip)
    return ProtectedSimulator(toy_network(), layers, Memory(bits=design.bits), design.protection, scores, 0.01)


def right(logits: Tensor, part: Split) -> float:
    return float(np.mean(logits.argmax(1).numpy() == part.labels.numpy()))


CHIPS = [Chip(0.4, 50_000), Chip(0.4, 50_001), NOMINAL]


def test_accuracies_are_those_of_the_protected_hardware(bench: DesignBench) -> None:
    test, seen = data("digits").test, set()
    for design in (Design(bits=4), Design(Protection(inner=1, logic=3), bits=6)):
        simulator = simulated(bench, design)
        expected = [right(simulator.logits(test.images, chip), test) for chip in CHIPS]
        assert bench.accuracies(design, CHIPS, test) == pytest.approx(expected)
        seen.add(tuple(expected))
    assert len(seen) == 2
    assert all(len(set(expected)) > 1 for expected in seen)


def test_a_head_is_calibrated_on_each_chip_with_the_first_training_images(bench: DesignBench) -> None:
    test, first = data("digits").test, data("digits").train.images[:50]
    design = Design(bits=4, fuse="head")
    simulator = simulated(bench, design)
    clean = simulator.logits(first, NOMINAL).double()
    expected = []
    for chip in CHIPS:
        seen = simulator.logits(first, chip).double()
        z = (simulator.logits(test.images, chip).double() - seen.mean(0)) / seen.std(0, correction=0)
        expected.append(right(z * clean.std(0, correction=0) + clean.mean(0), test))
    assert bench.accuracies(design, CHIPS, test) == pytest.approx(expected)
    assert expected != pytest.approx(bench.accuracies(Design(bits=4), CHIPS, test))


class Flip(nn.Module):
    """A fuse with one layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).flip(3) * 0.5 - images


def test_a_fuse_changes_images_before_the_target_and_its_weights_are_paid(
    bench: DesignBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = Flip().requires_grad_(False)
    mine = replace(bench, fuses={"mine": RunConfig()})
    monkeypatch.setattr(DesignBench, "fuse", lambda self, name: {"mine": fuse}[name])
    test, design = data("digits").test, Design(bits=4, fuse="mine")
    headed = replace(test, images=fuse(test.images))
    assert mine.accuracies(design, CHIPS, test) == mine.accuracies(Design(bits=4, fuse="head"), CHIPS, headed)
    bare, priced = mine.price(Design(), 0.05), mine.price(Design(fuse="mine"), 0.05)
    assert priced.area > bare.area
    assert mine.price(Design(fuse="head"), 0.05) == bare


@pytest.mark.parametrize("begun", ["", "config.json", "summary.json"])
def test_a_fuse_s_run_is_begun_resumed_or_taken_as_it_lies_there(
    begun: str, bench: DesignBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[RunConfig] = []
    folder = cross_layer_designs.FOLDER / "tiny-fuse-mine"
    if begun:
        folder.mkdir(parents=True)
        (folder / begun).write_text("{}")
    loaded: list[Path] = []
    monkeypatch.setattr(cross_layer_designs, "execute", ran.append)
    monkeypatch.setattr(
        cross_layer_designs, "bbfuse", SimpleNamespace(load=lambda path: loaded.append(path) or SimpleNamespace(fuse=Flip()))
    )
    mine = replace(bench, fuses={"mine": RunConfig(budget=77)})
    assert mine.fuse("mine") is mine.fuse("mine")
    wanted = {"": [RunConfig(budget=77, out=folder)], "config.json": [RunConfig(resume=folder)], "summary.json": []}
    assert ran == wanted[begun]
    assert loaded == [folder]


def test_prices_are_relative_to_no_protection_at_nominal_voltage(bench: DesignBench, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bench.price(Design(), 0.0)
    assert (plain.area, plain.energy, plain.time) == (1.0, 1.0, 1.0)
    asked: list[tuple[Any, ...]] = []

    def cost(*given: Any) -> Cost:
        asked.append(given)
        return Cost(21.0, 5.0, 1.5) if len(asked) == 1 else Cost(6.0, 4.0, 3.0)

    monkeypatch.setattr(cross_layer_designs, "cost", cost)
    monkeypatch.setattr(cross_layer_designs, "chosen", lambda layers, scores, share, by: (scores["1"].tolist(), share, by))
    policy = Protection("ecc8", 0.3, 5, 2, 0, 0.6)
    assert bench.price(Design(policy, bits=5), 0.02) == Cost(3.5, 1.25, 1.5)
    layers, scores = bench.known(1.0)
    important, recomputed = (scores.weights["1"].tolist(), 0.3, "weights"), (scores.results["1"].tolist(), 0.6, "macs")
    assert asked[0] == (layers, 5, policy, important, recomputed, 0.02, None)
    same, bits, bare, none, other, rate = asked[1]
    assert (same, bits, bare, rate) == (layers, 8, Protection(), 0.0)
    assert none["1"].tolist() == other["1"].tolist() == [False] * 3


def test_validation_and_report_have_chips_and_images_of_their_own(bench: DesignBench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def accuracies(self: DesignBench, design: Design, chips: Any, part: Split) -> list[float]:
        asked.append((design, [*chips], part))
        return [0.25, 0.5, 0.9]

    monkeypatch.setattr(DesignBench, "accuracies", accuracies)
    design = Design(Protection(inner=3, restricted=True), 0.5, 6, "head")
    assert bench.validated(design, 0.05) == pytest.approx(0.55)
    assert bench.reported(design, 0.02, 4) == [0.25, 0.5, 0.9]
    assert bench.clean(design) == pytest.approx(0.55)
    assert bench.clean(replace(design, protection=Protection(restricted=True))) == pytest.approx(0.55)
    known = data("digits")
    bare = Design(Protection(restricted=True), 0.5, 6)
    for (asked_design, chips, part), (wanted, seeds, images) in zip(
        asked,
        [
            (design, [Chip(0.05, seed) for seed in (40_000, 40_001, 40_002)], known.validation.images[:13]),
            (design, [Chip(0.02, seed) for seed in range(50_000, 50_004)], known.test.images[:19]),
            (bare, [NOMINAL], known.validation.images[:13]),
        ],
        strict=True,
    ):
        assert (asked_design, chips) == (wanted, seeds)
        assert torch.equal(part.images, images)


def test_a_limited_fit_is_adam_with_a_falling_rate_projected_at_every_step() -> None:
    network, part, steps, clip = toy_network(), data("x").train, 4, 0.6
    first = [p.detach().clone().double() for p in network[1].parameters()]  # type: ignore[index]
    limit = clip * float(first[0].abs().max())
    state = torch.random.get_rng_state()
    found = constrained(network, part, clip, steps)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(network[1].weight, toy_network()[1].weight)  # type: ignore[index]
    weight, bias = first[0].clamp(-limit, limit), first[1]
    means, squares = ([torch.zeros(3, 12).double(), torch.zeros(3).double()] for _ in range(2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for step in range(steps):
            index = torch.randint(701, (128,))
            images, labels = moved(part.images[index], RECIPE).flatten(1).double(), part.labels[index]
            errors = ((images @ weight.T + bias).softmax(1) - nn.functional.one_hot(labels, 3)) / 128
            rate = 1e-3 * (1 - 0.95 * step / steps)
            for place, gradient in enumerate((errors.T @ images, errors.sum(0))):
                means[place] = 0.9 * means[place] + 0.1 * gradient
                squares[place] = 0.999 * squares[place] + 0.001 * gradient**2
                moved_by = (means[place] / (1 - 0.9 ** (step + 1))) / ((squares[place] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
                (weight, bias)[place].sub_(rate * moved_by)
            weight.clamp_(-limit, limit)
    assert torch.allclose(found[1].weight.double(), weight, atol=2e-6)  # type: ignore[index]
    assert torch.allclose(found[1].bias.double(), bias, atol=2e-6)  # type: ignore[index]
    assert float(found[1].weight.detach().abs().max()) <= limit * (1 + 1e-6)  # type: ignore[index]
    assert found.training
    assert (LARGE_RECIPE.bfloat16, RECIPE.bfloat16) == (True, False)
