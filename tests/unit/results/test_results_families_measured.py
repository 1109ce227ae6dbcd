"""Which families are measured and how: arms, runs, accuracies by fit and chip, and the harm of one wrong bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from backends.base import NOMINAL, Chip
from backends.memory.config import Memory, Quantization
from backends.memory.simulator import Simulator
from backends.training.hardening import Hardening
from backends.training.recipe import Recipe
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig
from experiments import families
from experiments.families import ARMS, Arm
from tests.helpers.studies.toys import toy_data, toy_network

BOTH = ("random", "stuck-at-0", "stuck-at-1")


def test_the_arms_are_the_stated_ones() -> None:
    four = Quantization(4)
    expected = []
    for kind, target in (("standard", "digits"), ("sparse", "digits-sparse")):
        plain = Hardening(four, "weights")
        expected += [
            Arm("FlatENN", kind, target, None, 3, plain, 300, 4, BOTH),
            Arm("FlatENN", f"{kind}, twice the steps", target, None, 3, plain, 600, 4, BOTH),
            Arm("FlatENN", f"{kind}, SAQ", target, 0.033, 3, Hardening(four, "weights", sharpness=0.1), 300, 4, BOTH),
        ]
    expected += [Arm("SoftSNN", "unprotected", "spiking", 0.003)]
    expected += [Arm("SoftSNN", f"bound and protect {n}", f"spiking-bnp{n}") for n in (1, 2, 3)]
    expected += [
        Arm("SmartExchange", "all stored", "smartexchange", 0.01), Arm("SmartExchange", "safe basis", "smartexchange-safe"),
        Arm("ShiftAddNet", "shift codes", "shiftadd", 0.003), Arm("ShiftAddNet", "8-bit codes", "shiftadd-plain"),
        Arm("FTBNN", "none", "bireal", 0.033, 3), Arm("FTBNN", "prelu", "bireal-prelu", None, 3),
        Arm("RRAM binary", "plain", "binary", 0.1, 3, errors=BOTH),
        Arm("RRAM binary", "flip", "binary-flip", None, 3, errors=BOTH),
        Arm("RRAM binary", "margin", "binary-margin", None, 3, errors=BOTH),
    ]  # fmt: skip
    assert list(ARMS) == expected
    assert (Arm("a", "b", "c").fits, Arm("a", "b", "c").bits, Arm("a", "b", "c").one_sided_rates) == (1, 8, (0.033,))
    assert families.RATES == (0.0001, 0.001, 0.003, 0.01, 0.033, 0.1)
    assert list(families.CHIPS) == list(range(50_000, 50_010))
    assert list(families.FUSED_CHIPS) == [50_000, 50_001]
    assert (families.BUDGET, families.FITS, families.STEPS, families.SHARPNESS) == (5000, 3, 300, 0.1)


def test_an_arm_is_fitted_and_stored_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "load", toy_data)
    monkeypatch.setattr(families, "usual_recipe", lambda target, data: Recipe(77, lr=0.25))
    hardening = Hardening(clip=0.3)
    arm = Arm("a", "b", "c", hardening=hardening, bits=5)
    assert arm.recipe(4) == Recipe(77, lr=0.25, seed=4, hardening=hardening)
    assert replace(arm, steps=13).recipe(2) == Recipe(13, lr=0.25, seed=2, hardening=hardening)
    assert arm.memory() == Memory(bits=5)
    assert arm.memory("stuck-at-0") == Memory(bits=5, errors="stuck-at-0")


def test_the_runs_with_a_fuse_are_those_of_the_arms_that_have_a_rate_for_it() -> None:
    fused = {arm.variant: arm for arm in ARMS if arm.fused_rate is not None}
    assert list(fused) == ["standard, SAQ", "sparse, SAQ", "unprotected", "all stored", "shift codes", "none", "plain"]
    files = {"standard, SAQ": "FlatENN-standard-SAQ", "sparse, SAQ": "FlatENN-sparse-SAQ"}
    wanted = []
    for name, arm in fused.items():
        target = f"runs/families/{files[name]}.pt" if name in files else arm.target
        for chip in (50_000, 50_001):
            wanted.append(RunConfig(
                report=ReportConfig(share=1.0),
                target=target, memory=Memory(bits=4 if name in files else 8), bit_error_rate=arm.fused_rate, chip_seed=chip,  # type: ignore[arg-type]
                optimizer="follow", head="affine", budget=5000,
            ))  # fmt: skip
    assert [task.config for task in families.tasks()] == wanted
    assert families.tasks()[2].labels == {"family": "FlatENN", "variant": "sparse, SAQ"}
    assert ARMS[7].name == "SoftSNN-bound-and-protect-1"


TOY = Arm("Toy", "all stored", "tiny", fits=3, errors=("random", "stuck-at-1"), one_sided_rates=(0.2,))


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    written: list[Any] = []
    monkeypatch.setattr(families, "load", toy_data)
    monkeypatch.setattr(families, "usual_recipe", lambda target, data: Recipe(9))
    monkeypatch.setattr(families, "fitted", lambda target, data, recipe: toy_network(recipe.seed))
    monkeypatch.setattr(families, "RATES", (0.1, 0.3))
    monkeypatch.setattr(families, "CHIPS", (3, 5))
    monkeypatch.setattr(families, "write", lambda *given: written.append(given))
    monkeypatch.setattr(families, "_basis_power", lambda simulator, chips: float(len(chips)) + chips[0].seed / 10)
    return written


def share(seed: int, memory: Memory, chip: Chip) -> float:
    test = toy_data().test
    said = Simulator(toy_network(seed), memory).logits(test.images, chip).argmax(1)
    return float(np.mean(said.numpy() == test.labels.numpy()))


def test_rows_are_means_over_fits_and_chips_and_over_each_alone(toys: list[Any]) -> None:
    rows = list(families._measured(TOY))
    measured = [("random", 0.0), ("random", 0.1), ("random", 0.3), ("stuck-at-1", 0.2)]
    assert [(row["errors"], row["rate"]) for row in rows] == measured
    clean = float(np.mean([share(seed, Memory(), NOMINAL) for seed in range(3)]))
    for row in rows:
        rate = row["rate"]
        chips = [Chip(rate, 3), Chip(rate, 5)] if rate else [NOMINAL]
        found = np.array([[share(seed, Memory(errors=row["errors"]), chip) for chip in chips] for seed in range(3)])
        assert row["perturbed_mean"] == pytest.approx(found.mean())
        assert row["perturbed_sd"] == pytest.approx(found.std())
        assert row["by_fit"] == pytest.approx(found.mean(1).tolist())
        assert row["by_chip"] == pytest.approx(found.mean(0).tolist())
        assert row["clean"] == pytest.approx(clean)
        assert (row["chips"], row["fits"], row["bits_stored"]) == (len(chips), 3, 8 * 36)
        assert (row["family"], row["variant"], row["data"]) == ("Toy", "all stored", "digits")
        assert (row["fused_mean"], row["fused_chips"]) == (None, None)
        assert row["basis_power"] == (2.3 if rate else None)
        weight = toy_network()[1].weight.double()  # type: ignore[index]
        step = weight.abs().max() / 127
        # each of 8 bits moves a weight by so many steps
        codes = (weight / step).round()
        assert row["flip_error"] == pytest.approx(float(21_845 / 8 / (codes**2).mean()), rel=1e-5)
    assert toys == []
    assert list(families._measured(replace(TOY, variant="other")))[1]["basis_power"] is None


def test_a_hardened_target_is_kept_in_a_file_with_its_accuracy_on_validation_images(toys: list[Any]) -> None:
    arm = replace(TOY, hardening=Hardening(Quantization(4), "weights", sharpness=0.7), steps=6, bits=4, fits=1)
    first = next(families._measured(arm))
    assert first["bits_stored"] == 4 * 36
    ((path, kept),) = toys
    validation = toy_data().validation
    said = Simulator(toy_network(), Memory(bits=4)).logits(validation.images, NOMINAL).argmax(1)
    assert path == Path("runs/families/Toy-all-stored.pt")
    assert (kept.architecture, kept.image_shape, kept.classes) == ("tiny", (1, 3, 4), 3)
    assert kept.config == {"data": "digits", "device": "cpu", "steps": 6, "sharpness": 0.7}
    assert kept.validation_accuracy == pytest.approx(float((said == validation.labels).double().mean()))


def test_a_wrong_bit_is_weighed_in_the_narrowest_codes() -> None:
    codes = np.array([5, 0, 2], np.uint8)

    def tensors(read: Any = codes) -> dict[str, torch.Tensor]:
        return {"a": torch.tensor(read[:2] * 0.5), "b": torch.tensor(read[2:] + 1.0)}

    narrow = SimpleNamespace(bits=3, patterns=codes, tensors=tensors)
    wide = SimpleNamespace(bits=8, patterns=codes, tensors=lambda read=codes: {"c": torch.ones(1)})
    # of a: 1, 2 and 4 halves squared, twice, over (2.5^2 + 0) / 2; of b: 1, 4 and 16 over 9
    expected = (2 * (1 + 4 + 16) * 0.25 / 3.125 + 21 / 9) / (3 * 3)
    for banks in ([wide, narrow], [narrow, wide]):
        assert families._flip_error(SimpleNamespace(banks=banks)) == pytest.approx(expected, rel=1e-6)  # type: ignore[arg-type]


def test_the_basis_has_the_share_of_the_error_that_is_gone_without_its_own() -> None:
    rng = torch.Generator().manual_seed(2)
    seeds = {NOMINAL: 0, Chip(0.1, 4): 1, Chip(0.1, 7): 2}
    shapes = {
        "x.coefficients": (4, 5, 2),
        "x.basis": (4, 2, 3),
        "y.coefficients": (2, 7, 2),
        "y.basis": (2, 2, 2),
        "z.bias": (3,),
    }
    read = {chip: {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()} for chip in seeds}
    found = families._basis_power(SimpleNamespace(weights=read.__getitem__), list(seeds)[1:])  # type: ignore[arg-type]
    whole = alone = 0.0
    for chip in list(seeds)[1:]:
        for layer in ("x", "y"):
            parts = ("coefficients", "basis")
            wrong, right = ({part: read[at][f"{layer}.{part}"].double().numpy() for part in parts} for at in (chip, NOMINAL))
            product = np.einsum("nij,njk->nik", right["coefficients"], right["basis"])
            whole += np.sum((np.einsum("nij,njk->nik", wrong["coefficients"], wrong["basis"]) - product) ** 2)
            alone += np.sum((np.einsum("nij,njk->nik", wrong["coefficients"], right["basis"]) - product) ** 2)
    assert found == pytest.approx((whole - alone) / whole, rel=1e-5)


def test_rows_of_an_arm_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FOLDER", tmp_path / "a" / "b")
    counts: list[str] = []

    def measured(arm: Arm) -> Any:
        counts.append(arm.variant)
        yield {"rate": 0.25, "variant": arm.variant}

    monkeypatch.setattr(families, "_measured", measured)
    for variant in ("one, two", "one, two", "three"):
        assert families._cached(replace(TOY, variant=variant)) == [{"rate": 0.25, "variant": variant}]
    assert counts == ["one, two", "three"]
    assert json.loads((tmp_path / "a" / "b" / "Toy-one-two.json").read_text())[0]["rate"] == 0.25


def test_a_row_has_the_mean_of_its_own_runs_with_a_fuse(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr(torch, "set_num_threads", said.append)
    monkeypatch.setattr(families, "judged", lambda rows: rows)
    monkeypatch.setattr(families, "ARMS", (Arm("F", "one", "x", 0.1), Arm("F", "two", "y"), Arm("G", "one", "z", 0.2)))
    monkeypatch.setattr(families, "FUSED_CHIPS", (7, 8, 9))
    named = [("random", 0.1), ("random", 0.2), ("stuck-at-0", 0.1)]
    monkeypatch.setattr(families, "_cached", lambda arm: [
        {"family": arm.family, "variant": arm.variant, "errors": errors, "rate": rate, "fused_mean": None, "fused_chips": None}
        for errors, rate in named
    ])  # fmt: skip
    found = [0.5, 0.75, 0.625, 0.25, 0.5, 0.875]
    summaries = [{"accuracy": {"perturbed_fused": {"mean": mean}, "perturbed": {"mean": 0.1}}} for mean in found]
    monkeypatch.setattr(families, "run_all", lambda folder, tasks: (summaries, []))
    settings, rows = replace(families.RESULT, draw=lambda rows: said.append(len(rows))).compute()
    assert said == [1, 9]
    fused = [(row["fused_mean"], row["fused_chips"]) for row in rows]
    empty = (None, None)
    assert fused == [(0.625, 3), empty, empty, empty, empty, empty, empty, (pytest.approx(13 / 24), 3), empty]
    assert len(settings["runs"]) == 6
