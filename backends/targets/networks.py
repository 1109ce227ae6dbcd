"""The network that a target's name stands for: an architecture with fresh weights, a checkpoint, or several of these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from backends.base import InputError, raised
from backends.datasets.form import Form
from backends.models.formed import formed
from backends.models.reading import SUFFIXES, read_model
from backends.targets.base import Architecture, architecture_of
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


def build(
    name: str, image_shape: tuple[int, ...], classes: int | None = None, form: Form | None = None, trust: bool = False
) -> nn.Module:
    """The network called ``name`` for images of ``image_shape``.

    ``name`` is an architecture (as in `architecture_of`), the file of a checkpoint, a file of another program (as in
    `read_model`, which ``trust`` is for), or several of these, such as ``A+B``, which make an `Ensemble`. Without ``classes`` the
    network has those of the checkpoint, or 10. A network that comes trained takes its inputs in ``form``; it is handed images
    in [-1, 1] all the same.

    Raises:
        InputError: no target has that name, it takes other images, or a file cannot be used or has other classes.
    """
    if len(parts(name)) > 1:
        return Ensemble([build(part, image_shape, classes, form, trust) for part in parts(name)])
    if name.endswith(SUFFIXES):
        return _checked(formed(read_model(name, trust), form), name, image_shape, classes)
    found = read(Path(name)) if name.endswith(SUFFIX) else None
    made = architecture_of(name if found is None else found.architecture)
    if made.image_shape not in (None, image_shape):
        raise InputError(f"`target` {name} takes images {made.image_shape}, but `data` has {image_shape}: give another one")
    if found is not None and classes not in (None, found.classes):
        raise InputError(f"`target` {name} has {found.classes} classes, but `data` has {classes}: give the data of its fit")
    network = _made(made, name, classes or (10 if found is None else found.classes))
    if found is not None:
        network.load_state_dict(found.weights)
    network = formed(network, form) if made.trained else network
    return network if made.image_shape is not None else _checked(network, name, image_shape, classes)


def _made(architecture: Architecture, name: str, classes: int) -> nn.Module:
    try:
        network = architecture(classes)
    except Exception as error:  # a function of others may raise anything
        words = raised(error)
        raise InputError(
            f"`target` {name} makes no network for {classes} classes: {words}; for a function of inputs choose `backend=function`"
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"`target` {name} must make an nn.Module, got {type(network).__name__}; for a function of inputs choose "
            "`backend=function`"
        )
    return network


@torch.no_grad()
def _checked(network: nn.Module, name: str, image_shape: tuple[int, ...], classes: int | None) -> nn.Module:
    """``network``, if it gives a row of logits for each image: one that declares no image shape may not."""
    training = network.training
    try:
        found = tuple(network.eval()(torch.zeros(2, *image_shape)).shape)
    except Exception as error:  # any error of a user's network
        words = raised(error)
        raise InputError(f"`target` {name} does not take images {image_shape}: {words}") from error
    network.train(training)
    if len(found) != 2 or found[0] != 2 or classes not in (None, found[1]):
        raise InputError(f"`target` {name} must give logits (2, {classes or 'classes'}) for two images, got the shape {found}")
    return network
