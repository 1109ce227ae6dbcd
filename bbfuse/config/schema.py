"""One frozen configuration goes into a run. Its fields are the flags of ``python -m bbfuse.run``; it imports no torch."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from backends.base import Access, Chip, InputError
from backends.files import short_name
from backends.http.address import check_address
from backends.memory.config import Memory
from bbfuse.optimizers.settings import (
    METHODS,
    BackpropConfig,
    CmaConfig,
    FollowConfig,
    FzooConfig,
    GuidedConfig,
    NesConfig,
    NevergradConfig,
    PgpeConfig,
    RgeConfig,
    SpsaConfig,
    SpsaGcConfig,
    SurrogateConfig,
    TransferConfig,
)  # fmt: skip

__all__ = ["GRANTS", "AffineConfig", "EopmConfig", "RayConfig", "RemoteConfig", "ReportConfig", "RunConfig", "StandardizeConfig",
           "ValidationConfig", "from_dict", "section_of", "to_dict", "validate"]  # fmt: skip

BackendName = Literal["local", "remote", "whitebox"]
if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(METHODS)]
HeadName = Literal["none", "standardize", "affine", "net"]
LEARNT_HEADS = ("affine", "net")
WITH_SURROGATE = ("transfer", "follow", "guided")

GRANTS: dict[str, Access] = {"local": Access.LOGITS, "remote": Access.LOGITS, "whitebox": Access.GRADIENTS}
"""What each backend grants."""


@dataclass(frozen=True)
class RemoteConfig:
    """The server to ask: Open Inference Protocol v2, TensorFlow Serving, or any other JSON by a template."""

    url: str | None = None
    """address of the server, such as http://127.0.0.1:8080; without it one is started on loopback"""
    model: str | None = None
    """the model's name on the server; the target's name if not given"""
    protocol: Literal["oip", "oip-binary", "tensorflow", "json"] | None = None
    """how it is asked: Open Inference Protocol v2 in JSON or with binary tensors, TensorFlow Serving's REST form, or JSON by
    --remote.request and --remote.response; if not given the server's metadata say it"""
    layout: Literal["nchw", "nhwc"] | None = None
    """order of an image's sides: channels first or last; if not given the server's metadata say it, or nchw"""
    range: Literal["signed", "unit", "levels"] | None = None
    """pixels as it takes them: numbers in [-1, 1], in [0, 1], or whole numbers from 0 to 255; if not given the server's metadata
    say whether levels, else signed"""
    request: str | None = None
    """template of a request's JSON, or a file with it, that is sent to --remote.url itself: "{images}" stands for the nested list
    of images, "{bit_error_rate}" and "{chip_seed}" for the chip"""
    response: str | None = None
    """where in an answer's JSON the logits are, such as result.scores or outputs[0].data"""
    key_env: str | None = None
    """environment variable that holds the server's key, sent as a bearer token; only its name is ever written"""
    key_header: str | None = None
    """header that carries the key as it is, such as X-API-Key"""
    ca: str | None = None
    """file with the certificates to trust in place of the usual ones"""
    timeout: float = 30.0
    """seconds to wait for an answer"""
    connect_timeout: float = 10.0
    """seconds to wait for a connection"""
    attempts: int = 4
    """how often a request is sent at most when the server is busy, the connection breaks or the answer is spoilt"""
    patience: float = 300.0
    """seconds that a request may take at most, with all its attempts and the pauses between them"""
    requests_per_second: float | None = None
    """requests are sent no faster than that"""
    reserve: float = 0.0
    """share of the budget that is kept for requests that have to be sent again, so that they take no step from the training"""
    price: float | None = None
    """what 1,000 requests cost, in any currency: the plan and the summary then name what the run costs"""
    pixels: Literal["float32", "uint8"] | None = None
    """how a server of our own takes images: numbers in [-1, 1], or 256 levels, to which every probe is rounded; another server
    says itself what it takes"""
    in_flight: int = 4
    """requests that may be under way at once, of at most 128 images together, as many as a run may lose that is killed; numbers
    and counts do not depend on it"""
    store: str | None = None
    """folder in which the answers of --remote.url are kept for other runs, which then need not send those images again"""
    watch: int | None = None
    """how often in the run eight owned images are asked again to see whether the target drifts, after it was asked twice at the
    start whether it repeats itself and knows chips; 0 for none of it, if not given 3 with --remote.url"""


@dataclass(frozen=True)
class RayConfig:
    """Where the workers are (Ray)."""

    address: str = "local"
    """local starts Ray on this machine for this run, auto joins the one that runs here; or that of a cluster, such as HOST:6379,
    or with ray[client] here ray://HOST:10001"""
    timeout: float = 300.0
    """seconds without a word from a worker that has something to do, after which it is replaced"""
    cpus: float | None = None
    """processors that a worker claims of the cluster; if not given --threads, or 0.05 where it waits for a server"""
    gpus: float | None = None
    """GPUs that a worker claims of the cluster, below 1 a share of one; none if not given"""


@dataclass(frozen=True)
class EopmConfig:
    """The objective: clean-weight * clean loss + perturbed-weight * mean over chips of the perturbed loss."""

    clean_weight: float | None = None
    """weight of the loss at nominal voltage; if not given 1 for the population of chips, 0 for one chip"""
    perturbed_weight: float = 5.0
    """NeuralFuse's lambda"""
    chips: int = 1
    """fresh chips a step, for the population"""
    pool: int | None = None
    """they are drawn from so many chips only, whose weights a simulator then need not make again; from 30,000 if not given"""
    terms: Literal["one", "all"] = "one"
    """what a step asks where nominal voltage has a weight: one term, drawn by the weights, or all of them"""


@dataclass(frozen=True)
class StandardizeConfig:
    """The label-free head."""

    images: int = 50
    """raw answers that calibrate it, on every chip it meets and once at nominal voltage, to owned images drawn as those of the
    report are"""


@dataclass(frozen=True)
class AffineConfig:
    """The heads that are learnt, affine and net."""

    images: int = 2000
    """raw answers that it is fitted to at most, before the fuse is trained, to owned images drawn as those of the report are"""
    lr: float = 6e-3
    """learning rate of its steps beside the fuse's"""
    decay: float = 1e-3
    """weight of the squared distance to a head that changes nothing (net: and of its hidden units' weights)"""


@dataclass(frozen=True)
class ValidationConfig:
    """How often the run looks at itself; these images count like all others."""

    images: int = 100
    """owned images that are kept for it and asked each time, drawn as those of the report are"""
    times: int = 8
    """how often"""


@dataclass(frozen=True)
class ReportConfig:
    """The closing measurement on held-out images; it is paid from the same budget."""

    chips: int = 10
    """unseen chips, for the population"""
    images: int | None = None
    """held-out images that are asked, drawn at random by a fixed seed and by class in the classes' proportions (digits: not by
    class); all of them if not given"""


@dataclass(frozen=True)
class RunConfig:
    """Train a fuse in front of a target that may only be asked, and report what it wins back."""

    backend: BackendName = "local"
    """who answers: the simulator here (local), a server (remote), the simulator with gradients (whitebox)"""
    optimizer: OptimizerName = "rge"
    """how the fuse learns; backprop is the reference and needs whitebox"""
    data: str = "digits"
    """data set: digits, or a folder or hub id with images for the library datasets"""
    target: str = "digits"
    """the classifier that nobody may change: a name, or a file of backends.targets.fit"""
    generator: str = "MLP"
    """the fuse's network: Mix, Filter, Filters (12, 228 and 883 parameters for three channels), MLP (images of up to 16x16),
    UNetXS, or NeuralFuse's ConvL, ConvS, DeConvL, DeConvS, UNetL, UNetS; a sum of some, such as Filter+MLP"""
    grow: str | None = None
    """start with this smaller generator and add --generator to it when it stops paying (a tenth of the steps has lowered the mean
    training loss by less than 2 %), at the latest after half of the steps"""
    warm_up: int = 0
    """images sent at most to find a colour mix by CMA-ES, after the head and before everything else is trained on top of it"""
    bit_error_rate: float = 0.05
    """wrong bits per stored bit at the low voltage"""
    chip_seed: int | None = None
    """train for this one chip; without it for the population of chips"""
    head: HeadName | None = None
    """correction of the answers; if not given affine for one chip, standardize for the population"""
    images: int | None = None
    """images owned, drawn as those of the report are, a fifth of them for validation; all of the data set's pool if not given"""
    labels: Literal["given", "target"] = "given"
    """labels to learn from: the data's, or the target's own answers at nominal voltage"""
    budget: int = 20_000
    """images sent at most: training, validation, closing report and retries together"""
    batch: int | None = None
    """images a step; if not given 64 for the population and for transfer, 32 for follow on one chip, 16 for the others there"""
    sampling: Literal["hard", "uniform"] = "hard"
    """how a batch is drawn: wrong and unsure images more often (reweighted, so that the mean stays the same), or all alike"""
    augment: bool = False
    """shift every image of a batch at random by some pixels, and mirror it from 32x32 on, so that few owned images are not
    learnt by heart; not with methods that remember images (guided, and rge with Broyden)"""
    seed: int = 0
    """root of all random streams of the run"""
    threads: int = 1
    """processor threads for this run; small networks are fastest with one, and a sum may round differently with another number"""
    device: str = "cpu"
    """where fuse, surrogate and simulated target compute: cpu, cuda or cuda:NUMBER; others than cpu for backprop, transfer and
    follow"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """numbers that training multiplies in here: bfloat16 is faster on large images; what is reported is in float32 always"""
    workers: int = 0
    """processes of Ray that score the probes of a step, for methods with several; 0 for none, all in this process. Numbers and
    counts do not depend on it"""
    out: Path | None = None
    """run folder, new or empty; if not given runs/ and a name made from time and settings"""
    init: Path | None = None
    """run folder whose trained fuse this run starts from, of the same generator and image shape; its learnt head too if that is
    of the same kind and chip"""
    plan: bool = False
    """print what the run would send and cost, and send nothing"""
    json: bool = False
    """print the summary, or the plan, and nothing else, on standard output"""
    resume: Path | None = None
    """go on with the run in this folder; all other settings come from there"""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    memory: Memory = field(default_factory=Memory)
    eopm: EopmConfig = field(default_factory=EopmConfig)
    standardize: StandardizeConfig = field(default_factory=StandardizeConfig)
    affine: AffineConfig = field(default_factory=AffineConfig)
    backprop: BackpropConfig = field(default_factory=BackpropConfig)
    rge: RgeConfig = field(default_factory=RgeConfig)
    spsa: SpsaConfig = field(default_factory=SpsaConfig)
    spsa_gc: SpsaGcConfig = field(default_factory=SpsaGcConfig)
    fzoo: FzooConfig = field(default_factory=FzooConfig)
    nes: NesConfig = field(default_factory=NesConfig)
    pgpe: PgpeConfig = field(default_factory=PgpeConfig)
    cma: CmaConfig = field(default_factory=CmaConfig)
    nevergrad: NevergradConfig = field(default_factory=NevergradConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    follow: FollowConfig = field(default_factory=FollowConfig)
    guided: GuidedConfig = field(default_factory=GuidedConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    @property
    def head_name(self) -> HeadName:
        """The head in force: `head`, or the default for the kind of run."""
        return self.head or ("standardize" if self.chip_seed is None else "affine")

    @property
    def model(self) -> str:
        """The target's name on a server; that of a file is its own without folder and suffix."""
        return self.remote.model or short_name(self.target)

    @property
    def watch(self) -> int:
        """How often a target is asked again whether it drifts, at least once opened; 0 if nothing is asked about itself."""
        return self.remote.watch if self.remote.watch is not None else 3 * (self.remote.url is not None)

    @property
    def chips_per_step(self) -> int:
        """Low-voltage chips asked in one step."""
        return self.eopm.chips if self.chip_seed is None else 1

    @property
    def batch_size(self) -> int:
        """Images a step."""
        alone = {"follow": 32, "transfer": 64}.get(self.optimizer, 16)
        return self.batch or (64 if self.chip_seed is None else alone)

    @property
    def terms(self) -> int:
        """Summands of the objective that a step asks about at most."""
        return self.chips_per_step + (self.clean_weight > 0 and self.eopm.terms == "all")

    @property
    def clean_weight(self) -> float:
        """The weight of the clean loss in force."""
        return self.eopm.clean_weight if self.eopm.clean_weight is not None else float(self.chip_seed is None)


def section_of(method: str) -> str:
    """The section of `RunConfig` with the settings of ``method``."""
    return method.replace("-", "_")


# section -> the choice that makes it count
_BELONGS_TO = {
    "remote": ("backend", "remote"), "standardize": ("head_name", "standardize"),
    **{section_of(method): ("optimizer", method) for method in METHODS},
}  # fmt: skip
_POSITIVE = (
    "budget", "batch", "threads", "ray.timeout", "ray.cpus", "ray.gpus", "remote.timeout", "remote.connect_timeout",
    "remote.attempts", "remote.patience", "remote.requests_per_second", "remote.in_flight", "eopm.perturbed_weight",
    "eopm.chips", "eopm.pool",
    "standardize.images", "affine.images", "affine.lr", "surrogate.lr", "surrogate.memory", "transfer.lr", "transfer.steps",
    "follow.lr", "follow.every", "guided.lr", "guided.smoothing", "guided.directions",
    "backprop.lr", "spsa.step", "spsa.c", "spsa.pairs",
    "rge.lr", "rge.smoothing", "rge.directions", "spsa_gc.a", "spsa_gc.c", "spsa_gc.pairs", "fzoo.lr", "fzoo.smoothing",
    "fzoo.directions", "nes.lr", "nes.sigma", "nes.pairs", "pgpe.lr", "pgpe.sigma", "pgpe.sigma_lr", "pgpe.pairs",
    "pgpe.largest_change", "cma.subspace", "cma.sigma", "cma.population", "nevergrad.sigma", "nevergrad.workers",
    "nevergrad.subspace", "validation.images", "report.chips", "report.images",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed",
    "workers",
    "chip_seed",
    "warm_up",
    "eopm.clean_weight",
    "affine.decay",
    "surrogate.steps",
    "surrogate.rounds",
    "surrogate.updates",
    "transfer.images",
    "follow.raw",
    "follow.jitter",
    "spsa.alpha",
    "spsa.gamma",
    "spsa_gc.offset",
    "spsa_gc.alpha",
    "spsa_gc.gamma",
    "spsa_gc.momentum",
    "validation.times",
    "remote.price",
    "remote.reserve",
    "remote.watch",
)


def validate(config: RunConfig) -> None:
    """Refuse what cannot work, before anything is opened or written.

    Raises:
        InputError: a value outside its range, a section that the choices leave without effect, or a method that needs more
            than the backend grants.
    """
    Chip(config.bit_error_rate)
    for name in _POSITIVE + _NOT_NEGATIVE:
        value = _get(config, name)
        lowest = "above 0" if name in _POSITIVE else "0 or more"
        if value is not None and not (math.isfinite(value) and (value > 0 or (value == 0 and name in _NOT_NEGATIVE))):
            raise InputError(f"{_flag(name)} must be {lowest}, got {value}")
    if METHODS[config.optimizer].needs > GRANTS[config.backend]:
        enough = [name for name, method in METHODS.items() if method.needs <= GRANTS[config.backend]]
        raise InputError(
            f"--optimizer {config.optimizer} needs gradients, but --backend {config.backend} grants logits only: "
            f"choose --backend whitebox, or --optimizer {', '.join(enough[:-1])} or {enough[-1]}"
        )
    for section, (choice, value) in _BELONGS_TO.items():
        changed = _changed(getattr(config, section))
        if changed and getattr(config, choice) != value:
            flag, wanted = _flag(f"{section}.{changed[0]}"), f"--{choice.removesuffix('_name')} {value}"
            raise InputError(f"{flag} has no effect without {wanted}: drop it or choose that")
    if config.remote.url is not None and config.remote.pixels is not None:
        raise InputError("--remote.pixels has no effect with --remote.url, whose server says what it takes: drop it")
    if config.remote.url is None and config.remote.store is not None:
        raise InputError("--remote.store has no effect without --remote.url, since a server of our own costs nothing: drop it")
    if config.remote.store is not None and not config.watch:
        raise InputError("--remote.store needs to know whether the target repeats itself: drop --remote.watch 0")
    if config.remote.url is not None and (changed := _changed(config.memory)):
        raise InputError(f"{_flag('memory.' + changed[0])} has no effect with --remote.url, whose server has its own: drop it")
    _validate_remote(config.remote)
    _validate_device(config)
    _validate_workers(config)
    if config.optimizer not in WITH_SURROGATE and (changed := _changed(config.surrogate)):
        raise InputError(
            f"{_flag('surrogate.' + changed[0])} has no effect without --optimizer {', '.join(WITH_SURROGATE[:-1])} or "
            f"{WITH_SURROGATE[-1]}: drop it or choose one"
        )
    for name in ("grow", "warm_up"):
        if config.optimizer in WITH_SURROGATE and _get(config, name) != _get(RunConfig(), name):
            raise InputError(
                f"{_flag(name)} does not go with --optimizer {config.optimizer}, whose surrogate would forget all that it has "
                "learned when the fuse grows: drop it or choose another method"
            )
        if config.init is not None and _get(config, name) != _get(RunConfig(), name):
            raise InputError(f"{_flag(name)} does not go with --init, which starts from a whole fuse: drop one of the two")
    if config.follow.raw > 1:
        raise InputError(f"--follow.raw must lie in [0, 1], got {config.follow.raw}")
    if config.optimizer == "rge" and config.rge.space == "parameters" and not config.rge.broyden:
        raise InputError("--rge.no-broyden has no effect with --rge.space parameters: drop it")
    remembers = config.optimizer == "guided" or (
        config.optimizer == "rge" and config.rge.space == "inputs" and config.rge.broyden
    )
    if config.augment and remembers:
        raise InputError(
            f"--augment does not go with --optimizer {config.optimizer}, which keeps what it learns of an image with that image: "
            "drop it or choose another method" + (", or --rge.no-broyden" if config.optimizer == "rge" else "")
        )
    if config.head_name not in LEARNT_HEADS and (changed := _changed(config.affine)):
        raise InputError(f"{_flag('affine.' + changed[0])} has no effect without --head affine or net: drop it or choose one")
    if config.optimizer == "rge" and config.rge.space == "parameters" and config.rge.basis != "pixels":
        raise InputError("--rge.basis has no effect with --rge.space parameters: drop it")
    if config.chip_seed is None and config.head_name in LEARNT_HEADS:
        raise InputError(
            f"--head {config.head_name} is learnt for one chip and says nothing of unseen ones: give --chip-seed, or choose "
            "--head standardize"
        )
    for name, why in (("eopm.chips", "trained"), ("eopm.pool", "trained"), ("report.chips", "reported")):
        if config.chip_seed is not None and _get(config, name) != _get(RunConfig(), name):
            raise InputError(f"{_flag(name)} has no effect with --chip-seed, where one chip is {why}: drop one of the two")


def _validate_device(config: RunConfig) -> None:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", config.device):
        raise InputError(f"--device must be cpu, cuda or cuda:NUMBER, got {config.device}")
    if config.device == "cpu":
        return
    if config.optimizer not in _ONE_QUESTION:
        raise InputError(
            f"--device {config.device} goes with --optimizer backprop, transfer or follow, got {config.optimizer}: drop it"
        )
    if config.backend == "remote":
        raise InputError(f"--device {config.device} goes with --backend local or whitebox, got remote: drop it")


_NEEDS_A_URL = ("layout", "range", "request", "response", "key_env", "key_header", "ca")


def _validate_remote(remote: RemoteConfig) -> None:
    if remote.reserve >= 1:
        raise InputError(f"--remote.reserve must lie in [0, 1), got {remote.reserve}")
    if remote.url is not None:
        check_address(remote.url, remote.key_env is not None)
    elif changed := [name for name in _changed(remote) if name in _NEEDS_A_URL]:
        raise InputError(
            f"{_flag('remote.' + changed[0])} has no effect without --remote.url: drop it or give the server's address"
        )
    elif remote.protocol in ("tensorflow", "json"):
        raise InputError(f"--remote.protocol {remote.protocol} needs --remote.url: a server of our own speaks oip and oip-binary")
    if remote.key_header is not None and remote.key_env is None:
        raise InputError("--remote.key-header has no effect without --remote.key-env, which says where the key is: give both")
    if remote.ca is not None and not (remote.url or "").startswith("https:"):
        raise InputError("--remote.ca has no effect without an https address as --remote.url: drop it or give one")
    given = [name for name in ("request", "response") if getattr(remote, name) is not None]
    if remote.protocol not in (None, "json") and given:
        raise InputError(
            f"{_flag('remote.' + given[0])} has no effect with --remote.protocol {remote.protocol}: drop one of the two"
        )
    if (given or remote.protocol == "json") and len(given) < 2:
        raise InputError("--remote.protocol json needs --remote.request, a template, and --remote.response, a path: give both")


_ONE_QUESTION = ("backprop", "transfer", "follow")


def _validate_workers(config: RunConfig) -> None:
    if not config.workers and (changed := _changed(config.ray)):
        raise InputError(f"{_flag('ray.' + changed[0])} has no effect without --workers: drop it or say how many")
    if not config.workers:
        return
    address = config.ray.address
    if not (address in ("local", "auto") or re.fullmatch(r"(ray://)?[^\s:/]+:\d+", address)):
        raise InputError(f"--ray.address must be local, auto, HOST:PORT or ray://HOST:PORT, got {address}")
    if config.optimizer in _ONE_QUESTION:
        raise InputError(
            f"--workers has no effect with --optimizer {config.optimizer}, which asks no more than once a step: drop it"
        )
    if config.remote.store is not None:
        raise InputError("--remote.store does not go with --workers, which make their images themselves: drop one of the two")
    if config.backend == "remote" and config.remote.url is None and address != "local":
        raise InputError("a server of our own listens on this machine alone: give --remote.url, or --ray.address local")


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain values, as written to ``config.json``; where the run lies, who does it and how it prints is not part of what it
    computes."""
    plain = dataclasses.asdict(config)
    for name in ("out", "plan", "json", "resume", "workers", "ray"):
        del plain[name]
    plain["init"] = None if config.init is None else str(config.init)
    return plain


def from_dict(plain: dict[str, Any]) -> RunConfig:
    """The inverse of `to_dict`.

    Raises:
        InputError: a setting is missing or unknown.
    """
    return _build(RunConfig, plain, "")  # type: ignore[no-any-return]


def _build(kind: Any, plain: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    if unknown := sorted(set(plain) - set(hints)):
        raise InputError(f"config.json has an unknown setting {where}{unknown[0]}")
    values = {}
    for name, value in plain.items():
        nested = dataclasses.is_dataclass(hints[name])
        allowed = [
            choice for hint in (hints[name], *get_args(hints[name])) for choice in get_args(hint) if isinstance(choice, str)
        ]
        if allowed and isinstance(value, str) and value not in allowed:
            raise InputError(f"config.json has {where}{name} = {value}, which is none of {', '.join(allowed)}")
        if value is not None and Path in get_args(hints[name]):
            value = Path(value)
        values[name] = _build(hints[name], value, f"{where}{name}.") if nested else value
    return kind(**values)


def _get(config: RunConfig, dotted: str) -> Any:
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def _changed(section: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(section) if getattr(section, f.name) != f.default]


def _flag(dotted: str) -> str:
    return "--" + dotted.replace("_", "-")
