"""A trained fuse for other runtimes: ``python -m bbfuse.export --run FOLDER --out DIR``.

Writes ``fuse.onnx`` (``images`` to ``fused``) and ``head.onnx`` (the target's ``logits`` or ``probabilities`` to ``corrected``),
each for any number of images, and a model card, ``README.md``. Nothing is written unless onnxruntime and torch agree.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backends.base import InputError, levels
from backends.files import write_folder
from backends.flags import parse, refused
from backends.registry import shown
from bbfuse.deploy.trained import Trained, Uncalibrated

__all__ = ["ExportConfig", "card", "export", "main", "onnx_of"]

Pixels = Literal["float32", "uint8"]
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ExportConfig:
    """Write the trained fuse and head of a run as ONNX, with a model card."""

    run: Path
    """folder of the run that trained them"""
    out: Path
    """folder to write to, new or empty"""
    takes: Pixels = "float32"
    """pixels that fuse.onnx takes: numbers in [-1, 1], or whole numbers from 0 to 255"""
    gives: Pixels = "float32"
    """pixels that fuse.onnx gives, as the target takes them: numbers in [-1, 1], or rounded to whole numbers from 0 to
    255"""
    trust: bool = False
    """import own components, such as a generator FILE.py:attribute, that the run folder names"""


class _Converted(nn.Module):
    """A fuse between pixels of other ranges."""

    def __init__(self, fuse: nn.Module, takes: Pixels, gives: Pixels) -> None:
        super().__init__()
        self.fuse = fuse
        self._takes = takes
        self._gives = gives

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, *image_shape), to the same."""
        fused: Tensor = self.fuse(images.float() / 127.5 - 1.0 if self._takes == "uint8" else images)
        return levels(fused).to(torch.uint8) if self._gives == "uint8" else fused


def onnx_of(module: nn.Module, samples: Tensor, names: tuple[str, str]) -> bytes:
    """``module`` as an ONNX model with one input and one output called ``names``, their first axis of any size.

    ``samples`` (n, ...), n > 1, are the inputs of a check: onnxruntime must give torch's numbers, up to rounding.

    Raises:
        InputError: onnx, onnxscript or onnxruntime is not installed.
        RuntimeError: the numbers differ.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch needs it to export
    except ImportError as error:
        raise InputError(
            f"the export needs {error.name}, which is not installed: python -m pip install 'bbfuse[onnx]'"
        ) from error
    with warnings.catch_warnings(), _quiet(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter, about its own code
        program = torch.onnx.export(
            module, (samples,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=[names[0]],
            output_names=[names[1]], verbose=False,
        )  # fmt: skip
    assert program is not None
    model: bytes = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for some in (samples, samples[:1]):
        (found,) = (torch.from_numpy(output) for output in session.run(None, {names[0]: some.numpy()}))
        expected = module(some)
        if found.dtype != expected.dtype or found.shape != expected.shape:
            raise RuntimeError(
                f"onnxruntime gave {found.dtype} {list(found.shape)}, torch {expected.dtype} {list(expected.shape)}"
            )
        # a number halfway between two levels may be rounded to either
        allowed = 1.0 if found.dtype == torch.uint8 else _TOLERANCE * max(1.0, float(expected.abs().max()))
        apart = float((found.double() - expected.double()).abs().max())
        if not apart <= allowed:
            raise RuntimeError(f"onnxruntime's numbers differ from torch's by {apart:.3g}")
    return model


@contextlib.contextmanager
def _quiet() -> Any:
    """Suppress the exporter's messages about libraries that are not installed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def export(trained: Trained, text: str, config: ExportConfig) -> None:
    """Write ``fuse.onnx``, ``head.onnx`` and ``README.md`` into ``config.out``, all or nothing.

    There is no ``head.onnx`` for a head that is not calibrated, since each chip has its own. ``text`` is the model card.

    Raises:
        InputError: ``config.out`` is not empty or cannot be written, or a library is missing.
        RuntimeError: an exported model does not give torch's numbers.
    """
    if config.out.is_dir() and any(config.out.iterdir()):
        raise InputError(f"--out {config.out} is not empty: choose another folder")
    rng = torch.Generator().manual_seed(0)
    if config.takes == "uint8":
        images = torch.randint(0, 256, (3, *trained.fuse.image_shape), generator=rng, dtype=torch.uint8)
    else:
        images = torch.rand((3, *trained.fuse.image_shape), generator=rng) * 2.0 - 1.0
    converted = _Converted(trained.fuse, config.takes, config.gives).eval()
    files = {"fuse.onnx": onnx_of(converted, images, ("images", "fused")), "README.md": text.encode()}
    if not isinstance(trained.head, Uncalibrated):
        responses = 5.0 * torch.randn((3, trained.classes), generator=rng)
        responses = responses if trained.response_kind == "logits" else responses.softmax(1)
        files["head.onnx"] = onnx_of(trained.head, responses, (trained.response_kind, "corrected"))
    try:
        write_folder(config.out, files)
    except OSError as error:
        raise InputError(f"--out {config.out} cannot be written: {error.strerror or error}") from error


_PIXELS = {"float32": "float32 in [-1, 1]", "uint8": "uint8 from 0 to 255"}


def card(trained: Trained, summary: dict[str, Any], config: ExportConfig) -> str:
    """The model card (Markdown) of a run: purpose, measured accuracies, cost, use and limits."""
    run, accuracy, energy, queries = trained.config, summary["accuracy"], summary["energy"], summary["queries"]
    sides = ", ".join(map(str, trained.fuse.image_shape))
    rate = "no bit errors" if run.no_chip else f"{100 * run.bit_error_rate:g} % bit errors"
    chips = accuracy["perturbed"]["chips"]
    population = f"the population of chips, reported on {chips} unseen ones"
    chip = population if run.chip_seed is None else f"chip {run.chip_seed}"
    purpose = "inputs of another domain" if run.no_chip else f"{chip}, {rate}"
    these = "" if run.no_chip else ", these bit errors"
    memory = "" if run.no_chip else " whose memory has bit errors at a low voltage"
    target, data = shown(run.target), shown(run.data)
    backend = f"{run.model} behind a server" if run.backend == "remote" else target
    backend += ", simulated" if run.backend in ("local", "whitebox") else ""

    def percent(part: dict[str, float]) -> str:
        return f"{100 * part['mean']:.1f}" + (f" ± {100 * part['sd']:.1f}" if part["chips"] > 1 else "")

    rows = (
        []
        if run.no_chip
        else [
            ("at nominal voltage", f"{100 * accuracy['clean']:.1f}"),
            ("at nominal voltage, fuse and head", f"{100 * accuracy['clean_fused']:.1f}"),
        ]
    )
    rows += [
        (f"{rate}, unprotected", percent(accuracy["perturbed"])),
        (f"{rate}, head alone", percent(accuracy["perturbed_head"])),
        (f"{rate}, fuse alone", percent(accuracy["perturbed_fuse"])),
        (f"{rate}, fuse and head", percent(accuracy["perturbed_fused"])),
    ]
    lost = "" if run.no_chip else f" of {summary['lost_points']:.1f} lost"
    if "kept" in accuracy:
        rows.append(
            (f"{rate}, kept after validation: {' and '.join(summary['kept_parts']) or 'neither'}", percent(accuracy["kept"]))
        )
    saving, voltage = energy["saving"], energy["voltage"]
    cost = (
        "unknown: no voltage was measured for this rate, or the target's architecture is unknown"
        if saving is None
        else f"{100 * saving:.1f} % of the target's weight-read energy is saved at {voltage:.3g} of the lowest voltage without "
        "errors, with the fuse's own reads subtracted"
    )
    parameters = sum(p.numel() for p in trained.fuse.parameters())
    images, fused = (f"(n, {sides}) {_PIXELS[pixels]}" for pixels in (config.takes, config.gives))
    headless = isinstance(trained.head, Uncalibrated)
    head = (
        f"* There is no `head.onnx`: the head `{run.head_name}` is calibrated for each chip, from its responses to "
        f"{trained.calibrating_images} raw images (`bbfuse.load(FOLDER).calibrate(responses)`)."
        if headless
        else f"* `head.onnx` ({run.head_name}): `{trained.response_kind}` (n, {trained.classes}) float32 to `corrected`, logits "
        "of the same shape. Postprocessing: the largest of a row is the class."
    )
    given = trained.response_kind
    behind = "" if headless else f'\ncorrected = InferenceSession("head.onnx").run(None, {{"{given}": {given}}})[0]'
    return f"""# Fuse for {target} ({data})

A small network in front of a frozen classifier{memory}, and a correction of its logits; both
were trained from the classifier's responses to queries by `bbfuse`.

| | |
|---|---|
| target | {backend}; {trained.classes} classes |
| for | {purpose} |
| fuse | {trained.fuse.name}, {parameters:,} parameters |
| head | {run.head_name} |
| trained by | {run.optimizer}, seed {run.seed} |
| images sent | {queries["images"]:,} in {queries["requests"]:,} requests |
| recovered points | {summary["recovered_points"]:.1f}{lost} |
| energy | {cost} |

| accuracy on held-out images | % |
|---|---|
{chr(10).join(f"| {name} | {value} |" for name, value in rows)}

## Use

* `fuse.onnx`: `images` {images} to `fused` {fused}. Conversions of range are included; give the pixels as they are.
{head}

```python
from onnxruntime import InferenceSession

fused = InferenceSession("fuse.onnx").run(None, {{"images": images}})[0]
{given} = target(fused){behind}
```

## Limits

It is for this target{these} and images like those of {data}; elsewhere it may lower the accuracy. The accuracies
are of held-out images of that data set, on simulated memory or measured through the server. The files were checked by onnxruntime
against torch, up to rounding.
"""


def main(arguments: list[str]) -> int:
    """The command line; the exit code."""
    try:
        config = parse(ExportConfig, "python -m bbfuse.export", arguments)
        trained = Trained.load(config.run, "--run", config.trust)
        try:
            text = card(trained, json.loads((config.run / "summary.json").read_text()), config)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"--run {config.run} has no summary.json that can be read: {error}") from error
        export(trained, text, config)
    except InputError as error:
        return refused(error)
    except RuntimeError as error:
        return refused(error, code=1)
    print(f"written: {config.out}")
    return 0
