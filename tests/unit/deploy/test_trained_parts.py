"""What a run was trained to, in use: the fuse, the head and the calibration of a chip, against their equations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.base import InputError
from bbfuse.config.schema import RunConfig
from bbfuse.deploy.trained import Trained, Uncalibrated
from bbfuse.fuse.module import Fuse
from bbfuse.heads.affine import Affine
from bbfuse.heads.base import Head
from tests.helpers.runs import run_folder

CLASSES = 10


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of(tensor: Tensor) -> Any:
    return tensor.detach().double().numpy()


def fuse() -> Fuse:
    made = Fuse("Filter", (1, 8, 8), torch.Generator().manual_seed(1))
    made.assign(0.1 * drawn(2, 26))
    return made


def affine() -> Affine:
    head = Affine(CLASSES, 0.0)
    with torch.no_grad():
        head.matrix.copy_(drawn(3, CLASSES, CLASSES))
        head.bias.copy_(drawn(4, CLASSES))
    head.spread.fill_(1.9)
    return head


def target(images: Tensor) -> Tensor:
    return images.flatten(1) @ drawn(5, 64, CLASSES) / 8.0


IMAGES = 0.6 * drawn(6, 7, 1, 8, 8).clamp(-1.6, 1.6)
NOTHING = torch.zeros(0, CLASSES)


@pytest.mark.parametrize("probabilities", [False, True])
def test_it_is_the_head_of_the_target_s_answers_to_the_fuse_s_images(probabilities: bool) -> None:
    loaded = Trained(RunConfig(chip_seed=3), fuse(), affine(), NOTHING, probabilities)
    fused = (IMAGES + torch.nn.functional.conv2d(IMAGES, drawn(2, 26)[:25].view(1, 1, 5, 5) * 0.1, padding=2)) + 0.1 * drawn(
        2, 26
    )[25]
    z = of(target(fused.clamp(-1.0, 1.0)))
    if probabilities:
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        z = np.log(np.maximum(p, 1e-8))
    expected = z @ of(affine().matrix).T / 1.9 + of(affine().bias)
    found = loaded(IMAGES, (lambda images: target(images).softmax(1)) if probabilities else target)
    np.testing.assert_allclose(of(found), expected, rtol=1e-4, atol=1e-5)
    assert loaded.response_kind == ("probabilities" if probabilities else "logits")
    assert not found.requires_grad
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.calibrating_images == 0
    assert loaded.classes == CLASSES
    assert "_reference" not in loaded.state_dict()


def test_by_default_a_target_answers_with_logits_and_no_head_leaves_probabilities_what_they_are() -> None:
    assert Trained(RunConfig(), fuse(), Head(), NOTHING).response_kind == "logits"
    shares = target(IMAGES).softmax(1)
    assert Trained(RunConfig(head="none"), fuse(), Head(), NOTHING, True)(IMAGES, lambda _: shares) is shares


STANDARDIZE = RunConfig(head="standardize")


def uncalibrated(probabilities: bool = False) -> Trained:
    return Trained(STANDARDIZE, fuse(), Uncalibrated(), drawn(8, 13, CLASSES), probabilities)


def test_before_it_is_calibrated_a_head_of_the_population_refuses_and_names_how_many_images_it_wants() -> None:
    loaded = uncalibrated()
    assert loaded.calibrating_images == 13
    with pytest.raises(
        InputError, match="is calibrated for each chip: call calibrate with the chip's responses first, or use the fuse alone"
    ):
        loaded(IMAGES, target)
    with pytest.raises(InputError, match="call calibrate"):
        uncalibrated(True)(IMAGES, target)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
def test_calibration_brings_the_chip_s_answers_to_mean_and_sd_of_the_reference(given: bool, probabilities: bool) -> None:
    loaded, raw = uncalibrated(probabilities), drawn(9, 13, CLASSES) * 2.0 + 0.7
    clean = drawn(10, 13, CLASSES) - 0.3
    if probabilities:
        raw, clean = raw.softmax(1), clean.softmax(1)
    loaded.calibrate(raw, clean if given else None)
    assert loaded.calibrating_images == 0
    z, m = (np.log(of(t)) if probabilities else of(t) for t in (raw, clean))
    m = m if given else of(drawn(8, 13, CLASSES))  # what the run kept is logits in either case
    new = target(IMAGES).softmax(1) if probabilities else target(IMAGES)
    asked = np.log(of(new)) if probabilities else of(new)
    expected = (asked - z.mean(0)) / z.std(0) * m.std(0) + m.mean(0)
    np.testing.assert_allclose(of(loaded(IMAGES, lambda _: new)), expected, rtol=1e-4, atol=1e-4)
    assert not loaded.head.training


def test_a_calibration_needs_two_rows_of_all_classes_for_both() -> None:
    loaded = uncalibrated()
    loaded.calibrate(drawn(9, 2, CLASSES), drawn(8, 2, CLASSES))
    for answers, reference in (
        (drawn(9, 1, CLASSES), drawn(8, 1, CLASSES)), (drawn(9, 12, CLASSES), None), (drawn(9, 5, 9), drawn(8, 5, 9)),
        (drawn(9, CLASSES), drawn(8, CLASSES)), (drawn(9, 5, CLASSES, 1), drawn(8, 5, CLASSES, 1)),
        (drawn(9, 5, CLASSES), drawn(8, 6, CLASSES)),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"at least 2 rows of 10: got \["):
            loaded.calibrate(answers, reference)
    for head in ("affine", "net", "none"):
        config = dataclasses.replace(STANDARDIZE, head=head, chip_seed=3)
        with pytest.raises(InputError, match=f"the head {head} of this run is not calibrated for other chips: use it as it is"):
            Trained(config, fuse(), Head(), NOTHING).calibrate(drawn(9, 5, CLASSES), drawn(8, 5, CLASSES))


@pytest.mark.parametrize(
    ("head", "chip_seed", "wanted"),
    [("none", 3, 0), ("none", None, 0), ("affine", 3, 0), ("net", 3, 0), ("standardize", None, 20)],
)
def test_a_folder_gives_the_head_of_its_chip_or_the_place_of_one(
    head: str, chip_seed: int | None, wanted: int, tmp_path: Path
) -> None:
    loaded = Trained.load(run_folder(tmp_path / "a", head, chip_seed))
    assert loaded.calibrating_images == wanted
    assert type(loaded.head).__name__ == {"none": "Head", "affine": "Affine", "net": "Net"}.get(head, "Uncalibrated")
    assert loaded.response_kind == "logits"
    saved = torch.load(tmp_path / "a" / "fuse.pt", weights_only=True)
    for name, value in loaded.fuse.state_dict().items():
        assert torch.equal(value, saved["fuse"][name])
    if head in ("affine", "net"):
        for name, value in loaded.head.state_dict().items():
            assert torch.equal(value, saved["heads"]["kept"][name])
    assert Trained.load(run_folder(tmp_path / "b", head, chip_seed, answers="probabilities")).response_kind == "probabilities"


def test_a_folder_whose_parts_do_not_fit_is_refused_with_the_flag_that_named_it(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a")
    saved = torch.load(folder / "fuse.pt", weights_only=True)
    saved["heads"]["kept"]["a part that no head has, with a name as long as this " * 5] = torch.zeros(3)
    torch.save(saved, folder / "fuse.pt")
    for flag, words in ((None, "folder"), ("--from", "--from")):
        with pytest.raises(InputError, match=rf"^{words} .*fuse.pt is not that of its config.json: ") as error:
            Trained.load(folder) if flag is None else Trained.load(folder, flag)
        assert "\n" not in str(error.value)
        assert len(str(error.value).partition("config.json: ")[2]) == 200
