"""SimpleNet with group normalisation, as Stutz et al. (MLSys 2021) have it."""

from __future__ import annotations

from torch import nn

from backends.targets.base import TARGETS, architecture
from backends.targets.norms import group

__all__: list[str] = []


@TARGETS.register("simplenet-gn")
@architecture((3, 32, 32))
def simplenet(classes: int) -> nn.Module:
    """SimpleNet: thirteen convolutions with group normalisation and five pools, 5,498,378 parameters."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in (64, 128, 128, 128, 0, 128, 128, 256, 0, 256, 256, 0, 512, 0, -2048, -256, 0, 256):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        kernel, outputs = (3, width) if width > 0 else (1, -width)
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), group(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, classes))
