"""How a run divides its query budget, and what it will send: known before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from backends.base import InputError
from backends.datasets.base import Dataset
from backends.settings import changed
from bbfuse.config.schema import RunConfig
from bbfuse.heads.per_chip import ChipHeads
from bbfuse.objective.eopm import Eopm
from bbfuse.optimizers.base import Optimizer
from bbfuse.querying.drift import DriftCheck
from bbfuse.querying.scheduling import IMAGES_PER_REQUEST
from bbfuse.training.evaluation import report_images

__all__ = ["Plan", "Price", "Queries", "ReportSize", "objective_of", "plan", "report_size"]

_FEWEST_REPORTED = 100
"""Images below which the report uses fewer chips instead."""
_LEAST_REPORTED = 10


@dataclass(frozen=True)
class Queries:
    """Images that are sent, and the number of requests without retries."""

    images: int = 0
    requests: int = 0

    @staticmethod
    def of(images: int, limit: int | None = None) -> Queries:
        """One query of ``images`` images, split into requests of at most 128, and again at a server's ``limit``."""
        whole, rest = divmod(images, IMAGES_PER_REQUEST)
        limit = limit or IMAGES_PER_REQUEST
        return Queries(images, whole * math.ceil(IMAGES_PER_REQUEST / limit) + math.ceil(rest / limit))

    def __add__(self, other: Queries) -> Queries:
        return Queries(self.images + other.images, self.requests + other.requests)

    def __mul__(self, times: int) -> Queries:
        return Queries(self.images * times, self.requests * times)


@dataclass(frozen=True)
class Price:
    """What one step with queries sends."""

    whole: Queries
    """With all terms of the objective; the budget is planned for this."""
    nominal: Queries
    """With the clean term alone, see `Eopm.is_nominal`."""

    def of(self, objective: Eopm, steps: range) -> Queries:
        """What these steps of the run send in total."""
        nominal = sum(objective.is_nominal(step) for step in steps)
        return self.whole * (len(steps) - nominal) + self.nominal * nominal


@dataclass(frozen=True)
class ReportSize:
    """Held-out images and chips (0 with `no_chip`) of the closing report; images that it would send without `report.share`."""

    images: int
    chips: int
    whole: int


def objective_of(config: RunConfig) -> Eopm:
    """The objective that ``config`` describes."""
    return Eopm(config.eopm, config.bit_error_rate, config.chip, config.seed)


def report_size(config: RunConfig, available: int, images_per_chip: int) -> ReportSize:
    """The closing report of ``config`` with ``available`` held-out images and a head that needs ``images_per_chip``.

    With `report.images` it has that many. Without, it has all of them, or as many as `report.share` of the budget allows; if
    that is less than 100, fewer chips, unless their number was set. A share of 1 is no limit.
    """
    report = config.report
    chips = report.chips if config.chip is None else int(not config.no_chip)
    images = available if report.images is None else min(report.images, available)
    whole = report_images(images, chips, images_per_chip)
    if report.images is not None or report.share == 1.0:
        return ReportSize(images, chips, whole)
    limit = math.floor(report.share * config.budget)

    def affordable(chips: int) -> int:
        return min((limit - chips * images_per_chip) // (2 * (1 + chips)), available)

    while affordable(chips) < min(_FEWEST_REPORTED, available) and chips > 1 and "chips" not in changed(report):
        chips -= 1
    return ReportSize(max(affordable(chips), min(_LEAST_REPORTED, available)), chips, whole)


@dataclass(frozen=True)
class Plan:
    """How far the budget reaches."""

    steps: int
    validations: int
    training_limit: int
    """Images that may be sent until the closing report; the rest is reserved for it."""
    before_training: Queries
    """Calibration and labels."""
    step: Price
    """The most expensive step after those of `warm_up`."""
    exact: bool
    """Whether all steps cost that; when a fuse grows is not known in advance."""
    warm_up_steps: int
    """The first steps, which find a colour mix for `warm_up`."""
    warm_up_step: Price
    interval: int
    """Only every so many steps send queries, the first one among them."""
    validation: Queries
    """One validation."""
    report: Queries
    drift_check: Queries
    """One drift check."""
    drift_checks: int
    """Number of them during training, after two before it; 0 if there are none at all."""
    start: Queries = Queries()
    """Scores of corrections for the start of the fuse."""
    selection: Queries = Queries()
    """Validation inputs, raw and fused, for the choice of the parts that are kept."""

    def validates(self, step: int) -> bool:
        """Whether a validation is due before step ``step`` (after the last one for ``step == steps``).

        At the end, at a half, a quarter, ... of the steps, and at the beginning: evenly spread where images have a log axis.
        """
        halvings = max(self.validations - 1, 1) if self.validations else 0
        return (step == 0 and self.validations > 1) or any(step == round(self.steps / 2**j) for j in range(halvings))

    def checks_drift(self, step: int) -> bool:
        """Whether a drift check is due before step ``step`` (after the last one for ``step == steps``): evenly spread."""
        checks = self.drift_checks
        return step > 0 and any(step == round(self.steps * part / checks) for part in range(1, checks + 1))

    def sent(self, objective: Eopm) -> dict[str, Queries]:
        """What the whole run sends, by purpose: exactly, without retries and kills; an upper bound if the plan is not `exact`."""
        first, rest = range(self.warm_up_steps), range(self.warm_up_steps, self.steps, self.interval)
        checked = sum(self.checks_drift(step) for step in range(self.steps + 1))
        sometimes = {name: sent for name, sent in (("start", self.start), ("selection", self.selection)) if sent.images}
        return {
            "watch": self.drift_check * (2 + checked),
            "warm_up": self.before_training,
            "training": self.warm_up_step.of(objective, first) + self.step.of(objective, rest),
            "validation": self.validation * sum(self.validates(step) for step in range(self.steps + 1)),
            "report": self.report,
            **sometimes,
        }


def plan(
    config: RunConfig, data: Dataset, objective: Eopm, heads: ChipHeads, optimizers: Sequence[Optimizer], drift: DriftCheck,
    size: ReportSize, limit: int | None = None, start: Sequence[int] = (),
) -> Plan:  # fmt: skip
    """Divide the budget among the ``optimizers`` of all stages, in order, for a server that takes ``limit`` images per request.

    ``start`` are the images of each query that finds the start of the fuse.

    Raises:
        InputError: it does not allow a single step.
    """
    query = partial(Queries.of, limit=limit)
    checked = query(min(config.validation.images, len(data.validation)))
    calibration = query(heads.images_per_chip) if config.chip is None else Queries()
    first_images = (*heads.queries_before_training, optimizers[0].images_before_training)
    before_training = sum((query(images) for images in first_images), Queries())
    if config.labels == "target":
        before_training = query(len(data.train)) + checked + before_training
    batch = query(min(config.batch_size, len(data.train)))
    prices = [_price(objective, batch, calibration, optimizer) for optimizer in optimizers]
    first, rest = prices[0], prices[bool(config.warm_up) :]
    step = max(rest, key=lambda price: price.whole.images)
    warm_up_steps = config.warm_up // first.whole.images if config.warm_up else 0
    if config.warm_up and not warm_up_steps:
        raise InputError(
            f"`warm_up={config.warm_up}` does not allow one step of the warm-up: give at least {first.whole.images}, or 0"
        )
    validation = checked + calibration
    report = query(size.images) * (2 * (1 + size.chips)) + calibration * size.chips
    reported = report_images(size.images, size.chips, heads.images_per_chip)
    check = sum((query(images) for images in drift.queries_per_check), Queries())
    started = sum((query(images) for images in start), Queries())
    selection = checked * (2 * config.no_chip)
    before = before_training.images + started.images + warm_up_steps * first.whole.images + (2 + drift.times) * check.images
    other = before + config.validation.times * validation.images + selection.images
    free = _free(config, other, reported, size.whole, step.whole.images)
    last = optimizers[-1]  # all stages but the warm-up have the same kind of optimizer
    steps = free // step.whole.images * last.query_interval if step.whole.images else last.steps
    return Plan(
        steps=warm_up_steps + steps, validations=config.validation.times,
        # for the rest its part of the reserve, too
        training_limit=config.budget - selection.images - reported - math.floor(config.remote.reserve * reported),
        before_training=before_training, step=step, exact=all(price == step for price in rest), warm_up_steps=warm_up_steps,
        warm_up_step=first, interval=last.query_interval, validation=validation, report=report, start=started,
        selection=selection, drift_check=check, drift_checks=drift.times,
    )  # fmt: skip


def _free(config: RunConfig, other: int, reported: int, whole: int, step: int) -> int:
    """Images for training; one request is reserved for a run that is killed with requests in flight.

    Raises:
        InputError: fewer than one ``step`` sends.
    """
    reserve = math.floor(config.remote.reserve * config.budget)
    free: int = config.budget - other - reported - reserve - IMAGES_PER_REQUEST
    if free < step:
        used = config.budget - free
        # the smallest budget that, less its reserve rounded down, has room for the others
        needed = other + IMAGES_PER_REQUEST + step
        least = math.floor((needed + whole - 1) / (1.0 - config.remote.reserve)) + 1
        share = config.remote.reserve + config.report.share
        if config.report.images is None and share < 1.0:  # a report that grows with the budget
            least = min(least, math.ceil(needed / (1.0 - share)))
        retries = f", {reserve} of them for retries (`remote.reserve`)" if reserve else ""
        raise InputError(
            f"`budget={config.budget}` does not allow one step: {used} images go to all but the training{retries}, {step} to a "
            f"step; give at least {least}"
        )
    return free


def _price(objective: Eopm, batch: Queries, calibration: Queries, optimizer: Optimizer) -> Price:
    """What a step of ``optimizer`` sends; ``calibration`` is that of one chip's head."""
    term = batch * optimizer.queries_per_image
    if optimizer.simulated_target is not None:
        return Price(term, term)
    return Price(term * objective.terms_per_step + calibration * objective.chips_per_step, term)
