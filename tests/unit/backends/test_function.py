"""Functions and estimators as targets: what they are handed, what they may return, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from torch import Tensor, nn

from backends.base import NOMINAL, Access, BackendInfo, Chip, InputError, TargetError
from backends.datasets.base import Dataset
from backends.datasets.form import Form
from backends.function import FunctionBackend, function_of
from backends.given import is_backend, resolve
from backends.kinds.base import BACKENDS, Opening
from backends.kinds.function import FunctionConfig
from backends.settings import NoSettings
from backends.simulated import SimulatedBackend
from backends.targets.base import TARGETS
from bbfuse.cli.run import main, parse
from bbfuse.config.checks import validate
from bbfuse.config.schema import RunConfig

SHAPE = (2, 3, 3)
RNG = torch.Generator().manual_seed(0)
IMAGES = torch.rand(5, *SHAPE, generator=RNG) * 2 - 1
SCORES = torch.randn(5, 4, generator=RNG)
MINE = """
import os

import numpy as np

from backends.simulated import SimulatedBackend
from backends.targets.digits import digits

calls = 0

def right(images):
    return np.asarray(images).reshape(len(images), -1)[:, 20:30]

def late(images):
    global calls
    calls += 1
    if calls > 3:
        raise OSError("cable\\nunplugged")
    return right(images)

backend = SimulatedBackend("mine", digits(10), (1, 8, 8), 10)
"""


def answer(function: Any, images: Tensor = IMAGES, sending: Any = lambda _: None, **options: Any) -> Tensor:
    return FunctionBackend("mine", function, SHAPE, 4, **options).query(images, Chip(0.1, 3), sending)


@pytest.mark.parametrize(
    "response",
    [
        SCORES, SCORES.double(), SCORES.numpy(), SCORES.tolist(), list(SCORES), tuple(SCORES.numpy()), SCORES.requires_grad_(),
        SCORES.detach().numpy().astype(np.float64),
    ],
)  # fmt: skip
def test_scores_may_be_tensors_arrays_or_lists(response: Any) -> None:
    found = answer(lambda _: response)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.equal(found, SCORES.detach())


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (SCORES[:4], "must return scores (5, 4) for 5 inputs, got the shape (4, 4)"),
        (SCORES[:, :3], "must return scores (5, 4) for 5 inputs, got the shape (5, 3)"),
        (SCORES.argmax(1), "got the shape (5,): return a score for every class, not a label"),
        (SCORES.argmax(1).tolist(), "got the shape (5,): return a score for every class, not a label"),
        ([["a"] * 4] * 5, "must return an array of numbers (5, 4): got list of <U1"),
        (None, "must return an array of numbers (5, 4): got NoneType of object"),
        ({"logits": SCORES}, "must return an array of numbers (5, 4): got dict of object"),
        ([[1.0, 2.0], [1.0]], "must return an array of numbers (5, 4): setting an array element with a sequence"),
        (SCORES.to(torch.complex64), "must return an array of numbers (5, 4): got complex numbers"),
    ],
)
def test_a_response_that_is_none_is_one_line(response: Any, words: str) -> None:
    with pytest.raises(TargetError) as error:
        answer(lambda _: response)
    assert str(error.value).startswith("`target` mine ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_too_large_are_infinities_for_the_ledger_to_refuse() -> None:
    assert answer(lambda images: np.full((len(images), 4), 1e300)).isinf().all()


def test_an_exception_is_one_line_but_an_interrupt_goes_through() -> None:
    def broken(_: Any) -> None:
        raise ValueError("no\n  power")

    def stopped(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(TargetError, match=r"^`target` mine raised ValueError: no power$"):
        answer(broken)
    with pytest.raises(KeyboardInterrupt):
        answer(stopped)


@pytest.mark.parametrize(
    ("form", "kind", "flat", "shape", "dtype"),
    [
        (Form(), "torch", False, (5, 2, 3, 3), torch.float32),
        (Form(), "numpy", True, (5, 18), np.float32),
        (Form(0.0, 255.0, channels_last=True, integers=True), "numpy", False, (5, 3, 3, 2), np.uint8),
        (Form(0.0, 1.0, channels_last=True), "torch", True, (5, 18), torch.float32),
    ],
)
def test_inputs_have_the_form_of_the_data(form: Form, kind: Any, flat: bool, shape: tuple[int, ...], dtype: Any) -> None:
    seen: list[Any] = []
    backend = FunctionBackend("mine", lambda x: (seen.append(x), SCORES)[1], SHAPE, 4, form, kind, flat)
    backend.query(IMAGES, NOMINAL, lambda _: None)
    assert isinstance(seen[0], np.ndarray if kind == "numpy" else Tensor)
    assert (tuple(seen[0].shape), seen[0].dtype) == (shape, dtype)
    expected = form.outward(IMAGES).reshape(shape)
    assert torch.equal(torch.as_tensor(seen[0]), expected)
    assert backend.info == BackendInfo("mine", Access.LOGITS, SHAPE, 4, form.integers)


def test_a_limit_splits_a_query_and_every_part_is_announced_before_it() -> None:
    log: list[Any] = []

    def first(images: Tensor) -> Tensor:
        log.append(("called", len(images)))
        return images.flatten(1)[:, :4]

    found = answer(first, sending=lambda count: log.append(("sent", count)), limit=2)
    assert log == [(word, count) for count in (2, 2, 1) for word in ("sent", "called")]
    assert torch.equal(found, IMAGES.flatten(1)[:, :4])


def test_only_a_function_with_that_parameter_gets_the_chip() -> None:
    assert torch.equal(answer(lambda x, chip: torch.full((len(x), 4), float(chip.seed))), torch.full((5, 4), 3.0))
    assert answer(lambda x, other=2: torch.full((len(x), 4), float(other)))[0, 0] == 2
    assert answer(torch.nn.functional.relu, IMAGES[:, 0, 0, 0].view(5, 1).expand(5, 4)).shape == (5, 4)


def test_a_network_is_called_in_evaluation_mode_and_stays_as_it_was() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(18, 4)).train()
    function = function_of(network, "mine")
    assert torch.equal(answer(function), answer(function))
    assert network.training


def test_estimators_become_functions_of_rows() -> None:
    rows, labels = IMAGES.flatten(1).numpy(), np.array([0, 1, 2, 3, 0])
    model = LogisticRegression().fit(rows, labels)
    found = answer(function_of(model, "mine"), kind="numpy", flat=True)
    assert torch.equal(found, torch.from_numpy(model.predict_proba(rows)).float())
    ridge = RidgeClassifier().fit(rows, labels)
    found = answer(function_of(ridge, "mine"), kind="numpy", flat=True)
    assert torch.equal(found, torch.from_numpy(ridge.decision_function(rows)).float())


def test_two_classes_have_two_scores_whose_difference_is_the_decision() -> None:
    rows = IMAGES.flatten(1).numpy()
    ridge = RidgeClassifier().fit(rows, [0, 1, 0, 1, 1])
    found = function_of(ridge, "mine")(rows)
    assert found.shape == (5, 2)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], ridge.decision_function(rows))
    assert (found.argmax(1) == ridge.predict(rows)).all()


@pytest.mark.parametrize("target", [3, "text", nn.Linear, type("Labels", (), {"predict": print})()])
def test_what_cannot_be_called_is_refused(target: Any) -> None:
    with pytest.raises(InputError, match=r"^`target` mine "):
        function_of(target, "mine")


def test_a_run_of_a_file_ends_with_its_report_and_a_failing_one_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    settings = "--backend function --function.input numpy --optimizer spsa --budget 4000 --report.images 60 --json"
    assert main([*settings.split(), "--target", "mine.py:right", "--out", "a"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["energy"] == {"voltage": None, "saving_bare": None, "saving": None, "saving_macs": None}
    assert summary["accuracy"]["clean"] == summary["accuracy"]["perturbed"]["mean"]
    assert main([*settings.split(), "--target", "mine.py:late", "--out", "b"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: --target mine.py:late raised OSError: cable unplugged; the training so far is saved, continue with --resume b"
    )
    monkeypatch.setattr(TARGETS["mine.py:late"], "__code__", TARGETS["mine.py:right"].__code__)  # type: ignore[arg-type]
    assert main(["--resume", "b", "--trust", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == summary["accuracy"]


@pytest.mark.parametrize(
    ("estimator", "settings", "kind", "shape"),
    [
        (False, FunctionConfig(), Tensor, (3, 1, 8, 8)), (False, FunctionConfig(input="numpy"), np.ndarray, (3, 1, 8, 8)),
        (True, FunctionConfig(), np.ndarray, (3, 64)), (True, FunctionConfig(input="torch", flat=False), Tensor, (3, 1, 8, 8)),
        (False, FunctionConfig(flat=True, limit=3, repeatable=False), Tensor, (3, 64)),
    ],
)  # fmt: skip
def test_the_kind_hands_over_what_its_settings_say(
    estimator: bool, settings: FunctionConfig, kind: type, shape: tuple[int, ...], digits: Dataset
) -> None:
    seen: list[Any] = []

    def scores(inputs: Any) -> Any:
        seen.append(inputs)
        return np.zeros((len(inputs), 10))

    target: Any = SimpleNamespace(predict_proba=scores) if estimator else scores
    name = TARGETS.adopt(target)
    backend = BACKENDS["function"].open(Opening(name, digits, None, "cpu", settings, print))
    assert backend.info.name == ("simplenamespace" if estimator else "scores")
    assert (backend.info.limit, backend.info.repeatable) == ((3, False) if settings.limit else (None, True))
    backend.query(digits.test.images[:3], NOMINAL, lambda _: None)
    assert isinstance(seen[0], kind)
    assert seen[0].shape == shape


def test_an_object_grants_what_it_declares(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    for name, access in ((f"{tmp_path}/mine.py:backend", Access.LOGITS), (f"{tmp_path}/mine.py:right", Access.LOGITS)):
        assert BACKENDS["object"].granted(name) == access
    TARGETS[f"{tmp_path}/mine.py:backend"].info = BackendInfo("mine", Access.GRADIENTS, (1, 8, 8), 10)  # type: ignore[union-attr]
    relaxed = RunConfig(backend="object", target=f"{tmp_path}/mine.py:backend", optimizer="backprop", chip_seed=0)
    validate(relaxed)
    with pytest.raises(InputError, match="needs gradients, but `backend=object` grants logits only"):
        validate(relaxed.replaced(target="digits"))
    assert parse(["--backend", "object"]).backend == "object"


def test_an_object_is_opened_and_stays_open(tmp_path: Path, digits: Dataset) -> None:
    class Closed(SimulatedBackend):
        def close(self) -> None:
            pytest.fail("it belongs to the user")

    mine = Closed("mine", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), 10)
    opened = BACKENDS["object"].open(Opening(TARGETS.adopt(mine), digits, None, "cpu", NoSettings(), print))  # type: ignore[arg-type]
    images = digits.test.images[:4]
    assert opened.info == mine.info
    assert torch.equal(opened.query(images, NOMINAL, lambda _: None), mine.query(images, NOMINAL, lambda _: None))
    opened.close()
    with pytest.raises(InputError, match=r"^`target` digits must have info, query and close, as a backend has: give a backend$"):
        BACKENDS["object"].open(Opening("digits", digits, None, "cpu", NoSettings(), print))


def test_what_python_users_pass_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    network, estimator = nn.Linear(3, 2), LogisticRegression()
    backend = SimulatedBackend("mine", network, (3,), 2)
    for target, kind in ((network, "local"), (estimator, "function"), (answer, "function"), (backend, "object")):
        assert resolve(target) == (kind, target)
    for name in ("digits", "digits+digits-bn", "x/y.onnx", "y.pt", f"{tmp_path}/mine.py:right"):
        assert resolve(name) == ("local", name)
    assert resolve(tmp_path / "y.pt2") == ("local", str(tmp_path / "y.pt2"))
    assert resolve("https://a.example/v2") == ("remote", "https://a.example/v2")
    assert resolve(f"{tmp_path}/mine.py:backend") == ("object", f"{tmp_path}/mine.py:backend")
    for wrong in (3, None, nn.Linear, "digit", "x.txt", {"a": 1}):
        with pytest.raises(InputError, match=r"^`target` must be "):
            resolve(wrong)


def test_a_backend_is_an_object_with_all_three_parts() -> None:
    info = BackendInfo("mine", Access.LOGITS, (3,), 2)
    whole = {"info": info, "query": lambda *_: None, "close": lambda: None}
    assert is_backend(SimpleNamespace(**whole))
    assert not is_backend(type("Whole", (), whole))
    for name in whole:
        assert not is_backend(SimpleNamespace(**{**whole, name: 3}))
        assert not is_backend(SimpleNamespace(**{key: value for key, value in whole.items() if key != name}))
