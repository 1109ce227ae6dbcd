"""The fuse: ``F(x) = clip(x + G(x), -1, 1)`` (NeuralFuse, Eq. 1), G a small generator that starts at zero."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from backends.interface import InputError

__all__ = ["GENERATORS", "Fuse"]

Shape = tuple[int, int, int]


class Fuse(nn.Module):
    """A generator and the clipped sum around it. A new fuse changes nothing: the generator's last layer starts at zero."""

    def __init__(self, generator: str, image_shape: Shape, rng: torch.Generator) -> None:
        """Build the generator called ``generator`` with initial weights drawn from ``rng``.

        Raises:
            InputError: no generator has that name, or it does not fit the image shape.
        """
        super().__init__()
        if generator not in GENERATORS:
            raise InputError(f"--generator must be one of {', '.join(GENERATORS)}, got {generator}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
            self.generator = GENERATORS[generator](image_shape)
        last = [m for m in self.generator.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, channels, height, width) in [-1, 1], to the same."""
        fused: Tensor = images + self.generator(images)
        return fused.clamp(-1.0, 1.0)

    def vector(self) -> Tensor:
        """All parameters as one detached vector (d,)."""
        return parameters_to_vector(self.parameters()).detach()

    def at(self, vector: Tensor, images: Tensor) -> Tensor:
        """``F(images)`` with ``vector`` (d,) in place of the fuse's own parameters, which are left alone."""
        return functional_call(self, self.unflatten(vector), (images,))  # type: ignore[no-any-return]

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """``vector`` (d,) cut into tensors by parameter name."""
        named = list(self.named_parameters())
        pieces = vector.split([p.numel() for _, p in named])
        return {name: piece.view_as(p) for (name, p), piece in zip(named, pieces, strict=True)}

    def add_gradient(self, vector: Tensor) -> None:
        """Add ``vector`` (d,) to the parameters' gradients."""
        for p, piece in zip(self.parameters(), self.unflatten(vector).values(), strict=True):
            p.grad = piece.clone() if p.grad is None else p.grad + piece


def _mlp(shape: Shape) -> nn.Sequential:
    """Pixels, 64 hidden units, pixels: for images so small that every pixel may look at every other."""
    pixels = shape[0] * shape[1] * shape[2]
    if shape[1] > 16 or shape[2] > 16:
        raise InputError(f"--generator MLP is for images of up to 16x16, got {shape[1]}x{shape[2]}: choose UNetXS")
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, pixels), nn.Unflatten(1, shape))


class _UNetXS(nn.Module):
    """Two levels down and up with a skip connection, widths 16 and 32, no normalisation: height and width divisible by 4."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if shape[1] % 4 or shape[2] % 4:
            raise InputError(f"--generator UNetXS needs image sides divisible by 4, got {shape[1]}x{shape[2]}")
        self.down1 = nn.Conv2d(shape[0], 16, 3, padding=1)
        self.down2 = nn.Conv2d(16, 32, 3, padding=1)
        self.middle = nn.Conv2d(32, 32, 3, padding=1)
        self.up = nn.Conv2d(32, 16, 3, padding=1)
        self.join = nn.Conv2d(32, 16, 3, padding=1)
        self.out = nn.Conv2d(16, shape[0], 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = F.relu(self.down1(images))
        coarse = F.relu(self.down2(F.max_pool2d(fine, 2)))
        coarse = coarse + F.interpolate(F.relu(self.middle(F.max_pool2d(coarse, 2))), scale_factor=2)
        up = F.interpolate(F.relu(self.up(coarse)), scale_factor=2)
        output: Tensor = self.out(F.relu(self.join(torch.cat([up, fine], 1))))
        return output


GENERATORS: dict[str, Callable[[Shape], nn.Module]] = {"MLP": _mlp, "UNetXS": _UNetXS}
