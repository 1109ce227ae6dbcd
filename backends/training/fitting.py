"""Fits a network to labelled images and keeps it in a cache, checked by its SHA-256.

The cache is the folder named by ``BBFUSE_CACHE``, or ``~/.cache/bbfuse``. A file that does not match its checksum is fitted
again; a folder that cannot be written costs a fit per process and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.datasets.base import Split
from backends.files import write_bytes
from backends.training.hardening import Hardened, Hardening, without_unused

__all__ = ["LARGE_RECIPE", "RECIPE", "Recipe", "fit", "kept", "moved", "recipe_for"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Steps under a one-cycle schedule, images shifted by at most ``shift`` pixels, new pixels black, or mirrored."""

    steps: int = 600
    batch: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-2
    shift: int = 1
    mirror: bool = False
    each: bool = False
    """every image moved on its own; otherwise every second batch as a whole"""
    bfloat16: bool = False
    """multiply in bfloat16 with channels last: two to three times as fast where the processor knows it"""
    seed: int = 0
    threads: int = 1
    """part of the recipe, since sums round differently with another number and the network would be another one"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum, 0.85 to 0.95 as the learning rate falls"""
    label_smoothing: float = 0.0
    """share of the probability that is asked for all classes alike"""
    schedule: Literal["one-cycle", "steps"] = "one-cycle"
    """learning rate up and down, or a tenth of it after each of 2/5, 3/5 and 4/5 of the steps"""
    cutout: int = 0
    """side of a square, anywhere on each image, that is made grey"""
    margin: float | None = None
    """hinge loss with this margin, ``mean max(0, b - y f) / b`` over images and classes, ``y`` 1 or -1 (Buschjäger et al., DATE
    2021); cross-entropy if not given"""
    hardening: Hardening | None = None
    """what is done so that wrong bits hurt less"""

    def __repr__(self) -> str:
        return without_unused(self, ("optimizer", "label_smoothing", "schedule", "cutout", "margin", "hardening"))


RECIPE = Recipe()
"""For small images."""
LARGE_RECIPE = Recipe(steps=10_000, weight_decay=5e-2, shift=4, mirror=True, each=True, bfloat16=True)
"""For images of 32x32 and more."""


def recipe_for(image_shape: Sequence[int]) -> Recipe:
    """The recipe for images of ``image_shape`` (channels, height, width)."""
    return LARGE_RECIPE if min(image_shape[1:]) >= 32 else RECIPE


def kept(network: nn.Module, data: Split, recipe: Recipe, name: str, device: str = "cpu", source: str | None = None) -> nn.Module:
    """``network`` as `fit` makes it, from the cache where it is; ``name`` begins the file's name.

    ``source`` is a digest of the code that defines a network from outside this package: a changed one is fitted again.
    """
    seen = hashlib.blake2b(data.images.cpu().numpy().tobytes() + data.labels.numpy().tobytes()).hexdigest()
    # another device rounds otherwise
    made_by = (seen, recipe, str(network), *([] if device == "cpu" else [device]), *([] if source is None else [source]))
    digest = hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("BBFUSE_CACHE") or Path.home() / ".cache" / "bbfuse")
    path = folder / f"{name}-{digest}.pt"
    state = _read(path)
    if state is None:
        _write(path, fit(network, data, recipe, device).state_dict())
    else:
        network.load_state_dict(state)
    return network


def fit(network: nn.Module, data: Split, recipe: Recipe = RECIPE, device: str = "cpu") -> nn.Module:
    """``network`` fitted to ``data`` by cross-entropy; the weights it came with are not used.

    On another ``device``, such as ``cuda``, network and data are moved there once; the network comes back.
    """
    with torch.random.fork_rng(devices=[]), _threads(recipe.threads):
        torch.manual_seed(recipe.seed)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
        network.train().to(device)
        data = Split(data.images.to(device), data.labels.to(device))
        if recipe.bfloat16:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        hardened = None if recipe.hardening is None else Hardened(network, recipe.hardening, recipe.seed)
        optimizer = _optimizer(network, recipe)
        schedule = _schedule(optimizer, recipe)
        for step in range(recipe.steps):
            optimizer.zero_grad()
            loss = _loss(network, _batch(data, step, recipe), recipe)
            if hardened is None:
                loss().backward()
            else:
                hardened.backward(loss)
            optimizer.step()
            if hardened is not None:
                hardened.clip()
            schedule.step()
            if step % 200 == 199:
                log.info("fitting: step %d of %d", step + 1, recipe.steps)
        if hardened is not None:
            hardened.finish()
    return network.cpu()


def _batch(data: Split, step: int, recipe: Recipe) -> Split:
    batch = data[torch.randint(len(data), (recipe.batch,)).to(data.labels.device)]
    images = moved(batch.images, recipe) if step % 2 or recipe.each else batch.images
    if recipe.cutout:
        images = _cut(images, recipe.cutout)
    return Split(images.contiguous(memory_format=torch.channels_last) if recipe.bfloat16 else images, batch.labels)


def _loss(network: nn.Module, batch: Split, recipe: Recipe) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            logits = network(batch.images)
            if recipe.margin is None:
                return F.cross_entropy(logits, batch.labels, label_smoothing=recipe.label_smoothing)
            wanted = 2.0 * F.one_hot(batch.labels, logits.shape[1]) - 1.0
            return F.relu(recipe.margin - wanted * logits).mean() / recipe.margin

    return loss


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
        )  # fmt: skip
    return torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "steps":
        milestones = [recipe.steps * fifths // 5 for fifths in (2, 3, 4)]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.1)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps)


def _cut(images: Tensor, side: int) -> Tensor:
    """``images`` (n, channels, height, width) with a grey square of ``side`` anywhere on each (DeVries and Taylor 2017)."""

    def inside(length: int) -> Tensor:
        first = torch.randint(length, (len(images), 1)) - side // 2
        places = torch.arange(length)
        return ((places >= first) & (places < first + side)).to(images.device)

    rows, columns = inside(images.shape[2]), inside(images.shape[3])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def moved(images: Tensor, recipe: Recipe, rng: torch.Generator | None = None) -> Tensor:
    """``images`` (n, channels, height, width) shifted and mirrored as ``recipe`` has it: one draw for all, or one for each."""
    draws, (height, width) = len(images) if recipe.each else 1, images.shape[2:]
    down, right = torch.randint(0, 2 * recipe.shift + 1, (2, draws), generator=rng)
    rows = (down[:, None] + torch.arange(height))[:, None, :, None].to(images.device)
    columns = right[:, None] + torch.arange(width)
    if recipe.mirror:
        columns = torch.where(torch.rand(draws, 1, generator=rng) < 0.5, columns.flip(1), columns)
    columns = columns[:, None, None].to(images.device)
    image, channel = torch.arange(len(images))[:, None, None, None], torch.arange(images.shape[1])[:, None, None]
    places = image.to(images.device), channel.to(images.device)
    return F.pad(images, (recipe.shift,) * 4, value=-1.0)[*places, rows, columns]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        blob, checksum = path.read_bytes(), path.with_suffix(".sha256").read_text().strip()
    except OSError:
        return None
    if hashlib.sha256(blob).hexdigest() != checksum:
        log.warning("%s does not match its checksum; fitting it again", path)
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(blob), weights_only=True)
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    blob = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the checksum goes first: a kill in between leaves a mismatch or nothing, never a wrong network
        for destination, content in (
            (path.with_suffix(".sha256"), hashlib.sha256(blob).hexdigest().encode()), (path, blob),
        ):  # fmt: skip
            write_bytes(destination, content)
    except OSError as error:
        log.warning("the fitted network could not be cached in %s: %s", path.parent, error)
