"""What a run was trained to, in use: the fuse in front of a target, the head behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from backends.base import Chip, InputError
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import HEADS, CalibratedHead, Head, OfProbabilities
from bbfuse.heads.per_chip import ChipHeads
from bbfuse.querying.responses import logits_of
from bbfuse.runs.folder import settings, trained_parts

__all__ = ["Trained", "Uncalibrated"]


class Uncalibrated(Head):
    """The place of a head that has not met its chip yet."""

    def forward(self, logits: Tensor) -> Tensor:
        """Refused.

        Raises:
            InputError: always.
        """
        raise InputError(
            "the head of this run is calibrated for each chip: call calibrate with the chip's responses first, or use the "
            "fuse alone"
        )


class Trained(nn.Module):
    """``head(target(fuse(images)))``. Frozen: nothing in it is on the tape unless `requires_grad_` puts it there.

    ``fuse`` takes and gives images (n, channels, height, width) in [-1, 1]; ``head`` takes what the run's target answered with,
    logits or probabilities (n, classes), and gives logits, for the run's one chip, or for that of the last `calibrate`.
    """

    def __init__(self, config: RunConfig, fuse: Fuse, head: Head, reference: Tensor, probabilities: bool = False) -> None:
        """``reference`` (n, classes): nominal logits to the images that calibrate a head, none if none were asked.

        ``probabilities``: what the target answers with.
        """
        super().__init__()
        self.config = config
        """The settings of the run."""
        self.fuse = fuse
        self._probabilities = probabilities
        self.head = self._behind(head)
        self.classes = reference.shape[1]
        self._reference: Tensor
        self.register_buffer("_reference", reference, persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path, flag: str = "folder") -> Trained:
        """What the run in ``folder``, which the user gave as ``flag``, has left.

        Raises:
            InputError: it has not ended, or its files cannot be read.
        """
        saved, config = trained_parts(folder, flag), settings(folder, flag)
        chip = None if config.chip_seed is None else Chip(config.bit_error_rate, config.chip_seed)
        try:
            reference: Tensor = saved["heads"]["reference"]
            heads = ChipHeads(config.head_name, config.settings_of("head"), chip, reference[:0], reference.shape[1], _no_query)
            heads.load_state_dict(saved["heads"])
            fuse, probabilities = Fuse.of(saved), saved["answers"] == "probabilities"
        except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            words = " ".join(str(error).split())[:200]
            raise InputError(f"{flag} {folder / 'fuse.pt'} is not that of its config.json: {words}") from error
        calibrated = issubclass(HEADS[config.head_name], CalibratedHead)
        known = chip is not None or not calibrated
        return cls(
            config,
            fuse,
            heads.head_for(chip or Chip(config.bit_error_rate)) if known else Uncalibrated(),
            reference,
            probabilities,
        )

    @property
    def answers(self) -> str:
        """What the head takes, as the target gives it: ``logits`` or ``probabilities``."""
        return "probabilities" if self._probabilities else "logits"

    @property
    def calibrating_images(self) -> int:
        """How many images, the first ones that the run owned, `calibrate` wants the answers to; 0 if the head fits already."""
        return len(self._reference) if isinstance(self.head, Uncalibrated) else 0

    def calibrate(self, answers: Tensor, reference: Tensor | None = None) -> None:
        """Fit the head standardize to a chip, in place of the one that is there.

        ``answers`` (n, classes), the chip's to some raw images, get the mean and sd of ``reference`` (n, classes), the clean
        target's to the same images; if not given to those that the run asked, whose images are the first that it owned.

        Raises:
            InputError: the run has another head, or the two do not fit each other.
        """
        kind = HEADS[self.config.head_name]
        if not issubclass(kind, CalibratedHead):
            raise InputError(f"the head {self.config.head_name} of this run is not calibrated for other chips: use it as it is")
        if self._probabilities:
            answers, reference = logits_of(answers), None if reference is None else logits_of(reference)
        reference = self._reference if reference is None else reference
        if answers.shape != reference.shape or answers.ndim != 2 or answers.shape[1] != self.classes or len(answers) < 2:
            raise InputError(
                f"answers must have the shape of reference, at least 2 rows of {self.classes}: got {list(answers.shape)} and "
                f"{list(reference.shape)}"
            )
        self.head = self._behind(kind.create(self.config.settings_of("head"), answers, reference)).eval()

    def _behind(self, head: Head) -> Head:
        """``head`` for what the target answers with; a head that changes nothing leaves probabilities what they are."""
        changes = type(head) not in (Head, Uncalibrated)
        return OfProbabilities(head) if self._probabilities and changes else head

    def forward(self, images: Tensor, target: Callable[[Tensor], Tensor]) -> Tensor:
        """Corrected logits (n, classes) of ``images`` (n, channels, height, width) in [-1, 1]; ``target``: images to logits."""
        corrected: Tensor = self.head(target(self.fuse(images)))
        return corrected


def _no_query(images: Tensor, chip: Chip) -> Tensor:
    raise InputError("the run is over: its target is not asked any more")
