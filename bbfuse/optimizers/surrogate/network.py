"""The surrogate: a network of our own that imitates the target and gives gradients.

It is fitted to the user's labels, and then to the target's responses as they arrive. Before it is trained on a batch its quality
is measured: the share of the variance of the new responses that it predicted. It uses nothing of the target but its responses.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.base import InputError, one_line
from backends.datasets.base import Split
from backends.memory.config import Memory
from backends.memory.simulator import Simulator
from backends.settings import Count, NonNegativeInt, Positive
from backends.training.cache import kept
from backends.training.recipe import recipe_for
from bbfuse.querying.responses import Responses
from bbfuse.seeds import stream

__all__ = ["ARCHITECTURES", "Surrogate", "SurrogateConfig"]


@dataclass(frozen=True)
class SurrogateConfig:
    """The network that imitates the target, for transfer, follow and guided."""

    arch: Literal["plain", "residual", "perceptron"] = "plain"
    """architecture: convolutions and pools, residual blocks, or two hidden layers"""
    steps: NonNegativeInt | None = None
    """batches of 128 of the fit to the labels beforehand, 0 for fresh weights; if not given 600, or 3000 for
    images of 32x32 and more"""
    lr: Positive = 1e-3
    """learning rate on the target's responses"""
    rounds: NonNegativeInt = 5
    """passes over the responses that are there before the fuse is trained"""
    updates: NonNegativeInt = 4
    """steps for each new batch of responses: one on the new batch, the others on stored ones"""
    memory: Count = 200
    """batches of responses that are stored"""
    weights: str | None = None
    """file with the state dict of a network of `surrogate.arch`, in place of a fit to the labels"""


_BATCH = 128
_PENALTY = 0.1
_TRUST_DECAY = 0.9


class _Network(nn.Module):
    """Features (n, width) of images by ``body``, and a linear layer ``last`` on them."""

    def __init__(self, body: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.last = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.last(self.body(images))
        return output


def _stages(shape: Sequence[int]) -> int:
    """How often the sides can be halved until the smaller one is 4, once at least."""
    return max(1, int(math.log2(min(shape[1:]) / 4)))


def _block(inputs: int, outputs: int, stride: int = 1, normalised: bool = True) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(outputs)] if normalised else []
    return [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not normalised), *norm, nn.ReLU()]


def _plain(shape: Sequence[int], classes: int) -> _Network:
    """Two convolutions and a pool for each halving of the sides, 32, 64, ... channels, and a hidden layer: as in VGG.

    Batch normalisation from two pools on.
    """
    layers: list[nn.Module] = []
    inputs = shape[0]
    for stage in range(_stages(shape)):
        width = 32 * 2**stage
        deep = _stages(shape) > 1
        layers += [*_block(inputs, width, normalised=deep), *_block(width, width, normalised=deep), nn.MaxPool2d(2)]
        inputs = width
    left = math.prod(side // 2 ** _stages(shape) for side in shape[1:])
    return _Network(nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * left, 128), nn.ReLU()), 128, classes)


class _Residual(nn.Module):
    """``relu(x + two convolutions of x)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_block(width, width), *_block(width, width)[:-1])

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(images + self.body(images))


def _residual(shape: Sequence[int], classes: int) -> _Network:
    """A stem, then two residual blocks and a convolution of stride 2 for each halving, global average: as in ResNet."""
    layers, inputs = _block(shape[0], 16), 16
    for _ in range(_stages(shape)):
        layers += [_Residual(inputs), _Residual(inputs), *_block(inputs, 2 * inputs, stride=2)]
        inputs *= 2
    return _Network(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inputs, classes)


def _perceptron(shape: Sequence[int], classes: int) -> _Network:
    """Two hidden layers of 256 units."""
    layers = [nn.Linear(math.prod(shape), 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return _Network(nn.Sequential(nn.Flatten(), *layers), 256, classes)


ARCHITECTURES: dict[str, Callable[[Sequence[int], int], _Network]] = {
    "plain": _plain, "residual": _residual, "perceptron": _perceptron,
}  # fmt: skip
"""Architectures by the name that `surrogate.arch` takes; each takes an image shape and a number of classes."""


class Surrogate:
    """Imitates the target by least squares on its responses, new and stored ones."""

    def __init__(
        self, settings: SurrogateConfig, shape: tuple[int, ...], classes: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        """Weights drawn from ``seed``, or those of ``settings.weights``; it computes on ``device`` and returns logits on the CPU.

        Raises:
            InputError: ``settings.weights`` does not hold weights of this architecture, or the architecture is for images alone.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if len(shape) != 3 and settings.arch != "perceptron":
                raise InputError(
                    f"`surrogate.arch={settings.arch}` is for images, got inputs of the shape {shape}: choose perceptron"
                )
            self._network = ARCHITECTURES[settings.arch](shape, classes)
        self._settings = settings
        self._seed = seed
        if settings.weights is not None:
            self._load(settings.weights)
        self._recipe = recipe_for(shape)
        self._large = self._recipe.bfloat16
        """Whether to use bfloat16 and channels last, which double the speed for large images."""
        if self._large:
            self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._network.to(device)
        self._received: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.memory)
        self._batches = 0
        self.trust = 0.0
        """Share of the variance of responses that it predicted, in [0, 1], over about the last ten batches."""
        self._optimizer = torch.optim.Adam(self._network.parameters(), settings.lr)
        self._network.eval()

    def prepare(self, owned: Split, received: Sequence[Responses]) -> None:
        """Fit it to the labels, then to the responses ``received`` so far."""
        steps = self._settings.steps if self._settings.steps is not None else 3000 if self._large else 600
        if steps and self._settings.weights is None:
            # batch normalisation keeps the statistics of this fit, so that the logits of an image do not depend on the batch
            recipe = replace(self._recipe, steps=steps, seed=self._seed)
            kept(self._network, owned, recipe, f"surrogate-{self._settings.arch}", str(self._device)).to(self._device)
        self._network.eval()
        if received:
            images, responses = torch.cat([r.images for r in received]), torch.cat([r.logits for r in received])
            self._rescale(images, responses)
            order = torch.randperm(len(images), generator=stream(self._seed, "surrogate", "order"))
            self._received.extend((images[part], responses[part]) for part in order.split(_BATCH))
            for number in range(self._settings.rounds * len(self._received)):
                self._fit(*self._stored(("warm-up", number)))

    def learn(self, images: Tensor, responses: Tensor) -> None:
        """Update `trust`, then train on the ``responses`` (n, classes) to ``images``."""
        with torch.no_grad():
            error = (self.logits(images) - responses).square().sum()
        predicted = 1.0 - (error / (responses - responses.mean(0)).square().sum().clamp_min(1e-12)).item()
        weight = 1.0 - _TRUST_DECAY if self._batches else 1.0
        self.trust += weight * (max(predicted, 0.0) - self.trust)
        if not self._batches and not self._received:
            self._rescale(images, responses)
        self._received.append((images, responses))
        for number in range(self._settings.updates):
            # the new batch first, then random stored ones
            self._fit(*(self._received[-1] if number == 0 else self._stored(("step", self._batches, number))))
        self._batches += 1

    def logits(self, images: Tensor, reader: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Its logits (n, classes), differentiable; ``reader`` replaces the network if given."""
        if self._large:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._large):
            output: Tensor = (reader or self._network)(images)
        return output.float().cpu()

    def simulator(self, memory: Memory) -> Simulator:
        """The present surrogate stored in ``memory``, which simulates chips."""
        return Simulator(copy.deepcopy(self._network), memory)

    def _load(self, path: str) -> None:
        try:
            self._network.load_state_dict(torch.load(path, weights_only=True))
        except Exception as error:  # reading a file of unknown content may raise anything
            arch, words = self._settings.arch, one_line(error)
            raise InputError(
                f"`surrogate.weights` {path} does not hold the state dict of a {arch} surrogate for these images: {words}"
            ) from error

    def _stored(self, name: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        drawn = torch.randint(len(self._received), (), generator=stream(self._seed, "surrogate", *name))
        return self._received[int(drawn)]

    def _fit(self, images: Tensor, responses: Tensor) -> None:
        """One step of Adam on the squared error in units of the responses' variance."""
        self._optimizer.zero_grad()
        spread = responses.var(0, correction=0).mean().clamp_min(1e-6)
        (F.mse_loss(self.logits(images), responses) / spread).backward()
        self._optimizer.step()

    def _rescale(self, images: Tensor, responses: Tensor) -> None:
        """Fit the last layer to the scale of the responses: ridge regression on the features, towards the present layer."""
        with torch.no_grad():
            last = self._network.last
            features = torch.cat([self._network.body(part) for part in images.split(_BATCH)])
            missing = responses.double() - last(features).cpu().double()
            features = features.cpu()
            design = torch.cat([features, torch.ones(len(features), 1)], 1).double()
            gram = design.T @ design
            gram.diagonal().add_(_PENALTY * gram.diagonal().mean())
            change = torch.linalg.solve(gram, design.T @ missing).float()
            last.weight.add_(change[:-1].T.to(self._device))
            last.bias.add_(change[-1].to(self._device))

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer, and the stored responses."""
        return {
            "network": self._network.state_dict(), "optimizer": self._optimizer.state_dict(), "bought": list(self._received),
            "seen": self._batches, "trust": self.trust,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._received = deque(state["bought"], maxlen=self._settings.memory)
        self._batches, self.trust = state["seen"], state["trust"]
