"""How a run lays its budget out, and what it will send: known before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from backends.base import InputError
from backends.datasets.base import Dataset
from bbfuse import seeds
from bbfuse.config.schema import RunConfig
from bbfuse.heads.base import Heads
from bbfuse.optimizers.base import Method
from bbfuse.querying.drift import Watch
from bbfuse.querying.ledger import IMAGES_PER_REQUEST
from bbfuse.training.evaluation import report_images

__all__ = ["Plan", "Price", "Queries", "nominal_drawn", "plan"]


@dataclass(frozen=True)
class Queries:
    """What is sent: images, and the requests that carry them when none is sent again."""

    images: int = 0
    requests: int = 0

    @staticmethod
    def of(images: int, limit: int | None = None) -> Queries:
        """One question about so many images, cut as `bbfuse.querying.ledger` cuts it, and that again at a server's ``limit``."""
        whole, rest = divmod(images, IMAGES_PER_REQUEST)
        limit = limit or IMAGES_PER_REQUEST
        return Queries(images, whole * math.ceil(IMAGES_PER_REQUEST / limit) + math.ceil(rest / limit))

    def __add__(self, other: Queries) -> Queries:
        return Queries(self.images + other.images, self.requests + other.requests)

    def __mul__(self, times: int) -> Queries:
        return Queries(self.images * times, self.requests * times)


@dataclass(frozen=True)
class Price:
    """What a step sends in which the method asks."""

    whole: Queries
    """Every term of the objective: what the budget allows for."""
    nominal: Queries
    """It drew nominal voltage, see `nominal_drawn`."""

    def of(self, config: RunConfig, steps: range) -> Queries:
        """What these steps of the run send together."""
        nominal = sum(nominal_drawn(config, step) for step in steps)
        return self.whole * (len(steps) - nominal) + self.nominal * nominal


@dataclass(frozen=True)
class Plan:
    """How far the budget reaches."""

    steps: int
    validations: int
    training_limit: int
    """Images that may be sent until the closing report, for which the rest is kept."""
    warm_up: Queries
    """Before the first step."""
    step: Price
    """The dearest after the warm-up by CMA-ES."""
    exact: bool
    """Whether all of them cost that; when a fuse grows is not known in advance."""
    warm_up_steps: int
    """Those of ``--warm-up``, the first of all steps."""
    warm_up_step: Price
    every: int
    """Only every so many steps ask, the first one among them."""
    validation: Queries
    """One of them."""
    report: Queries
    watch: Queries
    """Asking once about the target itself."""
    watches: int
    """How often after the opening, which asks twice; 0 if never at all."""

    def validates(self, step: int) -> bool:
        """Whether a validation is due before step ``step`` (after the last one for ``step == steps``).

        At the end, at a half, a quarter, ... of the steps, and at the beginning: evenly spread where images have a log axis.
        """
        halvings = max(self.validations - 1, 1) if self.validations else 0
        return (step == 0 and self.validations > 1) or any(step == round(self.steps / 2**j) for j in range(halvings))

    def watches_at(self, step: int) -> bool:
        """Whether the target is watched before step ``step`` (after the last one for ``step == steps``): evenly spread."""
        return step > 0 and any(step == round(self.steps * part / self.watches) for part in range(1, self.watches + 1))

    def sent(self, config: RunConfig) -> dict[str, Queries]:
        """What the whole run sends, by purpose: exactly, if no request is sent again and the run is not killed.

        An upper bound if the plan is not `exact`.
        """
        first, rest = range(self.warm_up_steps), range(self.warm_up_steps, self.steps, self.every)
        watched = sum(self.watches_at(step) for step in range(self.steps + 1))
        return {
            "watch": self.watch * (2 + watched),
            "warm_up": self.warm_up,
            "training": self.warm_up_step.of(config, first) + self.step.of(config, rest),
            "validation": self.validation * sum(self.validates(step) for step in range(self.steps + 1)),
            "report": self.report,
        }


def nominal_drawn(config: RunConfig, step: int) -> bool:
    """Whether step ``step`` asks at nominal voltage alone: it draws one kind of term by the weights of the two kinds."""
    clean, perturbed = config.clean_weight, config.eopm.perturbed_weight
    if clean == 0 or config.eopm.terms == "all":
        return False
    return torch.rand((), generator=seeds.stream(config.seed, "term", step)).item() < clean / (clean + perturbed)


def plan(
    config: RunConfig, data: Dataset, heads: Heads, methods: Sequence[Method], watch: Watch, limit: int | None = None
) -> Plan:
    """How the budget is laid out for the ``methods`` of all stages, in order, before a server that takes ``limit`` at once.

    Raises:
        InputError: it does not allow a single step.
    """
    population = config.chip_seed is None
    question = partial(Queries.of, limit=limit)
    checked = question(min(config.validation.images, len(data.validation)))
    met = question(heads.images_per_chip) if population else Queries()
    warm_up = sum((question(images) for images in (*heads.asked_first, methods[0].images_first)), Queries())
    if config.labels == "target":
        warm_up = question(len(data.train)) + checked + warm_up
    batch = question(min(config.batch_size, len(data.train)))
    prices = [_price(config, batch, met, method) for method in methods]
    first, rest = prices[0], prices[bool(config.warm_up) :]
    step = max(rest, key=lambda price: price.whole.images)
    warm_up_steps = config.warm_up // first.whole.images if config.warm_up else 0
    if config.warm_up and not warm_up_steps:
        raise InputError(f"--warm-up {config.warm_up} does not allow one step of it: give at least {first.whole.images}, or 0")
    validation = checked + met
    chips = config.report.chips if population else 1
    report = question(len(data.test)) * (2 * (1 + chips)) + met * chips
    kept = report_images(len(data.test), chips, heads.images_per_chip)
    asked = sum((question(images) for images in watch.asked_once), Queries())
    before = warm_up.images + warm_up_steps * first.whole.images + (2 + watch.times) * asked.images
    # one request is kept back for a run that is killed while its answer is under way
    reserve = math.floor(config.remote.reserve * config.budget)
    free = config.budget - before - config.validation.times * validation.images - kept - reserve - IMAGES_PER_REQUEST
    if free < step.whole.images:
        taken = config.budget - free
        # the smallest budget that, less its reserve rounded down, has room for the others
        least = math.floor((taken - reserve + step.whole.images - 1) / (1.0 - config.remote.reserve)) + 1
        retries = f", {reserve} of them kept by --remote.reserve" if reserve else ""
        raise InputError(
            f"--budget {config.budget} does not allow one step: {taken} images go to all but the training"
            f"{retries}, {step.whole.images} to a step; give at least {least}"
        )
    last = methods[-1]  # one kind of method trains all stages but the warm-up
    steps = free // step.whole.images * last.every if step.whole.images else last.steps
    return Plan(
        steps=warm_up_steps + steps, validations=config.validation.times,
        training_limit=config.budget - kept - math.floor(config.remote.reserve * kept),  # the report has its share of the reserve
        warm_up=warm_up, step=step, exact=all(price == step for price in rest), warm_up_steps=warm_up_steps, warm_up_step=first,
        every=last.every, validation=validation, report=report, watch=asked, watches=watch.times,
    )  # fmt: skip


def _price(config: RunConfig, batch: Queries, met: Queries, method: Method) -> Price:
    """That of ``method``; ``met`` calibrates the head of a chip."""
    term = batch * method.answers_per_image
    return Price(term * config.terms + met * config.chips_per_step if method.model is None else term, term)
