"""Contracts of the components of this package, as plain functions with assertions: call them from the tests of your own ones.

`bbfuse.testing` hands them out together with those of optimizers, heads and generators.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import NOMINAL, Access, Backend, Chip
from backends.datasets.base import DATASETS, FEWEST, Dataset, Split
from backends.datasets.loading import load
from backends.memory.simulator import Simulator
from backends.registry import about
from backends.targets.base import TARGETS, Maker, architecture_of
from backends.training.fitting import fit
from backends.training.recipe import recipe_for

__all__ = ["BACKEND_CHECKS", "CHIPS", "check_backend", "check_dataset", "check_target"]

CHIPS = (NOMINAL, Chip(0.05, 0), Chip(0.05, 1), Chip(1.0, 2))
"""The chips of `check_backend`, if no others are given."""


def check_backend(
    backend: Backend, images: Tensor | None = None, chips: Sequence[Chip] = CHIPS, network: nn.Module | None = None
) -> None:
    """``backend`` keeps the contract of `backends.base.Backend`; it is closed afterwards.

    Args:
        backend: an open backend.
        images: five or more images that it takes; random ones if not given.
        chips: chips whose responses differ; ``(NOMINAL,)`` for a backend whose chip cannot be chosen.
        network: the network behind the backend, if it is in this process; with strict access no weight of it may be reachable.
    """
    if images is None:
        images = torch.rand(5, *backend.info.image_shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    for check in BACKEND_CHECKS:
        check(backend, images, chips)
    if network is not None:
        _hides_its_weights(backend, images, network)
    backend.close()
    backend.close()


def _ignore(_: int) -> None: ...


def responses_have_the_declared_shape(backend: Backend, images: Tensor, _: Sequence[Chip]) -> None:
    """Responses are one row of finite float32 logits for each image, in the order of the images."""
    assert tuple(images.shape[1:]) == tuple(backend.info.image_shape)
    logits = backend.query(images[:3], NOMINAL, _ignore)
    assert logits.dtype == torch.float32
    assert tuple(logits.shape) == (3, backend.info.classes)
    assert torch.isfinite(logits).all()
    backwards = backend.query(images[:3].flip(0), NOMINAL, _ignore).flip(0)
    assert torch.allclose(logits, backwards, rtol=1e-4, atol=1e-4)


def responses_depend_on_images_and_chip_alone(backend: Backend, images: Tensor, chips: Sequence[Chip]) -> None:
    """The same query gives the same response, in any order of queries, and two chips with bit errors give different ones."""
    if not backend.info.repeatable:
        return
    first = [backend.query(images, chip, _ignore) for chip in chips]
    again = [backend.query(images, chip, _ignore) for chip in reversed(chips)][::-1]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    faulty = [logits for chip, logits in zip(chips, first, strict=True) if 0 < chip.bit_error_rate < 1]
    assert len(faulty) < 2 or not torch.equal(faulty[0], faulty[1])


def every_attempt_is_announced(backend: Backend, images: Tensor, _: Sequence[Chip]) -> None:
    """``sending`` is called with the number of images before each part is sent, and its exception ends the query."""
    announced: list[int] = []
    backend.query(images[:5], NOMINAL, announced.append)
    assert sum(announced) == 5
    assert max(announced) <= (backend.info.limit or 5)

    class ForbiddenError(Exception): ...

    def forbid(_: int) -> None:
        raise ForbiddenError

    try:
        backend.query(images[:5], NOMINAL, forbid)
    except ForbiddenError:
        return
    raise AssertionError("the query went on although sending raised an exception")


def images_stay_unchanged(backend: Backend, images: Tensor, chips: Sequence[Chip]) -> None:
    """A query does not change the images that it is given."""
    before = images.clone()
    backend.query(images, chips[-1], _ignore)
    assert torch.equal(images, before)


def gradients_come_exactly_where_they_are_granted(backend: Backend, images: Tensor, chips: Sequence[Chip]) -> None:
    """Responses lead back to the images if the backend grants gradients, and to nothing if it does not."""
    logits = backend.query(images[:5].clone().requires_grad_(), chips[-1], _ignore)
    assert logits.requires_grad == (backend.info.access >= Access.GRADIENTS)
    assert (logits.grad_fn is not None) == logits.requires_grad
    if backend.info.access < Access.GRADIENTS:
        public = [getattr(backend, name) for name in dir(backend) if not name.startswith("_")]
        assert not any(isinstance(value, nn.Module) for value in public)


BACKEND_CHECKS: tuple[Callable[[Backend, Tensor, Sequence[Chip]], None], ...] = (
    responses_have_the_declared_shape, responses_depend_on_images_and_chip_alone, every_attempt_is_announced,
    images_stay_unchanged, gradients_come_exactly_where_they_are_granted,
)  # fmt: skip
"""The parts of `check_backend`, each called with the backend, images and chips."""


def _hides_its_weights(backend: Backend, images: Tensor, network: nn.Module) -> None:
    """No response and no public attribute of a strict backend leads to a weight of ``network``."""
    if backend.info.access >= Access.GRADIENTS:
        return
    logits = backend.query(images[:5].clone().requires_grad_(), NOMINAL, _ignore)
    weights = {p.data_ptr() for p in network.parameters()}
    public = [getattr(backend, name) for name in dir(backend) if not name.startswith("_")]
    for handed in [logits, *public]:
        for value in [handed, *gc.get_referents(handed)]:
            if isinstance(value, Tensor):
                assert value.grad_fn is None
                assert not value.requires_grad
                assert value.data_ptr() not in weights


def check_target(target: str | Maker | nn.Module, image_shape: tuple[int, ...] = (1, 8, 8)) -> None:
    """``target``, a name or a component, makes networks that can be fitted, stored on a chip and kept in a file.

    Args:
        target: as in `architecture_of`.
        image_shape: channels, height and width of the images, if the target does not declare them.
    """
    made = architecture_of(target)
    if isinstance(target, str) and ":" not in target:
        assert about(TARGETS[target]), f"the target {target} needs a docstring: help and documents show its first sentence"
    shape = made.image_shape or image_shape
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.rand(8, *shape, generator=rng) * 2.0 - 1.0, torch.arange(8) % 3
    networks = [_seeded(lambda: made(10)) for _ in range(2)]
    _same_weights(*networks)
    if not made.trained:
        assert _seeded(lambda: made(3)).eval()(images).shape == (8, 3)
        recipe = replace(made.recipe or recipe_for(shape), steps=2, batch=4, bfloat16=False)
        networks = [fit(network, Split(images, labels), recipe) for network in networks]
        _same_weights(*networks)
    logits = networks[0].eval()(images)
    assert tuple(logits.shape) == (8, 10)
    assert torch.isfinite(logits).all()
    again = made(10)
    again.load_state_dict(networks[0].state_dict())
    assert torch.equal(again.eval()(images), logits)
    simulator = Simulator(networks[0])
    nominal, faulty = simulator.weights(NOMINAL), simulator.weights(Chip(0.3, 1))
    assert not all(torch.equal(nominal[name], faulty[name]) for name in nominal), "bit errors must change what is stored"


def _seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def _same_weights(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first), "the same seed must give the same weights"


def check_dataset(dataset: str | Dataset | Callable[[], Dataset]) -> None:
    """``dataset``, a name or a component, has three parts of like images, and its test images are in no other part."""
    if isinstance(dataset, str) and dataset in DATASETS:
        assert about(DATASETS[dataset]), f"the data set {dataset} needs a docstring: help and documents show its first sentence"
    data = load(dataset) if isinstance(dataset, str) else dataset if isinstance(dataset, Dataset) else dataset()
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    for name, part in parts.items():
        assert len(part.images) == len(part.labels) > 0, f"{name} must hold images, and a label for each"
        assert tuple(part.images.shape[1:]) == data.image_shape, f"images of {name} must have the shape of those of train"
        assert part.images.dtype == torch.float32, f"images of {name} must be float32"
        assert part.images.min() >= -1.0, f"pixels of {name} must lie in [-1, 1]"
        assert part.images.max() <= 1.0, f"pixels of {name} must lie in [-1, 1]"
        assert part.labels.dtype == torch.int64, f"labels of {name} must be int64"
        assert set(part.labels.tolist()) <= set(range(data.classes)), f"labels of {name} must lie in [0, {data.classes})"
    assert set(data.train.labels.tolist()) == set(range(data.classes)), "train must hold images of every class"
    assert len(data.train) + len(data.validation) >= max(FEWEST, data.classes), f"the pool must hold {FEWEST} images or more"
    seen = {image.numpy().tobytes() for part in (data.train, data.validation) for image in part.images}
    shared = sum(image.numpy().tobytes() in seen for image in data.test.images)
    assert not shared, f"{shared} test images are in train or validation too"
