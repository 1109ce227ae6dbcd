"""A classifier on low-voltage memory: stored as codes, read back through a chip, run as usual."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from backends.base import Chip, InputError
from backends.memory.config import PRESETS, Memory, Quantization
from backends.memory.declared import DeclaredNetwork
from backends.memory.encoding import Errors, Patterns, Reading, Stored, store, store_by_codes
from backends.memory.faults import arrays
from backends.memory.faults import independent as chips
from backends.memory.number_formats import HasCodes

__all__ = ["Simulator", "errors", "scales", "stored_tensors"]

_BYTES_KEPT = 256 << 20
_WEIGHED = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class Simulator:
    """``network``, any module with convolution or linear layers, stored in ``memory``.

    Other tensors are held elsewhere, without errors: buffers always, and everything but the weights of convolutions and linear
    layers with `Memory.stored` ``weights``. The scale of a normalisation is stored as its distance from 1 (Stutz et al. 2021,
    section 3). A layer or network with a method ``codes`` (`backends.memory.number_formats.HasCodes`) is stored in those formats,
    each width in a bank of its own behind the first. The network is frozen and put into evaluation mode, so that a response
    depends on images and chip alone. Its own weights never change, and several threads may use it. ``quantization``, if given,
    replaces that of ``memory``.

    Raises:
        InputError: the network has nothing to store, or a weight is not finite.
    """

    def __init__(self, network: nn.Module, memory: Memory | None = None, quantization: Quantization | None = None) -> None:
        memory = memory or Memory()
        network.eval().requires_grad_(False)
        # copies of the layers around the same tensors: a query replaces the tensors in them for its duration
        shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self._network = copy.deepcopy(network, shared)
        self._lock = threading.RLock()
        preset, usual = PRESETS[memory.quantization]
        codes = {prefix + name: code for prefix, layer in _declaring(network).items() for name, code in layer.codes().items()}
        self._shifted = scales(network)
        tensors = {
            name: tensor - 1.0 if name in self._shifted else tensor
            for name, tensor in stored_tensors(network, memory.stored or usual).items()
        }
        if not tensors and not codes:
            raise InputError(
                f"`target` {type(network).__name__} has no convolution or linear layer with weights to store: choose `no_chip`, "
                "chip=None in Python, for a target without bit errors"
            )
        self.banks = [store(tensors, quantization or replace(preset, bits=memory.bits))] if tensors else []
        """The stored tensors, one bank for each width; all banks lie one after the other in the same cells."""
        own = {name: _tensor(network, name) for name in codes}
        self.banks += store_by_codes(own, codes, self.banks[-1].end if self.banks else 0)
        self._device = next(iter((tensors | own).values())).device
        kind = errors(memory)
        self._readings = [Reading(bank, kind) for bank in self.banks]
        self._bytes = 4 * sum(bank.patterns.size for bank in self.banks)
        self._room = _room(self._device)
        self._kept: OrderedDict[Chip, dict[str, Tensor]] = OrderedDict()

    @property
    def stored(self) -> Stored:
        """The first bank, the only one of a network without codes of its own."""
        return self.banks[0]

    def logits(self, images: Tensor, chip: Chip) -> Tensor:
        """Logits (n, classes), with gradients back to ``images`` if these require them."""
        with self._lock:
            return self.respond(images, self.weights(chip))

    def respond(self, images: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Logits (n, classes) of the network with ``weights`` in place of its stored tensors."""
        with self._lock:
            return functional_call(self._network, weights, (images,))  # type: ignore[no-any-return]

    def logits_of_all(self, images: Tensor, chips: Sequence[Chip]) -> Tensor:
        """Logits (chips, n, classes) of the same images on every chip, in one batched pass over all of them.

        Their weights are held at once. It pays for few images a chip and on a GPU; a processor with many images is faster chip
        by chip. The numbers may differ from those of `logits` in the last digits.
        """
        each = [self.weights(chip) for chip in chips]
        stacked = {name: torch.stack([weights[name] for weights in each]) for name in each[0]}
        with self._lock:
            return vmap(lambda weights: self.respond(images, weights))(stacked)

    def weights(self, chip: Chip) -> dict[str, Tensor]:
        """The stored tensors as ``chip`` reads them, by name; those of the last chips are kept, in half of a device's memory."""
        with self._lock:
            if chip not in self._kept:
                self._kept[chip] = self.read(*(reading.on(chip) for reading in self._readings))
                if len(self._kept) * self._bytes > self._room and len(self._kept) > 1:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(chip)
            return self._kept[chip]

    def read(self, *patterns: Patterns) -> dict[str, Tensor]:
        """The stored tensors that ``patterns``, one array for each of the first banks and the others as written, stand for.

        By name, as the network computes with them.
        """
        weights: dict[str, Tensor] = {}
        for bank, read in zip_longest(self.banks, patterns):
            weights.update(bank.tensors(read, self._device))
        for name in self._shifted & weights.keys():
            weights[name] += 1.0
        return weights


def _room(device: torch.device) -> int:
    """How many bytes of weights are kept: half of a GPU's memory."""
    return _BYTES_KEPT if device.type == "cpu" else torch.cuda.mem_get_info(device)[1] // 2


def errors(memory: Memory) -> Errors:
    """The errors of ``memory``, as a function that applies those of a chip to a copy of the written patterns.

    Raises:
        InputError: the profile cannot be used.
    """
    if memory.profile is not None:
        return arrays.Profile(memory.profile, memory.offset)
    kinds: dict[str, Errors] = {
        "random": chips.random_flips, "stuck": chips.stuck_cells, "stuck-at-0": chips.stuck_at_zero,
        "stuck-at-1": chips.stuck_at_one, "column": arrays.Columns(memory.offset), "neuralfuse-map": arrays.neuralfuse_map,
    }  # fmt: skip
    return kinds[memory.errors]


def scales(network: nn.Module) -> set[str]:
    """Names of the scales of normalisations, which are stored as their distance from 1."""
    found = set()
    for name, layer in network.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(layer, _NORMS) and layer.weight is not None:
            found.add(f"{prefix}weight")
        elif isinstance(layer, DeclaredNetwork):
            found |= {prefix + own for own in layer.scales}
    return found


def stored_tensors(network: nn.Module, which: str) -> dict[str, Tensor]:
    """Parameters that a memory stores, by name: all for ``parameters``, those of convolutions and linear layers for ``weights``.

    The tensors are those of the network, not copies. Modules that declare their own codes are left out.
    """
    found: dict[str, Tensor]
    if which == "parameters":
        found = dict(network.named_parameters())
    else:
        found = {}
        for name, layer in network.named_modules():
            prefix = f"{name}." if name else ""
            if isinstance(layer, _WEIGHED):
                found[f"{prefix}weight"] = layer.weight
            elif isinstance(layer, DeclaredNetwork):
                found |= {prefix + own: layer.get_parameter(own) for own in layer.weights}
    own = tuple(_declaring(network))
    return {name: tensor for name, tensor in found.items() if tensor.numel() and not name.startswith(own)}


def _declaring(network: nn.Module) -> dict[str, HasCodes]:
    """The outermost modules that declare their codes, by the prefix of the names of their tensors."""
    found: dict[str, HasCodes] = {}
    for name, layer in network.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(layer, HasCodes) and not prefix.startswith(tuple(found)):
            found[prefix] = layer
    return found


def _tensor(network: nn.Module, name: str) -> Tensor:
    layer, _, own = name.rpartition(".")
    found = getattr(network.get_submodule(layer), own, None)
    if not isinstance(found, Tensor):
        raise InputError(f"codes() must name parameters and buffers, and {name} is none of {type(network).__name__}")
    return found
