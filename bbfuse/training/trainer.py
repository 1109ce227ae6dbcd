"""The training loop, the same for every optimizer and backend: draw a batch and chips, update the fuse, record the step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backends.base import NOMINAL, BackendInfo, Chip, InputError
from backends.datasets.base import Dataset, Split
from backends.training.augmentation import moved
from backends.training.recipe import recipe_for
from bbfuse import seeds
from bbfuse.callbacks.base import Callback, Start, Status
from bbfuse.config.schema import RunConfig
from bbfuse.config.serialization import to_dict
from bbfuse.heads.base import HEADS
from bbfuse.heads.per_chip import ChipHeads
from bbfuse.objective.step import Scorer, Step
from bbfuse.optimizers.base import Problem, linear_decay
from bbfuse.querying.budget import BudgetSpentError
from bbfuse.querying.drift import DriftCheck
from bbfuse.querying.ledger import Ledger
from bbfuse.querying.responses import Responses
from bbfuse.querying.scheduling import IMAGES_PER_REQUEST
from bbfuse.runs.folder import RunFolder
from bbfuse.runs.warm_start import warm_start
from bbfuse.training import start
from bbfuse.training.evaluation import accuracies, accuracy
from bbfuse.training.planning import objective_of, plan, report_size
from bbfuse.training.sampling import Sampler
from bbfuse.training.selection import COMBINATIONS, best, keep, right_predictions
from bbfuse.training.stages import Stages

__all__ = ["Trainer"]


class Trainer:
    """One run, from its first query to its accuracies. ``run`` works on a new and on a resumed folder."""

    def __init__(
        self, config: RunConfig, info: BackendInfo, data: Dataset, ledger: Ledger, folder: RunFolder | None,
        scorer: Scorer | None = None,
    ) -> None:  # fmt: skip
        """Build everything; no query is sent yet. Without a ``folder`` the run can be planned only.

        Probes are scored by ``scorer``, in this process if not given.

        Raises:
            InputError: the settings do not fit each other, the target or the budget.
        """
        shape = data.image_shape
        if shape != info.image_shape or data.classes != info.classes:
            takes = f"{info.name} takes images {info.image_shape} and has {info.classes} classes"
            raise InputError(f"{takes}, but `data={data.name}` has {shape} and {data.classes}")
        if config.augment and len(shape) != 3:
            raise InputError(f"`augment` is for images, but `data={data.name}` has inputs of the shape {shape}: drop it")
        self.config = config
        self.ledger = ledger
        self._folder = folder
        self._scorer = scorer
        self.chip = config.chip
        data = data.on(config.device)
        self._head_settings = settings = config.settings_of("head")
        raw = data.train.images[: getattr(settings, "images", HEADS[config.head_name].default_images)]
        self.heads = ChipHeads(config.head_name, settings, self.chip, raw, info.classes, ledger.query)
        self.report = report_size(config, len(data.test), self.heads.images_per_chip)
        self.held_out = len(data.test)
        self.data = data = dataclasses.replace(data, test=data.test[: self.report.images])
        earlier = warm_start(config, info.image_shape, folder)
        if earlier is not None and earlier["heads"] is not None:
            self.heads.warm_start(earlier["heads"])
        self.objective = objective_of(config)
        problem = Problem(
            len(data.train), info.classes, self.chip is None, config.seed, config.memory, config.surrogate, config.no_chip
        )  # fmt: skip
        self.stages = Stages(config, problem, shape, data.train.images, earlier["fuse"] if earlier is not None else None)
        self.fuse = self.stages.fuse
        chip = self.chip or Chip(config.bit_error_rate, seeds.training_chips(config.seed, 0, 1)[0])
        self.drift = DriftCheck(data.train.images, chip, config.remote.checks)
        self.plan = plan(
            config, data, self.objective, self.heads, self.stages.optimizers(), self.drift, self.report, info.limit,
            start.queries(config, self.fuse, len(data.train)),
        )  # fmt: skip
        ledger.scheduler.at_risk = IMAGES_PER_REQUEST  # what the plan reserves for a run that is killed
        self.sampler = Sampler(len(data.train), config.batch_size, config.sampling == "hard")
        self.head_optimizer = torch.optim.Adam(self.heads.trained.parameters()) if self.heads.trained else None
        self.labels = data.train.labels
        self.validation_labels = data.validation.labels
        self.step = 0
        self.loss: float | None = None
        self.validation: float | None = None
        self.kept_parts: list[str] | None = None
        """The trained parts that validation supports; ``None`` before it was asked, and in runs that keep all."""
        self._callback = Callback()

    @property
    def folder(self) -> RunFolder:
        """The folder that the run is recorded in."""
        assert self._folder is not None
        return self._folder

    def status(self) -> Status:
        """The present state of the run."""
        return Status(self.ledger.images, self.config.budget, self.step, self.plan.steps, self.loss, self.validation)

    def run(
        self, show: Callable[[Status], None], checkpoint_seconds: float = 10.0, say: Callable[[str], None] = lambda _: None,
        callback: Callback | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Train until the budget is spent, measure, and return the accuracies; ``say`` takes one-line notes for the user.

        ``show`` displays the progress, ``callback`` is called at the start, after each step and after each validation.

        Raises:
            BudgetSpentError: retries used up what was reserved for the report.
            TargetError: the target failed; everything up to the last whole step is in the checkpoint.
        """
        self.ledger.limit = self.plan.training_limit
        state = self.folder.load()
        if state is not None:
            self._load(state)
        self._callback = callback or self._callback
        self._callback.on_start(Start(to_dict(self.config), self.folder.path, self.step))
        try:
            if state is None:
                for line in self.drift.first_check(self.ledger):
                    say(line)
                self._before_training()
                self.save()
            saved = time.monotonic()
            while self.step < self.plan.steps:
                if self.stages.advance(self.step, self.plan.steps, self.plan.warm_up_steps):
                    self.folder.event({"step": self.step, "images": self.ledger.images, "generator": self.fuse.name})
                self._check()
                self.loss = self._train_step()
                self.stages.observe(self.loss)
                self.step += 1
                event, trust = {"step": self.step, "images": self.ledger.images, "loss": self.loss}, self.stages.optimizer.trust
                self.folder.event(event if trust is None else {**event, "trust": trust})
                show(self.status())
                self._callback.on_step(self.status())
                if time.monotonic() - saved > checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
            self._check()
            show(self.status())
        except BudgetSpentError:
            pass  # retries have used up the rest; the fuse as it is now is reported
        self.ledger.limit = self.config.budget
        if not self.config.no_chip:
            return accuracies(self.ledger.query, self.fuse, self.heads, self.data.test, self._reported())
        checked = dataclasses.replace(self.data.validation, labels=self.validation_labels)[: self.config.validation.images]
        parts = best(right_predictions(self.ledger.query, self.fuse, self.heads, checked, NOMINAL))
        found = accuracies(self.ledger.query, self.fuse, self.heads, self.data.test, self._reported())
        self.kept_parts = list(parts)
        keep(parts, self.fuse, self.heads)
        return {**found, "kept": found[COMBINATIONS[parts]]}

    def smaller_report(self) -> str | None:
        """A note on what the closing report leaves out to stay within its share of the budget; ``None`` if nothing."""
        chips = self.config.report.chips if self.chip is None else self.report.chips
        if self.config.report.images is not None or (self.report.images, self.report.chips) == (self.held_out, chips):
            return None
        fewer = f" and {self.report.chips} of {chips} chips" if self.report.chips < chips else ""
        return (
            f"closing report on {self.report.images} of {self.held_out} held-out images{fewer}, so that it takes at most "
            f"{100 * self.config.report.share:.0f} % of the budget; `report.images` sets another number"
        )

    def fused(self, images: Tensor) -> Tensor:
        """The output of the present fuse for ``images``."""
        with torch.no_grad():
            result: Tensor = self.fuse(images)
        return result

    def trained(self) -> dict[str, Any]:
        """The trained fuse and heads, for ``fuse.pt``."""
        return {
            "generator": self.fuse.name,
            "image_shape": list(self.data.image_shape),
            "fuse": {name: tensor.cpu() for name, tensor in self.fuse.state_dict().items()},
            "heads": self.heads.state_dict(),
            "answers": self.ledger.kind,
            **({} if self.kept_parts is None else {"kept_parts": self.kept_parts}),
        }

    def save(self) -> None:
        """Write a checkpoint of everything that changes."""
        self.folder.save({
            "step": self.step, "loss": self.loss, "validation": self.validation,
            "stages": self.stages.state_dict(), "heads": self.heads.state_dict(),
            "head_optimizer": self.head_optimizer.state_dict() if self.head_optimizer else None,
            "difficulty": self.sampler.difficulty, "labels": (self.labels, self.validation_labels),
            "ledger": self.ledger.state_dict(), "watch": self.drift.state_dict(),
        })  # fmt: skip
        self.ledger.checkpointed()

    def _load(self, state: dict[str, Any]) -> None:
        self.step, self.loss, self.validation = state["step"], state["loss"], state["validation"]
        self.stages.load_state_dict(state["stages"])
        self.heads.load_state_dict(state["heads"])
        if self.head_optimizer:
            self.head_optimizer.load_state_dict(state["head_optimizer"])
        self.sampler.difficulty = state["difficulty"]
        self.labels, self.validation_labels = state["labels"]
        self.ledger.load_state_dict(state["ledger"])
        self.drift.load_state_dict(state["watch"])

    def _before_training(self) -> None:
        owned, received = self.data.train.images, []
        if self.config.labels == "target":
            checked = self.data.validation.images[: self.config.validation.images]
            received.append(Responses(owned, NOMINAL, self.ledger.query(owned, NOMINAL)))
            self.labels = received[0].logits.argmax(1)
            self.validation_labels = self.ledger.query(checked, NOMINAL).argmax(1)
        responses = self.heads.fit(self.labels)
        if responses is not None:
            assert self.chip is not None
            received.append(Responses(owned[: len(responses)], self.chip, responses))
            corrected = self.heads.head_for(self.chip)(responses).detach()
            of_label = corrected.softmax(1).gather(1, self.labels[: len(responses), None])[:, 0]
            self.sampler.observe(torch.arange(len(of_label)), 1.0 - of_label)
        if (
            begun := start.starting(self.config, self.fuse, Split(owned, self.labels), self.heads, self.ledger.query)
        ) is not None:
            self.stages.restart()
            received += begun.received
            found = {"start": begun.correction.name, "start_loss": begun.loss}
            self.folder.event({"step": 0, "images": self.ledger.images, **found})
        received += self.ledger.unused((NOMINAL, self.chip))
        self.stages.optimizer.prepare(Split(owned, self.labels), received, self.ledger.query)

    def _train_step(self) -> float | None:
        index, weights = self.sampler.draw(seeds.stream(self.config.seed, "batch", self.step))
        begun = self.stages.begun
        images = self.data.train.images[index]
        if self.config.augment:
            moves = dataclasses.replace(recipe_for(self.data.image_shape), each=True)
            images = moved(images, moves, seeds.stream(self.config.seed, "augment", self.step))
        if self.config.precision == "bfloat16" and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)  # the faster memory layout
        model = self.stages.optimizer.simulated_target
        terms = self.objective.terms(self.step, lambda chip: self.heads.head_for(chip, model), model is not None)
        step = Step(
            number=self.step - begun, seed=self.stages.seed, fuse=self.fuse, index=index, images=images,
            labels=self.labels[index], weights=weights, terms=terms, query=self.ledger.query,
            query_with_gradient=self.ledger.query_with_gradient, as_received=self.ledger.as_received,
            query_all=self.ledger.query_all, scorer=self._scorer, hard=self.config.sampling == "hard",
        )  # fmt: skip
        if self.head_optimizer:
            self.head_optimizer.zero_grad()
        with self._multiplying():
            self.stages.optimizer.update(step, self.plan.steps - begun)
        finished = step.finish()
        if finished is None:
            return None
        loss, difficulty = finished
        if len(difficulty):
            self.sampler.observe(index, difficulty)
        if self.head_optimizer:
            for group in self.head_optimizer.param_groups:
                group["lr"] = linear_decay(self._head_settings.lr, self.step, self.plan.steps)
            self.head_optimizer.step()
        return loss

    def _multiplying(self) -> torch.autocast:
        return torch.autocast(
            self.config.device.partition(":")[0], torch.bfloat16, enabled=self.config.precision == "bfloat16"
        )  # fmt: skip

    def _check(self) -> None:
        """The drift check and the validation that are due before the present step."""
        if self.plan.checks_drift(self.step):
            drift = self.drift.check(self.ledger)
            self.folder.event({"step": self.step, "images": self.ledger.images, "drift": drift})
        if self.plan.validates(self.step):
            self._validate()

    def _validate(self) -> None:
        chip = self.chip or Chip(self.config.bit_error_rate, seeds.validation_chip(self.step))
        images = self.data.validation.images[: self.config.validation.images]
        with torch.no_grad():
            logits: Tensor = self.heads.head_for(chip)(self.ledger.query(self.fused(images), chip))
        self.validation = accuracy(logits, self.validation_labels[: len(images)])
        self.folder.event({"step": self.step, "images": self.ledger.images, "validation": self.validation})
        self._callback.on_validation(self.status())

    def _reported(self) -> list[Chip]:
        if self.chip is not None:
            return [self.chip] if self.report.chips else []
        return [Chip(self.config.bit_error_rate, number) for number in seeds.reporting_chips(self.report.chips)]
