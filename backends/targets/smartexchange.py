"""Targets whose weights are sparse powers of two times small bases, ``W = C B`` (SmartExchange, 2005.03403; SmartDeal's code).

A 3x3 filter of ``n`` channels is a matrix of ``3 n`` rows and 3 columns, and a row of ``n`` weights of a linear layer one of
``n / 3`` rows; each such matrix has a 3x3 basis ``B`` of its own. Stored are ``C`` as 4-bit codes (sign, exponent, and 0) and
``B`` as 8-bit fixed point in a range of its own; the dense weights are computed from them for each query. A bit error in
``B`` affects all rows of the matrix, so that few bits are worth protecting. Our matrices have at most 96 rows, the authors
cut theirs at 192.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.memory.config import Quantization
from backends.memory.number_formats import Code, FixedPoint, PowersOfTwo
from backends.targets.base import TARGETS, architecture
from backends.targets.digits import SMALL, convolutions

__all__ = ["ExchangedConv2d", "ExchangedLinear", "decomposed", "network"]

_COEFFICIENTS = PowersOfTwo(4)
_THRESHOLD = 2.0**-5
_ROUNDS = 30
_EVERY = 20


@torch.no_grad()
def decomposed(matrices: Tensor, bases: Tensor | None = None, rounds: int = _ROUNDS) -> tuple[Tensor, Tensor]:
    """``C`` (m, r, 3), signed powers of two up to 1 or 0, and ``B`` (m, 3, 3) with ``C B`` close to ``matrices`` (m, r, 3).

    Alternately ``C`` and ``B`` by least squares, ``C`` brought to the nearest power of two, and to 0 below 1/32. It begins with
    ``bases``, or with the identity times each matrix's largest number.
    """
    eye = torch.eye(3, dtype=matrices.dtype)
    if bases is None:
        bases = matrices.abs().amax((1, 2), keepdim=True).clamp(min=1e-12) * eye
    for _ in range(rounds):
        # a little ridge, so that a basis whose rows have come to lie together can be left again
        gram = bases @ bases.mT
        ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-20
        wanted = torch.linalg.solve(gram + ridge * eye, bases @ matrices.mT).mT
        coefficients = _COEFFICIENTS.rounded(wanted.where(wanted.abs() >= _THRESHOLD, torch.zeros_like(wanted)))
        gram = coefficients.mT @ coefficients
        ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-12
        bases = torch.linalg.solve(gram + ridge * eye, coefficients.mT @ matrices + ridge * bases)
    return coefficients, bases


class _Exchanged(nn.Module):
    """Base of both kinds of layers: dense weights during a fit, ``C B`` for every query.

    Each pass of fitting decomposes the dense weights with the bases that are there, and every 20th makes new ones from scratch;
    the gradient goes straight through to the dense weights, which are not used afterwards.
    """

    weight: Tensor
    coefficients: Tensor
    basis: Tensor
    safe: bool
    passes: Tensor

    def _begin(self, safe: bool) -> None:
        self.safe = safe
        matrices = self._matrices(self.weight)
        self.register_buffer("coefficients", torch.zeros(matrices.shape))
        self.register_buffer("basis", torch.zeros(len(matrices), 3, 3))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, safe={self.safe}"

    def codes(self) -> Mapping[str, Code]:
        """See `backends.memory.number_formats.HasCodes`; a safe basis is held elsewhere."""
        largest = self.basis.double().abs().amax((1, 2), keepdim=True)
        basis = {} if self.safe else {"basis": FixedPoint.between(-largest, largest, Quantization())}
        return {"coefficients": _COEFFICIENTS, **basis}

    def _matrices(self, weight: Tensor) -> Tensor:
        """Rows of three; the last one of a linear layer's filled up with zeros."""
        flat = weight.flatten(1)
        return F.pad(flat, (0, -flat.shape[1] % 3)).view(len(flat), -1, 3)

    def _rebuilt(self) -> Tensor:
        """The weights that the layer computes with."""
        if self.training:
            dense = self._matrices(self.weight.detach())
            anew = int(self.passes) % _EVERY == 0
            found = decomposed(dense, None if anew else self.basis, _ROUNDS if anew else 1)
            for stored, now in zip((self.coefficients, self.basis), found, strict=True):
                stored.copy_(now)
            self.passes += 1
        product = (self.coefficients @ self.basis).flatten(1)[:, : self.weight[0].numel()].view(self.weight.shape)
        return product + (self.weight - self.weight.detach()) if self.training else product


class ExchangedConv2d(_Exchanged, nn.Conv2d):
    """A 3x3 convolution, padded by 1."""

    def __init__(self, inputs: int, outputs: int, safe: bool = False) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self._begin(safe)

    def forward(self, images: Tensor) -> Tensor:
        """As a convolution."""
        return F.conv2d(images, self._rebuilt(), self.bias, padding=1)


class ExchangedLinear(_Exchanged, nn.Linear):
    """A linear layer."""

    def __init__(self, inputs: int, outputs: int, safe: bool = False) -> None:
        super().__init__(inputs, outputs)
        self._begin(safe)

    def forward(self, vectors: Tensor) -> Tensor:
        """As a linear layer."""
        return F.linear(vectors, self._rebuilt(), self.bias)


def network(dense: nn.Sequential, safe: bool = False) -> nn.Sequential:
    """``dense`` with exchanged layers in the place of its 3x3 convolutions and linear layers; ``safe`` bases have no bit
    errors."""
    kinds: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
        nn.Conv2d: lambda layer: ExchangedConv2d(layer.in_channels, layer.out_channels, safe),  # type: ignore[arg-type]
        nn.Linear: lambda layer: ExchangedLinear(layer.in_features, layer.out_features, safe),  # type: ignore[arg-type]
    }
    return nn.Sequential(*(kinds[type(layer)](layer) if type(layer) in kinds else layer for layer in dense))


@TARGETS.register("smartexchange")
@architecture(SMALL)
def smartexchange(classes: int) -> nn.Module:
    """The target digits with weights that are sparse powers of two times small bases (SmartExchange)."""
    return network(convolutions(classes))


@TARGETS.register("smartexchange-safe")
@architecture(SMALL)
def smartexchange_safe(classes: int) -> nn.Module:
    """The target smartexchange with bases that have no bit errors."""
    return network(convolutions(classes), safe=True)
