"""Fits a network to labelled images."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.datasets.base import Split
from backends.training.augmentation import cut, moved
from backends.training.hardening import Hardened
from backends.training.recipe import RECIPE, Recipe

__all__ = ["fit"]

log = logging.getLogger(__name__)


def fit(network: nn.Module, data: Split, recipe: Recipe = RECIPE, device: str = "cpu") -> nn.Module:
    """``network`` fitted to ``data`` by the loss of ``recipe``; its initial weights are replaced by fresh ones.

    ``device`` is where the fit runs, such as ``cuda``; the result is on the CPU.
    """
    with torch.random.fork_rng(devices=[]), _threads(recipe.threads):
        torch.manual_seed(recipe.seed)
        for layer in network.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
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
    images = moved(batch.images, recipe) if (step % 2 or recipe.each) and batch.images.ndim == 4 else batch.images
    if recipe.cutout:
        images = cut(images, recipe.cutout)
    return Split(images.contiguous(memory_format=torch.channels_last) if recipe.bfloat16 else images, batch.labels)


def _loss(network: nn.Module, batch: Split, recipe: Recipe) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            logits = network(batch.images)
            if recipe.margin is None:
                return F.cross_entropy(logits, batch.labels, label_smoothing=recipe.label_smoothing)
            expected = 2.0 * F.one_hot(batch.labels, logits.shape[1]) - 1.0
            return F.relu(recipe.margin - expected * logits).mean() / recipe.margin

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


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
