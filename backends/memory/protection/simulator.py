"""A classifier on low-voltage hardware: bit errors in its memory and in the results of its processing elements, and
protection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from backends.base import NOMINAL, Chip, InputError
from backends.memory.config import Memory
from backends.memory.encoding import Errors, Reading
from backends.memory.hooks import watching
from backends.memory.protection.policy import RESULT_BITS, Layer, Protection, chosen, residual
from backends.memory.protection.stored import Guarded, Limited
from backends.memory.simulator import Simulator, errors

__all__ = ["ProtectedSimulator", "Scores", "Site", "layers_of"]

Site = Literal["weights", "results"]
"""Where bit errors occur: in stored weights, or in results of processing elements."""
_STREAM = 1 << 33  # larger than every seed that the cells of a chip are drawn with


@dataclass(frozen=True)
class Scores:
    """Expected harm of errors in each channel (channels,) of each layer, by site."""

    weights: Mapping[str, Tensor]
    results: Mapping[str, Tensor]


def layers_of(network: nn.Module, images: Tensor) -> dict[str, Layer]:
    """The convolutions and linear layers of ``network``, by name, with the ranges that their results have for ``images``.

    Transposed convolutions, whose weights do not begin with their channels, are left out.
    """
    found: dict[str, Layer] = {}

    def see(name: str, layer: nn.Module, _: Tensor, results: Tensor) -> None:
        each = results.transpose(0, 1).flatten(1)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        found[name] = Layer(
            len(weight), weight[0].numel(), results[0, 0].numel(), float(each.abs().max()), each.amin(1), each.amax(1)
        )

    with torch.no_grad(), watching(dict(_weighed(network)), see):
        network(images)
    return found


class ProtectedSimulator(Simulator):
    """`Simulator` with bit errors in the results of processing elements too, and a policy that protects both.

    ``arithmetic`` is the bit error rate of the 16-bit results of convolutions and linear layers, relative to that of the chip,
    ``p``: results are symmetric codes over the range that ``layers`` gives, and a Poisson number of their bits flips, with mean
    ``arithmetic p`` a bit (the model of MRFI). The chip and the place in the batch decide which ones. Threefold bits and
    recomputed channels have the bit error rate ``3 q^2 - 2 q^3`` for ``q = arithmetic p``. Tensors that are no layer's weights
    are protected like those of important channels.
    """

    def __init__(
        self, network: nn.Module, layers: Mapping[str, Layer], memory: Memory | None = None,
        protection: Protection | None = None, scores: Scores | None = None, arithmetic: float = 0.0, bits: int | None = None,
    ) -> None:  # fmt: skip
        """``scores`` decide which channels are important; with ``bits`` (a mask of the bits of a weight) only these have errors.

        Raises:
            InputError: see `Simulator`; or the policy protects some of the channels and there are no scores.
        """
        memory, self.protection = memory or Memory(), protection or Protection()
        super().__init__(network, memory)
        self._layers, self._arithmetic = layers, arithmetic
        self.important = self._channels(scores.weights if scores else None, self.protection.important, "weights")
        self.recomputed = self._channels(scores.results if scores else None, self.protection.recomputed, "macs")
        masks = {name: _top(self.protection.inner, memory.bits) for name in self.stored.slots}
        for name in layers:
            if (key := f"{name}.weight") in masks:
                outer = _top(self.protection.outer, memory.bits)
                masks[key] = torch.where(_along(self.important[name], self.stored.slots[key].shape), masks[key], outer)
        guarded: Errors = Guarded(errors(memory), self.protection.code, masks)
        if bits is not None:
            guarded = Limited(guarded, dict.fromkeys(masks, torch.tensor(bits)))
        self._readings[0] = Reading(self.stored, guarded)
        self._chip: Chip | None = None
        self._only: Mapping[str, Tensor] | None = None
        for place, (name, module) in enumerate(_weighed(self._network)):
            if name in layers:
                module.register_forward_hook(self._hook(name, place))

    def logits(self, images: Tensor, chip: Chip) -> Tensor:
        """Logits (n, classes), with gradients back to ``images`` if these require them."""
        return self._logits(images, self.weights(chip), chip, None)

    def logits_of_all(self, images: Tensor, chips: Sequence[Chip]) -> Tensor:
        """Logits (chips, n, classes) of the same images on every chip."""
        return torch.stack([self.logits(images, chip) for chip in chips])

    def confined(self, images: Tensor, chip: Chip, site: Site, channels: Mapping[str, Tensor]) -> Tensor:
        """Logits (n, classes) with the errors of the chip at one site, and there only in ``channels``, bool (channels,) for each
        layer."""
        if site == "results":
            return self._logits(images, self.weights(NOMINAL), chip, channels)
        faulty, right = self.weights(chip), dict(self.weights(NOMINAL))
        for name, mask in channels.items():
            key = f"{name}.weight"
            right[key] = torch.where(_along(mask, right[key].shape), faulty[key], right[key])
        return self._logits(images, right, None, None)

    def _logits(self, images: Tensor, weights: dict[str, Tensor], chip: Chip | None, only: Mapping[str, Tensor] | None) -> Tensor:
        with self._lock:
            self._chip, self._only = chip, only
            return functional_call(self._network, weights, (images,))  # type: ignore[no-any-return]

    def _channels(self, scores: Mapping[str, Tensor] | None, share: float, by: Literal["weights", "macs"]) -> dict[str, Tensor]:
        if share in (0.0, 1.0):
            return {name: torch.full((layer.channels,), share == 1.0) for name, layer in self._layers.items()}
        if scores is None:
            raise InputError(f"a share of {share:g} of the channels needs scores that say which: give them, or a share of 0 or 1")
        return chosen(self._layers, scores, share, by)

    def _hook(self, name: str, place: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        layer, policy = self._layers[name], self.protection

        def hook(_: nn.Module, __: Any, results: Tensor) -> Tensor:
            chip = self._chip
            if chip is not None and self._arithmetic * chip.bit_error_rate > 0.0:
                results = self._with_errors(name, place, results, chip)
            if policy.restricted:
                shape = (-1, *(1,) * (results.ndim - 2))
                results = results.clamp(layer.low.view(shape), layer.high.view(shape))
            return results

        return hook

    def _with_errors(self, name: str, place: int, results: Tensor, chip: Chip) -> Tensor:
        """``results`` (n, channels, ...) with some of their bits flipped."""
        rate, policy = self._arithmetic * chip.bit_error_rate, self.protection
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence((chip.seed, _STREAM, place))))
        cells = results.numel() * RESULT_BITS
        # a cell drawn twice has one error
        drawn = np.unique(rng.integers(0, cells, rng.poisson(rate * cells)))
        spared = rng.random(len(drawn)) >= residual("tmr", rate) / rate
        bit = torch.from_numpy(drawn % RESULT_BITS)
        at = tuple(torch.from_numpy(axis) for axis in np.unravel_index(drawn // RESULT_BITS, tuple(results.shape)))
        right = ((bit >= RESULT_BITS - policy.logic) | self.recomputed[name][at[1]]) & torch.from_numpy(spared)
        if self._only is not None:
            right |= ~self._only[name][at[1]] if name in self._only else torch.tensor(True)
        at, bit = tuple(axis[~right] for axis in at), bit[~right]
        largest = 2 ** (RESULT_BITS - 1) - 1
        step = max(self._layers[name].peak, torch.finfo(torch.float32).tiny) / largest
        codes = (results.detach()[at] / step).round().clamp(-largest, largest).long()
        sign = 1 << (RESULT_BITS - 1)
        flipped = (((codes ^ (1 << bit)) & (2 * sign - 1)) ^ sign) - sign
        return results.clone().index_put_(at, ((flipped - codes) * step).to(results.dtype), accumulate=True)


def _top(count: int, bits: int) -> Tensor:
    """The pattern with the ``count`` highest of ``bits`` bits set."""
    kept = bits - min(count, bits)
    return torch.tensor((1 << bits) - (1 << kept))


def _along(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """``mask`` (channels,) such that it broadcasts against weights of ``shape``."""
    return mask.view(-1, *(1,) * (len(shape) - 1))


def _weighed(network: nn.Module) -> list[tuple[str, nn.Module]]:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
