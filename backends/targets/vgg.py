"""VGG networks with batch normalisation for 32x32 images, as NeuralFuse has them (Sun et al. 2024, Table 7)."""

from __future__ import annotations

from torch import nn

from backends.targets.base import TARGETS, architecture

__all__: list[str] = []


def _vgg(depths: tuple[int, ...], classes: int) -> nn.Sequential:
    """Simonyan and Zisserman 2015 with batch normalisation for 32x32 images: five pools and a single linear layer."""
    layers: list[nn.Module] = []
    inputs = 3
    for depth, width in zip(depths, (64, 128, 256, 512, 512), strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, classes))


@TARGETS.register("vgg11")
@architecture((3, 32, 32))
def vgg11(classes: int) -> nn.Module:
    """VGG-11 with batch normalisation for 32x32 images."""
    return _vgg((1, 1, 2, 2, 2), classes)


@TARGETS.register("vgg16")
@architecture((3, 32, 32))
def vgg16(classes: int) -> nn.Module:
    """VGG-16 with batch normalisation for 32x32 images."""
    return _vgg((2, 2, 3, 3, 3), classes)


@TARGETS.register("vgg19")
@architecture((3, 32, 32))
def vgg19(classes: int) -> nn.Module:
    """VGG-19 with batch normalisation for 32x32 images."""
    return _vgg((2, 2, 4, 4, 4), classes)
