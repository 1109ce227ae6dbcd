"""What cannot work is refused by one line that names the thing and the way out; nothing half-written is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bbfuse
from bbfuse.result import Result
from tests.unit.interface.conftest import Arrays

Given = Callable[[nn.Module, Any, Any], dict[str, Any]]
"""Arguments of `fit` from a network, images and labels that fit each other."""

ROWS = "must have an axis of inputs and one or more of values"
NO_DATA = "must be (inputs, labels), inputs alone, a dictionary of parts, a data set or loader, a name or a file, got "
NO_TARGET = "must be an nn.Module, a function, a scikit-learn classifier, a file (.pt, .onnx, .pt2, .ts, .torchscript), a URL"
NO_NETWORK = "must make a network from (1, 8, 8) to (1, 8, 8), as a function of that shape: "


def right(images: Tensor) -> Tensor:
    """Scores of four classes: a pixel of each bright row."""
    return images.flatten(1)[:, :32:8]


def spoilt(images: Any, value: float) -> Any:
    return np.where(np.arange(images.size).reshape(images.shape) == 70, value, images)


def setting(**settings: Any) -> Given:
    return lambda own, x, y: settings


REFUSED: dict[str, tuple[Given, str]] = {
    "a row": (lambda own, x, y: {"data": (x.ravel(), y)}, ROWS),
    "no images": (lambda own, x, y: {"data": (x[:0], y[:0])}, ROWS),
    "another shape": (lambda own, x, y: {"data": (x[..., :7], y)}, "does not take images (1, 8, 7): RuntimeError: mat1"),
    "a wide range": (lambda own, x, y: {"data": (3 * x, y)}, "give `value_range=(low, high)`"),
    "outside": (lambda own, x, y: {"data": (3 * x, y), "value_range": (0, 1)}, "must lie in `value_range` (0, 1), got 0 to 3"),
    "no range": (setting(value_range=1), "`value_range` must be two numbers (low, high), got 1"),
    "complex": (lambda own, x, y: {"data": (x * 1j, y)}, "must be numbers of one size, got an array of type complex"),
    "NaN": (lambda own, x, y: {"data": (spoilt(x, np.nan), y)}, "must be finite, got 1 values that are not, the first in in"),
    "mixed sizes": (lambda own, x, y: {"data": ([x[0], x[1, :, 1:]], y[:2])}, "must be one array, all of one size, got "),
    "one class": (lambda own, x, y: {"data": (x, 0 * y)}, "labels must be of two classes or more, got 0 alone: add others"),
    "other lengths": (lambda own, x, y: {"data": (x, y[:300])}, "must be one for each input, got 300 for 320 inputs"),
    "half a label": (lambda own, x, y: {"data": (x, y + 0.5)}, "labels of train must be whole numbers, got 0.5"),
    "no labels": (lambda own, x, y: {"data": x}, "has no labels: give them, or set `labels=target`"),
    "no classes": (lambda own, x, y: {"data": x, "labels": "target"}, "`classes` must be given, how many the target has"),
    "classes in words": (setting(classes="4"), "`classes` must be a whole number of 2 or more, got 4"),
    "one class set": (setting(classes=1), "`classes` must be a whole number of 2 or more, got 1"),
    "true classes": (setting(classes=True), "`classes` must be a whole number of 2 or more, got True"),
    "layout in words": (setting(channels_last="yes"), "`channels_last` must be True or False, or None to recognise it, got yes"),
    "one share": (setting(split=0.5), "`split` must be three shares for train, validation and test that add up to 1, got 0.5"),
    "an unknown label": (
        lambda own, x, y: {"data": {"train": (x[:200], y[:200] % 3), "test": (x[200:], y[200:])}},
        "classes of test must be in train, got 3",
    ),
    "five classes": (lambda own, x, y: {"data": (x, y + 1)}, "must give logits (2, 5) for two images, got the shape (2, 4)"),
    "data that are a number": (setting(data=7), f"`data` {NO_DATA}int"),
    "data that are a function": (setting(data=right), f"`data` {NO_DATA}function"),
    "an empty dictionary": (setting(data={}), "`data` must hold images and labels, x and y, or x_train, y_train, x_test and "),
    "data of no name": (setting(data="digist"), "`data` must be digits, module:attribute, FILE.npz, a folder, or a hub id"),
    "a number": (setting(target=7), f"`target` {NO_TARGET}, a name or a backend, got int"),
    "a class": (setting(target=nn.Linear), f"`target` {NO_TARGET}, a name or a backend, got type"),
    "half a backend": (
        setting(target=type("Half", (), {"info": 3, "query": right, "close": print})()), "a name or a backend, got Half",
    ),
    "a target of no name": (setting(target="digist"), "got digist, did you mean digits?"),
    "no weights": (
        setting(target=nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(4))),
        "has no convolution or linear layer with weights to store: choose `no_chip`, chip=None in Python",
    ),
    "no file": (setting(target="absent.onnx"), "`target` absent.onnx cannot be read: there is no such file"),
    "no model": (setting(target="text.onnx"), "`target` text.onnx is no valid ONNX model"),
    "no checkpoint": (setting(target="text.pt"), "`target` text.pt is damaged, or no file of"),
    "code": (setting(target="text.ts"), "holds code (TorchScript) that would be executed: give `trust=True`"),
    "no server": (setting(target="http://127.0.0.1:9"), "`remote.url` http://127.0.0.1:9 cannot be reached"),
    "a rate alone": (setting(chip=0.05), "`chip` must be a bbfuse.Chip, a bbfuse.Population or None, got 0.05"),
    "a misspelt setting": (setting(budgte=1), "fit has no setting `budgte`, did you mean `budget`?"),
    "a misspelt part": (setting(spsa={"cc": 1}), "`spsa.cc` is unknown: `spsa` has step, c, alpha, gamma, pairs"),
    "settings of another": (setting(spsa=bbfuse.Chip(0.1)), "`spsa` must be an instance of SpsaConfig, got Chip("),
    "a small budget": (setting(budget=10), "`budget=10` does not allow one step: 520 images go to all but the training"),
    "a budget in words": (setting(budget="many"), "`budget` must be a valid integer, got many"),
    "labels as a setting": (lambda own, x, y: {"labels": y}, "`labels` must be 'given' or 'target', got [0 1 2 3 0 1 2 3"),
    "too many images": (setting(images=1_000), "`images` must lie in [10, 240] for data, got 1000"),
    "an unknown optimizer": (setting(optimizer="spda"), "got spda, did you mean spsa?"),
    "no optimizer": (setting(optimizer=dict), "`optimizer` builtins:dict must be a class derived from Optimizer, got dict"),
    "a made head": (setting(head=nn.Linear(4, 4)), "must be a class derived from Head, got an object of Linear"),
    "no backend": (setting(backend=3), "`backend` object:int must be a class derived from BackendKind, got an object of int"),
    "a made generator": (setting(generator=nn.Conv2d(1, 1, 3)), f"`generator` object:conv2d {NO_NETWORK}TypeError: conv2d()"),
    "a generator of three channels": (setting(generator=lambda _: nn.Conv2d(3, 1, 1)), f"{NO_NETWORK}RuntimeError: Given groups"),
    "a generator that shrinks": (setting(generator=lambda _: nn.Conv2d(1, 1, 3)), f"{NO_NETWORK}TypeError: got outputs (1, 6"),
    "a generator of nothing": (
        setting(generator=lambda _: nn.Identity()), f"{NO_NETWORK}TypeError: got Identity without a layer with weight and bias",
    ),
    "a server for objects": (setting(backend="remote"), "starts a server in another process, which object:sequential"),
    "gradients": (setting(optimizer="backprop"), "needs gradients, but `backend=local` grants logits only: choose `backend"),
    "one callback": (setting(callbacks=bbfuse.callbacks.Callback()), "`callbacks` must be a list of objects derived from Call"),
    "a print as callback": (setting(callbacks=[print]), "`callbacks` must be a list of objects derived from Callback, got [<bu"),
    "out of no name": (setting(out=3), "`out` must be an instance of Path, got 3"),
    "no run": (setting(resume="absent"), "`resume` absent holds no run that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    name: str, own: nn.Module, arrays: Arrays, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix in ("onnx", "pt", "ts"):
        Path(f"text.{suffix}").write_text("no model")
    before = sorted(tmp_path.rglob("*"))
    make, words = REFUSED[name]
    given = {"target": own, "data": arrays, "chip": bbfuse.Chip(0.2, 3), **quick, **make(own, *arrays)}
    with pytest.raises(bbfuse.InputError) as error:
        bbfuse.fit(**{key: value for key, value in given.items() if "resume" not in given or key in ("target", "data", "resume")})
    message = str(error.value)
    assert words in message
    assert "`" in message or "fit" in message
    assert "\n" not in message
    assert sorted(tmp_path.rglob("*")) == before


class Failing:
    """`right`, but not in the call number ``at``."""

    def __init__(self, wrong: Callable[[Tensor], Any], at: int) -> None:
        self._wrong, self._left = wrong, at

    def __call__(self, images: Tensor) -> Any:
        self._left -= 1
        return self._wrong(images) if self._left == 0 else right(images)


def broken(images: Tensor) -> Tensor:
    raise OSError("cable\nunplugged")


FAILS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "raises": (broken, "raised OSError: cable unplugged"),
    "misses a row": (lambda images: right(images)[1:], "must return scores (16, 4) for 16 inputs, got the shape (15, 4)"),
    "misses a class": (lambda images: right(images)[:, 1:], "must return scores (16, 4) for 16 inputs, got the shape (16, 3)"),
    "has one more class": (lambda images: images.flatten(1)[:, :40:8], "for 16 inputs, got the shape (16, 5)"),
    "returns NaN": (lambda images: right(images) / 0 * 0, "responded with logits that are not finite (NaN or infinity)"),
    "returns one infinity": (lambda images: right(images) - (images.flatten(1)[:, :4] < 0.2) * np.inf, "not finite"),
    "returns labels": (lambda images: right(images).argmax(1), "(16,): return a score for every class, not a label"),
    "returns words": (lambda images: [["a"] * 4] * len(images), "must return an array of numbers (16, 4): got list of <U1"),
    "returns nothing": (lambda images: None, "must return an array of numbers (16, 4): got NoneType"),
}


@pytest.mark.parametrize("name", FAILS)
def test_a_target_that_fails_leaves_a_run_that_goes_on(
    name: str, whole: Result, arrays: Arrays, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong, words = FAILS[name]
    with pytest.raises(bbfuse.TargetError) as error:
        bbfuse.fit(Failing(wrong, 4), arrays, **quick)
    message, (folder,) = str(error.value), (tmp_path / "runs").iterdir()
    assert words in message
    assert message.startswith(("`target` failing ", "failing responded "))
    assert message.endswith(f"continue with `resume=runs/{folder.name}`")
    assert "\n" not in message
    assert not (folder / "summary.json").exists()
    resumed = bbfuse.fit(right, arrays, resume=folder)
    assert resumed.summary["accuracy"] == whole.summary["accuracy"]
    assert resumed.summary["queries"]["images"] >= whole.summary["queries"]["images"]


@pytest.fixture(scope="module")
def whole(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The same run with a target that never fails."""
    return bbfuse.fit(  # type: ignore[no-any-return]
        right, arrays, optimizer="spsa", budget=1_500, validation={"images": 20, "times": 2}, report={"images": 40},
        out=tmp_path_factory.mktemp("whole") / "run",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        (7, {}, f"`data` {NO_DATA}int"),
        (None, {"optimizer": "backprop"}, "needs gradients, but `backend=bench` grants logits only"),
        (None, {"generator": lambda _: None}, f"{NO_NETWORK}TypeError: got NoneType"),
        (None, {"callbacks": []}, "fit has no setting `callbacks`"),
        (None, {"folder": "there"}, "`out` there is not empty: choose another folder"),
        (None, {"chip": 3}, "`chip` must be a bbfuse.Chip, a bbfuse.Population or None, got 3"),
    ],
)
def test_a_session_refuses_likewise(
    data: Any, settings: dict[str, Any], words: str, arrays: Arrays, quick: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there/file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(bbfuse.InputError) as error:
        bbfuse.Session(data or arrays, **{"folder": "new/session", **quick, **settings})
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("folder", "components", "words"),
    [
        ("absent", {}, "absent holds no fuse.pt: give the folder of a run that has ended"),
        ("absent", {"generator": nn.Identity}, "`folder` absent holds no run that can be read"),
        (
            "run",
            {"budget": nn.Identity},
            "`budget` is no component: give backend, optimizer, head, generator, grow, target, data",
        ),
        ("run/fuse.pt", {}, "holds no fuse.pt: give the folder of a run that has ended"),
        ("damaged", {}, "fuse.pt cannot be read"),
        ("unfinished", {}, "unfinished holds no fuse.pt: give the folder of a run that has ended"),
    ],
)
def test_load_refuses_likewise(
    folder: str, components: dict[str, Any], words: str, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run", "damaged", "unfinished"):
        whole.save(name)
    Path("damaged/fuse.pt").write_bytes(torch.randn(100).numpy().tobytes())
    Path("unfinished/fuse.pt").unlink()
    with pytest.raises(bbfuse.InputError) as error:
        bbfuse.load(folder, **components)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
