"""How far onnxruntime may be from torch, without an export."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bbfuse.deploy.onnx import onnx_of


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], Tensor]], None]:
    """Let onnxruntime answer what a function says."""

    def answering(answer: Callable[[Tensor], Tensor]) -> None:
        def session(model: bytes, providers: list[str]) -> Any:
            assert (model, providers) == (b"model", ["CPUExecutionProvider"])
            return SimpleNamespace(run=lambda _, inputs: [answer(torch.from_numpy(inputs["x"])).numpy()])

        def made(*_: Any, **options: Any) -> Any:
            print("a remark")
            assert not logging.getLogger("any").isEnabledFor(logging.WARNING)
            assert logging.getLogger("any").isEnabledFor(logging.ERROR)
            assert (options["dynamo"], options["verbose"]) == (True, False)
            (axes,) = options["dynamic_shapes"]
            assert list(axes) == [0]
            assert (options["input_names"], options["output_names"]) == (["x"], ["y"])
            return SimpleNamespace(model_proto=SimpleNamespace(SerializeToString=lambda: b"model"))

        monkeypatch.setitem(sys.modules, "onnxscript", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=session))
        monkeypatch.setattr(torch.onnx, "export", made)

    return answering


class Scaled(nn.Module):
    """Gives numbers of 0.5 and -0.3, times ``scale``."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * torch.tensor([0.5, -0.3]).expand(len(images), 2)


class Levels(nn.Module):
    """Gives whole numbers."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 2), 100, dtype=torch.uint8)


SAMPLES = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("module", "apart", "equal"),
    [
        (Scaled(1.0), 0.0, True), (Scaled(1.0), 0.9e-4, True), (Scaled(1.0), -0.9e-4, True), (Scaled(1.0), 1.1e-4, False),
        (Scaled(1.0), -1.1e-4, False), (Scaled(-60.0), 2.9e-3, True), (Scaled(-60.0), 3.1e-3, False),
        (Scaled(1.0), float("nan"), False), (Levels(), 1, True), (Levels(), -1, True), (Levels(), 2, False),
        (Levels(), -2, False),
    ],
)  # fmt: skip
def test_numbers_may_differ_by_rounding_alone(
    module: nn.Module, apart: float, equal: bool, runtime: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(images: Tensor) -> Tensor:
        found: Tensor = module(images).clone()
        found[-1, -1] += apart
        return found

    runtime(answer)
    if equal:
        assert onnx_of(module, SAMPLES, ("x", "y")) == b"model"
    else:
        with pytest.raises(RuntimeError, match=r"^onnxruntime's numbers differ from torch's by "):
            onnx_of(module, SAMPLES, ("x", "y"))
    assert capsys.readouterr().out == ""
    assert logging.getLogger("any").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize(
    "answer",
    [
        lambda images: Scaled(1.0)(images).double(),
        lambda images: Scaled(1.0)(images)[:, :1],
        lambda images: Scaled(1.0)(images) + (len(images) == 1),
        lambda images: Scaled(1.0)(images) + (len(images) == 3),
    ],
)
def test_kind_shape_and_the_numbers_of_one_image_are_checked_too(
    answer: Callable[[Tensor], Tensor], runtime: Callable[..., None]
) -> None:
    runtime(answer)
    with pytest.raises(RuntimeError, match=r"^onnxruntime"):
        onnx_of(Scaled(1.0), SAMPLES, ("x", "y"))
