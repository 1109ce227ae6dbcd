"""TorchScript and torch.export files on a chip, networks in the form of the user's data, and files from unknown places."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from backends.base import NOMINAL, Chip, InputError
from backends.datasets.base import Dataset
from backends.datasets.form import Form
from backends.kinds.base import BACKENDS, Opening
from backends.memory.config import Memory
from backends.memory.simulator import Simulator
from backends.settings import NoSettings
from backends.targets.digits import convolutions
from backends.targets.networks import build
from bbfuse.cli.run import main
from tests.helpers.onnx_models import sequential

CHIP = Chip(0.05, 0)
RNG = torch.Generator().manual_seed(0)
IMAGES = torch.rand(5, 1, 8, 8, generator=RNG) * 2 - 1


def script(network: nn.Module, path: Path) -> None:
    torch.jit.script(network).save(str(path))


def trace(network: nn.Module, path: Path) -> None:
    torch.jit.trace(network, IMAGES).save(str(path))


def export(network: nn.Module, path: Path) -> None:
    program = torch.export.export(network, (IMAGES[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, path)


def export_for_two(network: nn.Module, path: Path) -> None:
    torch.export.save(torch.export.export(network, (IMAGES[:2],)), path)


def decomposed(network: nn.Module, path: Path) -> None:
    torch.export.save(torch.export.export(network, (IMAGES[:2],)).run_decompositions(), path)


@pytest.mark.parametrize("which", ["weights", "parameters"])
@pytest.mark.parametrize(
    ("save", "suffix"),
    [(script, ".ts"), (trace, ".torchscript"), (export, ".pt2"), (export_for_two, ".pt2"), (decomposed, ".pt2")],
)
def test_it_has_the_bits_the_logits_and_the_gradients_of_the_network(
    save: Callable[..., None], suffix: str, which: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = convolutions(10, nn.BatchNorm2d, 4)
    network(IMAGES)  # statistics that are not those of a fresh norm
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(network, tmp_path / f"net{suffix}")
    memory = Memory(stored=which)
    direct = Simulator(network, memory)
    read = Simulator(build(str(tmp_path / f"net{suffix}"), (1, 8, 8), 10, trust=True), memory)
    assert np.array_equal(read.stored.patterns, direct.stored.patterns)
    found = []
    for simulator in (direct, read):
        images = IMAGES.clone().requires_grad_()
        both = [simulator.logits(images, chip) for chip in (CHIP, NOMINAL)]  # the second call must not change the first one's
        (both[0].square().sum() + both[1].sum()).backward()
        found.append([*both, images.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not torch.equal(found[0][0], found[0][1])


def test_a_trained_network_takes_inputs_in_the_form_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\nclass Own(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.last = nn.Linear(6, 3)\n"
        "    def forward(self, x):\n        assert x.shape[1:] == (2, 3, 1) and 0 <= x.min() and x.max() <= 255\n"
        "        return self.last(x.flatten(1) / 255)\n"
        "trained = Own()\ndef fresh(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(6, classes))\n"
    )
    form = Form(0.0, 255.0, channels_last=True, integers=True)
    network = build(f"{tmp_path}/mine.py:trained", (1, 2, 3), 3, form)
    inputs = torch.rand(4, 1, 2, 3, generator=RNG) * 2 - 1
    last = network.get_submodule("network.last")
    torch.testing.assert_close(network(inputs), last((inputs.flatten(1) + 1) / 2))
    assert Simulator(network).logits(inputs.requires_grad_(), CHIP).requires_grad
    fresh = build(f"{tmp_path}/mine.py:fresh", (1, 2, 3), 3, form)
    assert torch.equal(fresh(inputs), fresh[1](inputs.flatten(1)))  # type: ignore[index]


def test_an_onnx_model_gives_no_gradients(digits: Dataset, network: nn.Sequential, tmp_path: Path) -> None:
    path = str(sequential(tmp_path / "m.onnx", network, (1, 8, 8)))
    opening = Opening(path, digits, Memory(), "cpu", NoSettings(), print)
    for refused in (BACKENDS["whitebox"].open, BACKENDS["whitebox"].describe):
        with pytest.raises(InputError, match=r"m.onnx is run by onnxruntime, which has no gradients: choose `backend=local`$"):
            refused(opening)
    assert BACKENDS["local"].describe(opening).info.image_shape == (1, 8, 8)


class Bomb:
    """Executes code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("saved", ["pickle", "torch"])
@pytest.mark.parametrize("suffix", [".pt", ".ts", ".torchscript", ".pt2", ".onnx"])
def test_files_execute_nothing(suffix: str, saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, trace = tmp_path / f"bomb{suffix}", tmp_path / "executed"
    if saved == "torch":
        torch.save(Bomb(trace), path)
    else:
        path.write_bytes(pickle.dumps(Bomb(trace)))
    for plan in ([], ["--plan"]):
        assert main(["--target", str(path), "--budget", "4000", "--out", str(tmp_path / "run"), *plan]) == 2
        message = capsys.readouterr().err.strip()
        assert message.startswith(f"error: --target {path} ")
        assert "\n" not in message
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name]


def test_a_file_with_code_needs_trust_before_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "net.ts").write_bytes(b"anything")
    with pytest.raises(InputError) as error:
        build(f"{tmp_path}/net.ts", (1, 8, 8), 10)
    assert str(error.value) == (
        f"`target` {tmp_path}/net.ts holds code (TorchScript) that would be executed: give `trust=True` if you trust its origin"
    )
    with pytest.raises(InputError, match=r"net.ts cannot be read as a file of TorchScript: "):
        build(f"{tmp_path}/net.ts", (1, 8, 8), 10, trust=True)
    for suffix in (".ts", ".onnx", ".pt2"):
        with pytest.raises(InputError, match=r"absent.* cannot be read: there is no such file$"):
            build(f"{tmp_path}/absent{suffix}", (1, 8, 8), 10, trust=True)


def test_what_makes_no_network_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def scores(images):\n    return images.flatten(1)\n\ndef number(classes):\n    return 3\n")
    for name, words in (
        ("scores", "makes no network for 10 classes: AttributeError"),
        ("number", "must make an nn.Module, got int"),
    ):
        with pytest.raises(InputError, match=f"mine.py:{name} {words}.*; for a function of inputs choose `backend=function`$"):
            build(f"{tmp_path}/mine.py:{name}", (1, 8, 8), 10)
