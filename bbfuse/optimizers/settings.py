"""The table of methods: what each needs, its settings, and where it is. The command line, the README and the tests read it.

A new method is one file, its settings here with a line in `METHODS`, and a section of the same name in `RunConfig`.
It imports no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from backends.base import Access

__all__ = ["METHODS", "BackpropConfig", "CmaConfig", "FollowConfig", "FzooConfig", "GuidedConfig", "Method", "NesConfig",
           "NevergradConfig", "PgpeConfig", "RgeConfig", "SpsaConfig", "SpsaGcConfig", "SurrogateConfig",
           "TransferConfig"]  # fmt: skip


@dataclass(frozen=True)
class BackpropConfig:
    """White-box reference: Adam on the true gradient."""

    lr: float = 3e-3
    """learning rate at the start; it falls linearly to a twentieth"""


@dataclass(frozen=True)
class RgeConfig:
    """Random gradient estimation by antithetic pairs of probes, under Adam."""

    space: Literal["inputs", "parameters"] = "inputs"
    """what is probed: the target's inputs, image by image, or the fuse's parameters"""
    lr: float | None = None
    """learning rate at the start, falling linearly to a twentieth; if not given 0.001 for parameters, for inputs 0.005, or
    0.003 for the population"""
    smoothing: float | None = None
    """size of a probe per coordinate; if not given 0.15 for inputs (pixels span 2), 0.01 for parameters"""
    directions: int = 1
    """pairs of probes a step (inputs: of each image)"""
    basis: Literal["pixels", "coarse", "dct", "coordinates"] = "pixels"
    """inputs: signs in all pixels, in coarse blocks (an eighth of a side), in low frequencies (a quarter), or one pixel"""
    broyden: bool = True
    """inputs: keep every image's Jacobian and correct it with each pair, in place of starting from nothing every time"""


@dataclass(frozen=True)
class SpsaConfig:
    """Simultaneous perturbation (Spall 1992) with the gains of Spall 1998."""

    step: float = 3e-3
    """wanted mean size of the first update of a parameter; sets the gain a"""
    c: float = 2e-2
    """size of the first perturbation"""
    alpha: float = 0.602
    """how fast the step falls"""
    gamma: float = 0.101
    """how fast the perturbation falls"""
    pairs: int = 1
    """pairs of probes a step"""


@dataclass(frozen=True)
class SpsaGcConfig:
    """SPSA with gradient correction (BlackVIP, Oh et al., CVPR 2023); its released settings, but for a."""

    a: float = 3e-3
    """gain of the step"""
    c: float = 0.01
    """size of the first perturbation"""
    offset: float = 1.0
    """delay of the step's fall"""
    alpha: float = 0.4
    """how fast the step falls"""
    gamma: float = 0.1
    """how fast the perturbation falls"""
    momentum: float = 0.9
    """b of the look-ahead momentum"""
    pairs: int = 5
    """pairs of probes a step"""


@dataclass(frozen=True)
class FzooConfig:
    """One-sided probes with a step normalised by the spread of their losses (FZOO)."""

    lr: float = 3e-2
    """learning rate at the start, falling linearly to a twentieth"""
    smoothing: float = 1e-2
    """size of a probe per parameter"""
    directions: int = 8
    """probes a step, beside one at the centre"""


@dataclass(frozen=True)
class NesConfig:
    """Evolution strategy with antithetic pairs and ranks in place of losses (Salimans et al. 2017), under Adam."""

    lr: float = 1e-2
    """learning rate at the start, falling linearly to a twentieth"""
    sigma: float = 2e-2
    """sd of a probe per parameter"""
    pairs: int = 8
    """pairs of probes a step"""


@dataclass(frozen=True)
class PgpeConfig:
    """Policy gradients with parameter-based exploration (Sehnke et al. 2010) under ClipUp (Toklu et al. 2020)."""

    lr: float = 0.2
    """length of a step; the speed is held below twice that"""
    sigma: float = 2e-2
    """sd of a probe per parameter at the start"""
    sigma_lr: float = 0.1
    """learning rate of the sds"""
    largest_change: float = 0.2
    """share by which an sd may change in a step"""
    pairs: int = 8
    """pairs of probes a step"""


@dataclass(frozen=True)
class CmaConfig:
    """CMA-ES (Hansen and Ostermeier 2001) by pycma."""

    subspace: int | None = 100
    """dimensions of a random subspace, searched with a full covariance; None for all parameters with a diagonal one"""
    sigma: float = 0.01
    """step size at the start, per parameter"""
    population: int | None = None
    """points a step; if not given 4 + 3 ln(dimensions)"""


@dataclass(frozen=True)
class NevergradConfig:
    """Any optimizer of nevergrad."""

    name: str = "DiagonalCMA"
    """its name in nevergrad's registry"""
    sigma: float = 0.03
    """sd of a parameter that it starts from"""
    workers: int | None = None
    """points a step, asked for before any is told, all on the same images; if not given 4 + 3 ln(dimensions)"""
    subspace: int | None = None
    """dimensions of a random subspace; None for all parameters"""


@dataclass(frozen=True)
class SurrogateConfig:
    """The network of ours that imitates the target, for transfer, follow and guided."""

    arch: Literal["plain", "residual", "perceptron"] = "plain"
    """convolutions and pools, residual blocks, or two hidden layers"""
    steps: int | None = None
    """batches of 128 that it is fitted with to the labels beforehand, 0 for fresh weights; if not given 600, or 3000 for
    images of 32x32 and more"""
    lr: float = 1e-3
    """learning rate on the target's answers"""
    rounds: int = 5
    """passes over the answers that were there before the fuse is trained"""
    updates: int = 4
    """steps on answers for each batch of them that is bought: the new one, then remembered ones"""
    memory: int = 200
    """batches of answers that are remembered"""
    weights: str | None = None
    """state dict of ``--surrogate.arch`` to begin with, in place of a fit to the labels"""


@dataclass(frozen=True)
class TransferConfig:
    """Training through a surrogate on which chips are simulated (NeuralFuse's restricted access)."""

    lr: float = 3e-3
    """learning rate at the start, falling linearly to a twentieth"""
    steps: int = 2000
    """batches"""
    images: int = 0
    """answers at nominal voltage that the surrogate is fitted to beforehand; 0 for labels alone"""


@dataclass(frozen=True)
class FollowConfig:
    """Training through a surrogate that goes on learning from the target's answers where the fuse now is."""

    lr: float = 3e-3
    """learning rate at the start, falling linearly to a twentieth, times the trust in the surrogate"""
    every: int | None = None
    """steps of the fuse for each batch of answers; if not given 2 for one chip, 16 for the population, whose chips are
    simulated"""
    raw: float = 0.25
    """share of the images sent as they are, the others through the fuse"""
    jitter: float = 0.1
    """sd of the noise on half of the images sent"""


@dataclass(frozen=True)
class GuidedConfig:
    """rge with the surrogate's Jacobian, weighed by how well it foretells probes, before the memory's correction."""

    lr: float | None = None
    """learning rate as of rge"""
    smoothing: float | None = None
    """size of a probe per pixel, as of rge"""
    directions: int = 1
    """pairs of probes a step of each image"""
    basis: Literal["pixels", "coarse", "dct", "coordinates"] = "pixels"
    """as of rge"""


@dataclass(frozen=True)
class Method:
    """One way to train a fuse."""

    about: str
    """what it does, in a line"""
    needs: Access
    place: str
    """``module:class``; it is made from the run's settings for it, the sizes of the problem, and the fuse that it moves"""

    def load(self) -> Callable[..., Any]:
        """The class; this imports torch and the libraries that the method uses."""
        module, name = self.place.split(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


_STRICT, _RELAXED = Access.LOGITS, Access.GRADIENTS
METHODS: dict[str, Method] = {
    "rge": Method(
        "probes each image at the target's input, keeps a Jacobian per image and corrects it with each pair (Broyden); "
        "`--rge.no-broyden` for the plain estimate, `--rge.space parameters` to probe the fuse's parameters", _STRICT,
        "bbfuse.optimizers.rge:make"),
    "spsa": Method("simultaneous perturbation of all parameters with Spall's gains", _STRICT, "bbfuse.optimizers.spsa:Spsa"),
    "spsa-gc": Method("SPSA with BlackVIP's gradient correction", _STRICT, "bbfuse.optimizers.spsa_gc:SpsaGc"),
    "fzoo": Method("one-sided probes, the step normalised by the spread of their losses", _STRICT, "bbfuse.optimizers.fzoo:Fzoo"),
    "nes": Method("evolution strategy: antithetic pairs, ranks in place of losses, Adam", _STRICT, "bbfuse.optimizers.nes:Nes"),
    "pgpe": Method("evolution strategy that adapts its sds, ranks, ClipUp", _STRICT, "bbfuse.optimizers.pgpe:Pgpe"),
    "cma": Method(
        "CMA-ES by pycma in a random subspace; `--cma.subspace None` for all parameters with a diagonal covariance", _STRICT,
        "bbfuse.optimizers.cma:Cma"),
    "nevergrad": Method(
        "any optimizer of nevergrad, by `--nevergrad.name`", _STRICT, "bbfuse.optimizers.nevergrad:Nevergrad"),
    "transfer": Method(
        "trains through a surrogate of ours with simulated chips, asks nothing or `--transfer.images` answers (NeuralFuse's "
        "restricted access)", _STRICT, "bbfuse.optimizers.surrogate.transfer:Transfer"),
    "follow": Method(
        "trains through a surrogate that goes on learning from the target's answers to what the fuse makes", _STRICT,
        "bbfuse.optimizers.surrogate.follow:Follow"),
    "guided": Method(
        "`rge` with the surrogate's gradient as a prior, as far as real probes bear it out", _STRICT,
        "bbfuse.optimizers.surrogate.guided:Guided"),
    "backprop": Method("the white-box reference (`--backend whitebox`)", _RELAXED, "bbfuse.optimizers.backprop:Backprop"),
}  # fmt: skip
"""All methods by the name that ``--optimizer`` takes; the settings of ``spsa-gc`` are the section ``spsa_gc``, and so on."""
