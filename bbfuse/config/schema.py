"""The configuration of a run: one frozen dataclass whose fields are the settings, in Python, in JSON and as flags.

Sections with the settings of a component (optimizer, head, backend) are declared in the component's file and added here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Predicate

from backends.base import NOMINAL, Chip
from backends.files import short_name
from backends.kinds.base import BACKENDS
from backends.memory.config import Memory
from backends.registry import Registry
from backends.settings import Count, NonNegativeInt, NoSettings, Share
from bbfuse.config.sections import RayConfig, ReportConfig, ValidationConfig
from bbfuse.heads.base import HEADS
from bbfuse.objective.eopm import EopmConfig
from bbfuse.optimizers.base import OPTIMIZERS
from bbfuse.optimizers.surrogate.network import SurrogateConfig

__all__ = ["CHOICES", "RunConfig", "config_class", "section_of", "users_of"]

CHOICES: dict[str, Registry[Any]] = {"backend": BACKENDS, "optimizer": OPTIMIZERS, "head": HEADS}
"""The fields that choose a component with settings."""


def _is_device(text: str) -> bool:
    """Whether it is cpu, cuda or cuda:NUMBER."""
    return text in ("cpu", "cuda") or (text.startswith("cuda:") and text[5:].isdecimal())


@dataclass(frozen=True)
class _Settings:
    """Train a fuse in front of a frozen target from responses to queries, and report the recovered accuracy."""

    backend: str = "local"
    """access to the target"""
    optimizer: str = "rge"
    """how the fuse is trained"""
    data: str = "digits"
    """data set: digits, a folder or hub id with images for the library datasets, or module:attribute"""
    target: str = "digits"
    """the frozen classifier: a name, a file of backends.targets.fit, or module:attribute"""
    generator: str = "MLP"
    """the fuse's network, or a sum of several such as Filter+MLP"""
    grow: str | None = None
    """start with this smaller generator and add `generator` to it once a tenth of the steps has lowered the mean training loss by
    less than 2 %, at the latest after half of the steps"""
    warm_up: NonNegativeInt = 0
    """images for a colour mix found by CMA-ES, after the head and before the fuse that is trained on top of it"""
    start: Literal["zero", "corrections"] | None = None
    """where the fuse starts with `no_chip`: zero, or the best of some corrections (inversion, gains, offsets, sharpening) for the
    target's responses to 64 owned inputs; if not given corrections where the generator can express them (Mix, Filter, Scale)"""
    bit_error_rate: Share = 0.05
    """bit errors per stored bit at low voltage"""
    chip_seed: NonNegativeInt | None = None
    """train for this one chip; for the population of chips if not given"""
    no_chip: bool = False
    """the target has no bit errors; the fuse adapts inputs of another domain, such as another camera, gain or blur, to it"""
    head: str | None = None
    """correction of the logits; if not given affine for one chip or none, standardize for the population"""
    images: int | None = None
    """images owned, drawn like those of the report, a fifth of them for validation; all of the data set's pool if not given"""
    labels: Literal["given", "target"] = "given"
    """labels for training: those of the data, or the target's own predictions at nominal voltage"""
    budget: Count = 20_000
    """images sent at most: training, validation, closing report and retries together"""
    batch: Count | None = None
    """images per step; if not given 64 for the population, for one chip as the optimizer declares (16, follow 32, transfer 64)"""
    sampling: Literal["hard", "uniform"] = "hard"
    """batches: misclassified and uncertain images more often, reweighted so that the expected loss stays the same, or uniform"""
    augment: bool = False
    """shift every image of a batch at random by some pixels, and mirror it from 32x32 on, against overfitting to few images; not
    for optimizers that keep state per image (guided, and rge with Broyden)"""
    seed: NonNegativeInt = 0
    """root of all random streams of the run"""
    threads: Count = 1
    """CPU threads; small networks are fastest with one, and sums may round differently with another number"""
    device: Annotated[str, Predicate(_is_device)] = "cpu"
    """device of fuse, surrogate and simulated target: cpu, cuda or cuda:NUMBER; cpu alone for optimizers that score probes"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """number format of products while training: bfloat16 is faster for large images; results are reported in float32 always"""
    workers: NonNegativeInt = 0
    """Ray processes that score the probes of a step; 0 for none. Results and counts do not depend on it"""
    trust: bool = False
    """execute code that comes with files: TorchScript and torch.export targets, own components that a run folder names"""
    out: Path | None = None
    """run folder, new or empty; if not given runs/ and a name made from time and settings"""
    init: Path | None = None
    """run folder whose trained fuse this run starts from, of the same generator and image shape; its trained head too if that is
    of the same kind and chip"""
    responses: Path | None = None
    """earlier responses of the same target (.npz, .parquet, .csv, or the folder of a session): they replace queries for the same
    images, and train surrogates"""
    plan: bool = False
    """print what the run would send and cost, and send nothing"""
    json: bool = False
    """print the summary, or the plan, as JSON and nothing else on standard output"""
    resume: Path | None = None
    """continue the run in this folder; all other settings come from there"""
    ray: RayConfig = field(default_factory=RayConfig)
    memory: Memory = field(default_factory=Memory)
    eopm: EopmConfig = field(default_factory=EopmConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)

    @property
    def head_name(self) -> str:
        """The head in use: `head`, or its default for one chip, none, or the population."""
        return self.head or ("standardize" if self.chip is None else "affine")

    @property
    def chip(self) -> Chip | None:
        """The one chip of the run, `NOMINAL` with `no_chip`; ``None`` for the population."""
        if self.no_chip:
            return NOMINAL
        return None if self.chip_seed is None else Chip(self.bit_error_rate, self.chip_seed)

    @property
    def model(self) -> str:
        """The target's name on a server; for a file its name without folder and suffix."""
        return self.remote.model or short_name(self.target)  # type: ignore[attr-defined]

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return self.batch or (64 if self.chip is None else OPTIMIZERS[self.optimizer].chip_batch)

    def replaced(self, **changes: Any) -> Any:
        """The same configuration with other values of some fields."""
        return dataclasses.replace(self, **changes)

    def settings_of(self, choice: str) -> Any:
        """The settings of the component that the field ``choice`` (backend, optimizer or head) chooses."""
        name = self.head_name if choice == "head" else getattr(self, choice)
        section = section_of(choice, name)
        return getattr(self, section) if section is not None else CHOICES[choice][name].Config()

    def __reduce__(self) -> tuple[Any, ...]:  # another process has to add the sections of plug-ins first
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _restored, (values,)


def _restored(values: dict[str, Any]) -> Any:
    return config_class(values)(**values)


def section_of(choice: str, name: str) -> str | None:
    """The section with the settings of the component ``name`` of the field ``choice``, such as ``spsa_gc``; ``None`` without.

    Raises:
        InputError: there is no such component.
    """
    component = CHOICES[choice][name]
    if component.Config is NoSettings:
        return None
    named: str = getattr(component, "section", None) or CHOICES[choice].name_of(name)
    return named.replace("-", "_")


def _with_sections(base: type, components: Iterable[tuple[str, str]]) -> type:
    """``base`` with a field for each section of ``components``, pairs of a field and a name, that it has not yet."""
    there = {f.name for f in dataclasses.fields(base)}
    sections = {section_of(choice, name): CHOICES[choice][name].Config for choice, name in components}
    added = {section: kind for section, kind in sections.items() if section is not None and section not in there}
    if not added:
        return base
    fields = [(name, kind, field(default_factory=kind)) for name, kind in added.items()]
    made = dataclasses.make_dataclass("RunConfig", fields, bases=(base,), frozen=True)
    made.__doc__, made.__module__ = base.__doc__, __name__
    return made


if TYPE_CHECKING:

    class RunConfig(_Settings):
        """See `_Settings`; with the sections of all registered components."""

        def __init__(self, **settings: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
else:
    RunConfig = _with_sections(_Settings, [(choice, name) for choice, registry in CHOICES.items() for name in registry])


def config_class(choices: Mapping[str, Any]) -> type[RunConfig]:
    """`RunConfig` with the sections of the components that ``choices`` name, which may be given as ``module:attribute``.

    Raises:
        InputError: there is no such component.
    """
    return _with_sections(RunConfig, [(choice, choices[choice]) for choice in CHOICES if choices.get(choice) is not None])


def users_of(section: str) -> tuple[str, list[str]] | None:
    """The field and the names of the components that the settings in ``section`` belong to; ``None`` for those of every run."""
    if section == "surrogate":
        return "optimizer", [name for name, component in OPTIMIZERS.items() if component.uses_surrogate]
    for choice, registry in CHOICES.items():
        if users := [name for name in registry if section_of(choice, name) == section]:
            return choice, users
    return None
