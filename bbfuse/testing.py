"""Contract suites for authors of plug-ins: plain functions with assertions, one for each kind of component.

Call them from the tests of your own components::

    from bbfuse.testing import check_optimizer

    def test_mine():
        check_optimizer("my_package.mine:Mine")

An `AssertionError` names the rule that the component breaks.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import NOMINAL, Access, Chip
from backends.simulated import SimulatedBackend
from backends.testing import check_backend, check_dataset, check_target
from bbfuse.fuse.generators.base import GENERATORS, Generator, Shape
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import HEADS, CalibratedHead, Head, TrainedHead
from bbfuse.objective.eopm import Term
from bbfuse.objective.step import Probe, Score, Step
from bbfuse.optimizers.base import OPTIMIZERS, Optimizer, Problem
from bbfuse.querying.ledger import Ledger

__all__ = ["check_backend", "check_dataset", "check_generator", "check_head", "check_optimizer", "check_target"]

_SHAPE, _CLASSES, _IMAGES = (1, 4, 4), 3, 8
_CHIP = Chip(0.05, 0)


def check_optimizer(optimizer: str | type[Optimizer], settings: Any = None) -> None:
    """``optimizer``, a name or a class, trains a small fuse according to the contract of `Optimizer`.

    It moves the fuse; it sends as many images as it declares; a strict one never uses gradients of the target; a saved and loaded
    one continues identically; results do not depend on the order of scores or on the process that computes them; lost scores
    leave finite parameters, and the fuse as it was if all are lost.
    """
    kind = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    settings = settings if settings is not None else kind.Config()
    for check in (_sends_what_it_declares, _continues_identically, _depends_on_no_order, _survives_lost_scores):
        if check in (_depends_on_no_order, _survives_lost_scores) and not kind.scores_probes:
            continue
        check(kind, settings)


def check_head(head: str | type[Head]) -> None:
    """``head``, a name or a class, maps logits to finite logits of the same shape, row by row, and survives saving.

    A `TrainedHead` lowers the cross-entropy of what it is fitted to. A `CalibratedHead` depends on the responses alone.
    """
    kind = HEADS[head] if isinstance(head, str) else head
    rng = torch.Generator().manual_seed(1)
    reference = 3.0 * torch.randn(60, _CLASSES, generator=rng)
    responses, labels = 0.5 * reference.flip(1) + 1.0, reference.argmax(1)

    def made() -> Head:
        if issubclass(kind, CalibratedHead):
            return kind.create(kind.Config(), responses, reference)
        if issubclass(kind, TrainedHead):
            trained = kind.create(kind.Config(), _CLASSES)
            trained.fit(responses, labels)
            return trained
        return kind()

    first, second = made(), made()
    with torch.no_grad():
        corrected = first(responses)
        assert corrected.shape == responses.shape, "a head keeps the shape of the logits"
        assert torch.isfinite(corrected).all(), "corrected logits are finite"
        assert torch.allclose(first(responses[3:5]), corrected[3:5], atol=1e-5), "rows are corrected independently"
        assert torch.equal(second(responses), corrected), "the same responses make the same head"
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert torch.equal(second(responses), corrected), "the state dict has the whole head"
    assert first.penalty().shape == (), "the penalty is one number"
    if issubclass(kind, TrainedHead):
        loss = nn.functional.cross_entropy
        assert loss(corrected, labels) < loss(responses, labels), "fitting lowers the cross-entropy"


def check_generator(generator: str | Generator, shape: Shape = (1, 8, 8)) -> None:
    """``generator``, a name or a function, keeps ``shape``, is drawn from torch's seed alone, and can be trained.

    In a fuse it starts as the identity, since its last layer with weights is set to zero.
    """
    make = GENERATORS[generator] if isinstance(generator, str) else generator
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(2)) * 2.0 - 1.0
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(make(shape))
    first, second = (network.state_dict() for network in made)
    assert all(torch.equal(first[name], second[name]) for name in first), "weights depend on torch's seed alone"
    assert made[0](images).shape == images.shape, "output and image have the same shape"
    name = GENERATORS.adopt(generator)
    fuse = Fuse(name, shape, torch.Generator().manual_seed(4))
    fuse.calibrate(images)
    assert torch.equal(fuse(images), images), "a new generator changes nothing"
    (fuse.differentiable(images) * images).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in fuse.parameters()), "a gradient reaches its parameters"


def _target() -> SimulatedBackend:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, _CLASSES))
    return SimulatedBackend("smooth", network, _SHAPE, _CLASSES, access=Access.GRADIENTS)


def _fuse() -> Fuse:
    rng = torch.Generator().manual_seed(5)
    fuse = Fuse("MLP", _SHAPE, rng)
    with torch.no_grad():
        for p in fuse.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=rng))
    return fuse


def _made(kind: type[Optimizer], settings: Any, fuse: Fuse) -> Optimizer:
    return kind.create(settings, Problem(_IMAGES, _CLASSES, population=False, seed=0), fuse)


def _step(fuse: Fuse, number: int, **changed: Any) -> Step:
    rng = torch.Generator().manual_seed(7)
    images = (torch.rand((_IMAGES, *_SHAPE), generator=rng) * 2.4 - 1.2).clamp(-1, 1)
    ledger = Ledger(_target(), 10**9)
    given: dict[str, Any] = {
        "number": number, "seed": 0, "fuse": fuse, "index": torch.arange(_IMAGES), "images": images,
        "labels": torch.randint(0, _CLASSES, (_IMAGES,), generator=rng), "weights": torch.rand(_IMAGES, generator=rng) + 0.5,
        "terms": [Term(_CHIP, Head(), 1.0), Term(NOMINAL, Head(), 0.5)], "query": ledger.query,
        "query_with_gradient": ledger.query_with_gradient,
    }  # fmt: skip
    return Step(**{**given, **changed})


def _sends_what_it_declares(kind: type[Optimizer], settings: Any) -> None:
    fuse, sent = _fuse(), 0
    optimizer, before, ledger = _made(kind, settings, fuse), fuse.vector().clone(), Ledger(_target(), 10**9)

    def query(images: Tensor, chip: Chip) -> Tensor:
        nonlocal sent
        sent += len(images)
        assert images.abs().max() <= 1.0, "images stay within [-1, 1]"
        assert kind.access >= Access.GRADIENTS or not images.requires_grad, "a strict optimizer takes no gradient of the target"
        return (ledger.query_with_gradient if images.requires_grad else ledger.query)(images, chip)

    for number in range(3):
        sent, terms = 0, 2 if optimizer.simulated_target is None else 1
        optimizer.update(_step(fuse, number, query=query, query_with_gradient=query), 10)
        if number % optimizer.query_interval == 0:
            declared = terms * _IMAGES * optimizer.queries_per_image
            assert sent == declared, f"it sent {sent} images and declared {declared}"
    assert torch.isfinite(fuse.vector()).all(), "the fuse stays finite"
    if not kind.uses_surrogate:  # an untrained surrogate does not move the fuse
        assert not torch.equal(fuse.vector(), before), "it moves the fuse"


def _continues_identically(kind: type[Optimizer], settings: Any) -> None:
    fuse = _fuse()
    optimizer = _made(kind, settings, fuse)
    for number in range(3):
        optimizer.update(_step(fuse, number), 10)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = _fuse()
    resumed = _made(kind, settings, other)
    other.load_state_dict(copy.deepcopy(fuse.state_dict()))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for number in range(3, 5):
        optimizer.update(_step(fuse, number), 10)
        resumed.update(_step(other, number), 10)
    assert torch.equal(fuse.vector(), other.vector()), "a saved and loaded optimizer continues identically"


def _in_another_process(step: Step, probes: Sequence[Probe]) -> list[Score | None]:
    """Every probe alone, in another order, from a pickled step: as workers score them."""
    plain = {name: value for name, value in vars(step).items() if not name.startswith(("_", "query", "as_received", "scorer"))}
    found: list[Score | None] = [None] * len(probes)
    for place in reversed(range(len(probes))):
        sent, probe = pickle.loads(pickle.dumps((plain, probes[place])))
        found[place] = Step(**sent, query=step.query, query_with_gradient=step.query_with_gradient).scored_here([probe])[0]
    return found


def _depends_on_no_order(kind: type[Optimizer], settings: Any) -> None:
    ended = []
    for scorer in (None, _in_another_process):
        fuse = _fuse()
        optimizer = _made(kind, settings, fuse)
        for number in range(3):
            optimizer.update(_step(fuse, number, scorer=scorer), 10)
        ended.append(fuse.vector())
    assert torch.equal(*ended), "the order in which probes are scored, and where, changes nothing"


def _survives_lost_scores(kind: type[Optimizer], settings: Any) -> None:
    def losing(every: int) -> Any:
        def score(step: Step, probes: Sequence[Probe]) -> list[Score | None]:
            return [None if place % every == 0 else found for place, found in enumerate(step.scored_here(probes))]

        return score

    fuse = _fuse()
    optimizer, before = _made(kind, settings, fuse), fuse.vector().clone()
    optimizer.update(_step(fuse, 0, scorer=losing(1)), 10)
    assert torch.equal(fuse.vector(), before), "without any score the fuse stays as it is"
    for number, every in ((1, 3), (2, 2)):
        optimizer.update(_step(fuse, number, scorer=losing(every)), 10)
    assert torch.isfinite(fuse.vector()).all(), "lost scores leave a finite fuse"
