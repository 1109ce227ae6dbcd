"""Residual networks (He et al. 2016) for 32x32 images, and small ones of the same kind."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from backends.targets.base import TARGETS, architecture
from backends.targets.digits import SMALL
from backends.targets.norms import Norm, group

__all__: list[str] = []

_LARGE = (3, 32, 32)


class _Residual(nn.Module):
    """``relu(body(x) + shortcut(x))``, the shortcut a 1x1 convolution where the shape changes."""

    def __init__(self, body: nn.Sequential, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = body
        self.activation = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*_conv(inputs, outputs, 1, stride, norm))

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.activation(self.body(images) + self.shortcut(images))
        return output


def _conv(inputs: int, outputs: int, kernel: int, stride: int, norm: Norm) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), norm(outputs)]


def _basic(inputs: int, width: int, stride: int, norm: Norm) -> _Residual:
    body = nn.Sequential(*_conv(inputs, width, 3, stride, norm), nn.ReLU(), *_conv(width, width, 3, 1, norm))
    return _Residual(body, inputs, width, stride, norm)


def _bottleneck(inputs: int, width: int, stride: int, norm: Norm) -> _Residual:
    body = nn.Sequential(
        *_conv(inputs, width, 1, 1, norm), nn.ReLU(), *_conv(width, width, 3, stride, norm), nn.ReLU(),
        *_conv(width, 4 * width, 1, 1, norm),
    )  # fmt: skip
    return _Residual(body, inputs, 4 * width, stride, norm)


def _resnet(
    block: Callable[[int, int, int, Norm], _Residual],
    expansion: int,
    depths: tuple[int, ...],
    classes: int,
    first: int = 64,
    norm: Norm = nn.BatchNorm2d,
    stride: int = 1,
    channels: int = 3,
) -> nn.Sequential:
    """He et al. 2016 for 32x32 images: a 3x3 stem of ``stride``, stages of width ``first``, twice that, ..., global average."""
    layers, inputs = [*_conv(channels, first, 3, stride, norm), nn.ReLU()], first
    for stage, depth in enumerate(depths):
        width = first * 2**stage
        for place in range(depth):
            layers.append(block(inputs, width, 2 if stage > 0 and place == 0 else 1, norm))
            inputs = expansion * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


@TARGETS.register("resnet8-bn")
@architecture(_LARGE)
def resnet8_bn(classes: int) -> nn.Module:
    """ResNet-8: three residual blocks behind a stem of stride 2, batch normalisation."""
    return _resnet(_basic, 1, (1, 1, 1), classes, first=16, stride=2)


@TARGETS.register("resnet8-gn")
@architecture(_LARGE)
def resnet8_gn(classes: int) -> nn.Module:
    """ResNet-8: three residual blocks behind a stem of stride 2, group normalisation."""
    return _resnet(_basic, 1, (1, 1, 1), classes, first=16, norm=group, stride=2)


@TARGETS.register("digits-residual")
@architecture(SMALL)
def digits_residual(classes: int) -> nn.Module:
    """Two residual blocks for 8x8 images."""
    return _resnet(_basic, 1, (1, 1), classes, first=16, channels=1)


@TARGETS.register("resnet20")
@architecture(_LARGE)
def resnet20(classes: int) -> nn.Module:
    """ResNet-20 for 32x32 images, 16 to 64 channels."""
    return _resnet(_basic, 1, (3, 3, 3), classes, first=16)


@TARGETS.register("resnet20-gn")
@architecture(_LARGE)
def resnet20_gn(classes: int) -> nn.Module:
    """ResNet-20 with group normalisation."""
    return _resnet(_basic, 1, (3, 3, 3), classes, first=16, norm=group)


@TARGETS.register("resnet18")
@architecture(_LARGE)
def resnet18(classes: int) -> nn.Module:
    """ResNet-18 for 32x32 images, as NeuralFuse has it (Sun et al. 2024, Table 7)."""
    return _resnet(_basic, 1, (2, 2, 2, 2), classes)


@TARGETS.register("resnet50")
@architecture(_LARGE)
def resnet50(classes: int) -> nn.Module:
    """ResNet-50 for 32x32 images, as NeuralFuse has it (Sun et al. 2024, Table 7)."""
    return _resnet(_bottleneck, 4, (3, 4, 6, 3), classes)
