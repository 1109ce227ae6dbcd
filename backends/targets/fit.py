"""Targets ready for use: fitted to the training part of their data and frozen.

``python -m backends.targets.fit --quantization rquant --clip 0.1 --randbet 0.01 --out FILE.pt`` fits one so that it tolerates
bit errors, and writes a checkpoint, which ``--target`` takes like a name.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from backends.base import NOMINAL, InputError
from backends.datasets.base import Dataset, Split
from backends.datasets.loading import load
from backends.files import short_name
from backends.flags import parse, refused
from backends.memory.config import PRESETS, Memory
from backends.memory.simulator import Simulator
from backends.models.reading import SUFFIXES
from backends.targets import networks
from backends.targets.base import TARGETS, architecture_of
from backends.targets.checkpoint import SUFFIX, Checkpoint, write
from backends.training.cache import kept
from backends.training.hardening import Hardening
from backends.training.recipe import Recipe, recipe_for

__all__ = ["FitConfig", "fit_to", "fitted", "hardening_of", "main", "nominal_accuracy", "usual_recipe"]

_AT_ONCE = 500


def fitted(
    target: str, data: Dataset, recipe: Recipe | None = None, device: str = "cpu", trust: bool = False
) -> nn.Module:  # fmt: skip
    """The target called ``target``, fitted on the training part of ``data``, frozen; from the cache where it is.

    A file, and a target that is declared as trained, are not fitted again; ``A+B`` is an `Ensemble` of both. For ``trust`` see
    `networks.build`.

    Raises:
        InputError: there is no such target, it takes other images, or its file is damaged.
    """
    if len(networks.parts(target)) > 1:
        return networks.Ensemble([fitted(part, data, recipe, device, trust) for part in networks.parts(target)]).eval()
    network = networks.build(target, data.image_shape, data.classes, data.form, trust)
    made = None if target.endswith((SUFFIX, *SUFFIXES)) else architecture_of(target)
    if made is not None and not made.trained:
        if not data.labelled:
            raise InputError(
                f"`target` {target} is fitted to labels, which `data` {data.name} does not have: give a trained target"
            )
        recipe = recipe or usual_recipe(target, data)
        name = f"{_file_name(target)}-{_file_name(Path(data.name).name)}"
        network = kept(network, data.train, recipe, name, device, made.source)
    return network.eval().requires_grad_(False)


def usual_recipe(target: str, data: Dataset) -> Recipe:
    """How the architecture called ``target`` is fitted to ``data``: its own recipe, or that for images of this size."""
    return architecture_of(target).recipe or recipe_for(data.image_shape)


def _file_name(name: str) -> str:
    return short_name(name) if ":" in name else name


@dataclass(frozen=True)
class FitConfig:
    """Fit a target so that it tolerates bit errors, and write a checkpoint for --target."""

    out: Path
    """file to write, with the suffix .pt"""
    target: str = "digits"
    """architecture: a name, module:attribute or FILE.py:attribute"""
    data: str = "digits"
    """data set: digits, module:attribute, FILE.py:attribute, or a folder or hub id of images for the library datasets"""
    quantization: Literal["neuralfuse", "normal", "rquant"] | None = None
    """train on the weights as they are read from this memory (--memory.quantization of bbfuse.run); float weights if not given"""
    bits: int = 8
    """bits a weight: 2 to 8, or 16"""
    stored: Literal["weights", "parameters"] | None = None
    """what is stored and clipped: weights of convolutions and linear layers, or all parameters; if not given weights for
    neuralfuse, else parameters"""
    ranges: Literal["tensor", "global", "channel"] = "tensor"
    """one range for each tensor, for all together, or for each index of a tensor's first axis"""
    clip: float | None = None
    """largest absolute value of what is stored, held after each step"""
    randbet: float | None = None
    """bit error rate of random bit error training: each step adds the gradient on a fresh chip"""
    advbet: int | None = None
    """bit errors of adversarial bit error training: each step adds the gradient on bits that an attack on the batch chooses"""
    pattern: int | None = None
    """seed of one chip used in all steps instead of fresh ones (fixed-pattern training; it does not transfer to other chips)"""
    start: float = 1.75
    """errors are injected from the step on at which the loss without them is first below this"""
    gradients: Literal["sum", "mean"] = "sum"
    """how the gradients with and without errors join: their sum, or the mean with the second one clamped to +-0.05"""
    sharpness: float | None = None
    """sharpness-aware quantization: how far up the gradient the weights are moved before it is taken; twice the passes"""
    label_smoothing: float = 0.0
    """share of the target probability that is spread over all classes"""
    optimizer: Literal["adamw", "sgd"] | None = None
    """AdamW, or SGD with Nesterov momentum; if not given as for this target without these flags, as are the next five"""
    steps: int | None = None
    """batches"""
    batch: int | None = None
    """images a batch"""
    lr: float | None = None
    """largest learning rate of the schedule"""
    weight_decay: float | None = None
    """weight decay"""
    seed: int | None = None
    """seed of fresh weights, batches and chips"""
    device: str = "cpu"
    """device of the fit: cpu, cuda"""


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    try:
        config = parse(FitConfig, "python -m backends.targets.fit", arguments)
        if config.out.suffix != SUFFIX:
            raise InputError(f"`out` must end with {SUFFIX}, got {config.out}")
        if config.target.endswith((SUFFIX, *SUFFIXES)):
            raise InputError(
                f"`target` must be an architecture, one of {', '.join(TARGETS)}, or module:attribute, got {config.target}"
            )
        if config.device != "cpu" and not torch.cuda.is_available():
            raise InputError(f"`device` {config.device} is not available here: use cpu")
        hardening = hardening_of(config)
        data = load(config.data)
        networks.build(config.target, data.image_shape, data.classes)
        recipe = _recipe(config, usual_recipe(config.target, data), hardening)
        began = time.perf_counter()
        accuracy = fit_to(config.out, config.target, data, recipe, config.device)
    except InputError as error:
        return refused(error)
    seconds = time.perf_counter() - began
    print(f"written: {config.out} ({100 * accuracy:.1f} % of the validation images at nominal voltage, {seconds:.0f} s)")
    return 0


def fit_to(path: Path, target: str, data: Dataset, recipe: Recipe, device: str = "cpu") -> float:
    """Write the fitted ``target`` to a checkpoint at ``path``; return its accuracy on the validation images of ``data``, as
    stored.

    Raises:
        InputError: see `fitted`; or ``path`` cannot be written.
    """
    network = fitted(target, data, recipe, device)
    accuracy = nominal_accuracy(network, recipe.hardening, data.validation)
    plain = {"data": data.name, "device": device, "recipe": asdict(recipe)}
    write(path, Checkpoint(target, data.image_shape, data.classes, plain, accuracy, network.state_dict()))
    return accuracy


def hardening_of(config: FitConfig) -> Hardening | None:
    """The hardening that ``config`` requests; ``None`` for none.

    Raises:
        InputError: a value or combination is not allowed.
    """
    preset, usual = PRESETS[config.quantization or "rquant"]
    quantization = replace(preset, bits=config.bits, ranges=config.ranges) if config.quantization else None
    hardening = Hardening(
        quantization, config.stored or usual, config.clip, config.randbet, config.advbet, config.pattern, config.start,
        config.gradients, config.sharpness,
    )  # fmt: skip
    return None if quantization is None and config.clip is None and config.sharpness is None else hardening


def _recipe(config: FitConfig, usual: Recipe, hardening: Hardening | None) -> Recipe:
    given = {name: getattr(config, name) for name in ("optimizer", "steps", "batch", "lr", "weight_decay", "seed")}
    given = {name: value for name, value in given.items() if value is not None}
    for name in ("steps", "batch", "lr"):
        if name in given and not given[name] > 0:
            raise InputError(f"`{name}` must be greater than 0, got {given[name]}")
    if not 0 <= config.label_smoothing < 1:
        raise InputError(f"`label_smoothing` must lie in [0, 1), got {config.label_smoothing}")
    return replace(usual, label_smoothing=config.label_smoothing, hardening=hardening, **given)


@torch.no_grad()
def nominal_accuracy(network: nn.Module, hardening: Hardening | None, data: Split) -> float:
    """Accuracy of ``network`` on ``data`` at nominal voltage, with weights as they are stored if it was trained for that."""
    respond: Callable[[Tensor], Tensor] = network
    if hardening is not None and hardening.quantization is not None:
        simulator = Simulator(network, Memory(stored=hardening.stored), hardening.quantization)
        respond = lambda images: simulator.logits(images, NOMINAL)  # noqa: E731
    right = sum(
        int((respond(part.images).argmax(1) == part.labels).sum())
        for part in (data[first : first + _AT_ONCE] for first in range(0, len(data), _AT_ONCE))
    )
    return right / len(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
