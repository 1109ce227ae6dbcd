"""The network that a target's name stands for: an architecture with fresh weights, a checkpoint, or several of these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from backends.base import InputError
from backends.targets.base import architecture_of
from backends.targets.checkpoint import SUFFIX, read

__all__ = ["Ensemble", "build", "parts"]


class Ensemble(nn.Module):
    """Computes the logits of each image with one of its members, in turn: the mean loss over a batch is about that over all
    members."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes), those of image ``i`` by member ``i mod m``."""
        turns = torch.arange(len(images)) % len(self.members)
        order = turns.argsort(stable=True).argsort()
        return torch.cat([member(images[turns == number]) for number, member in enumerate(self.members)])[order]


def parts(target: str) -> list[str]:
    """The names in ``target``: ``A+B`` has two, so that no name may contain a ``+``."""
    return target.split("+")


def build(name: str, image_shape: tuple[int, int, int], classes: int | None = None) -> nn.Module:
    """The network called ``name`` for images of ``image_shape``.

    ``name`` is an architecture (as in `architecture_of`), the file of a checkpoint, or several of these, such as ``A+B``, which
    make an `Ensemble`. Without ``classes`` the network has those of the checkpoint, or 10.

    Raises:
        InputError: no target has that name, it takes other images, or a checkpoint is damaged or has other classes.
    """
    if len(parts(name)) > 1:
        return Ensemble([build(part, image_shape, classes) for part in parts(name)])
    found = read(Path(name)) if name.endswith(SUFFIX) else None
    made = architecture_of(name if found is None else found.architecture)
    if made.image_shape not in (None, image_shape):
        raise InputError(f"`target` {name} takes images {made.image_shape}, but `data` has {image_shape}: give another one")
    if found is not None and classes not in (None, found.classes):
        raise InputError(f"`target` {name} has {found.classes} classes, but `data` has {classes}: give the data of its fit")
    network = made(classes or (10 if found is None else found.classes))
    if found is not None:
        network.load_state_dict(found.weights)
    if made.image_shape is None:
        _check(network, name, image_shape, classes)
    return network


@torch.no_grad()
def _check(network: nn.Module, name: str, image_shape: tuple[int, int, int], classes: int | None) -> None:
    """Refuse a ``network`` with no declared image shape that does not give a row of logits for each image."""
    training = network.training
    try:
        found = tuple(network.eval()(torch.zeros(2, *image_shape)).shape)
    except Exception as error:  # any error of a user's network
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"`target` {name} does not take images {image_shape}: {words}") from error
    network.train(training)
    if len(found) != 2 or found[0] != 2 or classes not in (None, found[1]):
        raise InputError(f"`target` {name} must give logits (2, {classes or 'classes'}) for two images, got the shape {found}")
