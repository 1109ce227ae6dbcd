"""The trained parts of a run: the fuse in front of a target and the head behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from backends.base import Chip, InputError, one_line
from bbfuse.config.schema import RunConfig
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import HEADS, CalibratedHead, Head, OfProbabilities
from bbfuse.heads.per_chip import ChipHeads
from bbfuse.querying.responses import logits_of
from bbfuse.runs.folder import settings, trained_parts

__all__ = ["Trained", "Uncalibrated"]


class Uncalibrated(Head):
    """Stands for a head that is not calibrated yet."""

    def forward(self, logits: Tensor) -> Tensor:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError(
            "the head of this run is calibrated for each chip: call calibrate with the chip's responses first, or use the "
            "fuse alone"
        )


class Trained(nn.Module):
    """``head(target(fuse(images)))``. Frozen: its parameters need no gradient unless `requires_grad_` is called.

    ``fuse`` maps images (n, channels, height, width) in [-1, 1] to such images. ``head`` maps responses (n, classes) of the kind
    that the run's target gave, logits or probabilities, to logits, for the run's one chip or the chip of the last `calibrate`.
    """

    def __init__(self, config: RunConfig, fuse: Fuse, head: Head, reference: Tensor, probabilities: bool = False) -> None:
        """``reference`` (n, classes): nominal logits of the images that calibrate a head, no rows if there are none.

        ``probabilities``: whether the target responds with probabilities.
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
    def load(cls, folder: Path, flag: str = "folder", trust: bool = False) -> Trained:
        """The trained parts of the run in ``folder``, which the user gave as ``flag``.

        Raises:
            InputError: it has not ended, its files cannot be read, or they name own code and ``trust`` is false.
        """
        saved, config = trained_parts(folder, flag, trust), settings(folder, flag, trust)
        chip = config.chip
        try:
            reference: Tensor = saved["heads"]["reference"]
            heads = ChipHeads(config.head_name, config.settings_of("head"), chip, reference[:0], reference.shape[1], _no_query)
            heads.load_state_dict(saved["heads"])
            fuse, probabilities = Fuse.of(saved), saved["answers"] == "probabilities"
        except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            words = one_line(error)
            raise InputError(f"{flag} {folder / 'fuse.pt'} is not that of its config.json: {words}") from error
        calibrated = issubclass(HEADS[config.head_name], CalibratedHead)
        known = chip is not None or not calibrated
        head = heads.head_for(chip or Chip(config.bit_error_rate)) if known else Uncalibrated()
        if saved["kept_parts"] is not None and "head" not in saved["kept_parts"]:
            head = Head()
        return cls(config, fuse, head, reference, probabilities)

    @property
    def response_kind(self) -> str:
        """What the target responds with and the head takes: ``logits`` or ``probabilities``."""
        return "probabilities" if self._probabilities else "logits"

    @property
    def calibrating_images(self) -> int:
        """Number of images, the first owned ones of the run, whose responses `calibrate` needs; 0 if the head is ready."""
        return len(self._reference) if isinstance(self.head, Uncalibrated) else 0

    def calibrate(self, responses: Tensor, reference: Tensor | None = None) -> None:
        """Calibrate the head standardize for a chip; it replaces the present head.

        ``responses`` (n, classes) are the chip's to some raw images, ``reference`` (n, classes) the nominal ones to the same
        images. If ``reference`` is not given it is that of the run, for the first `calibrating_images` owned images.

        Raises:
            InputError: the run has another head, or the two do not fit each other.
        """
        kind = HEADS[self.config.head_name]
        if not issubclass(kind, CalibratedHead):
            raise InputError(f"the head {self.config.head_name} of this run is not calibrated for other chips: use it as it is")
        if self._probabilities:
            responses, reference = logits_of(responses), None if reference is None else logits_of(reference)
        reference = self._reference if reference is None else reference
        if responses.shape != reference.shape or responses.ndim != 2 or responses.shape[1] != self.classes or len(responses) < 2:
            raise InputError(
                f"responses must have the shape of reference, at least 2 rows of {self.classes}: got {list(responses.shape)} and "
                f"{list(reference.shape)}"
            )
        self.head = self._behind(kind.create(self.config.settings_of("head"), responses, reference)).eval()

    def _behind(self, head: Head) -> Head:
        """``head`` for the kind of the target's responses; a head that changes nothing also leaves probabilities unchanged."""
        changes = type(head) not in (Head, Uncalibrated)
        return OfProbabilities(head) if self._probabilities and changes else head

    def forward(self, images: Tensor, target: Callable[[Tensor], Tensor]) -> Tensor:
        """Corrected logits (n, classes) of ``images`` (n, channels, height, width) in [-1, 1]; ``target``: images to logits."""
        corrected: Tensor = self.head(target(self.fuse(images)))
        return corrected


def _no_query(images: Tensor, chip: Chip) -> Tensor:
    raise InputError("the run has ended: no more queries are sent to its target")
