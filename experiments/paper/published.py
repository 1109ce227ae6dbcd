"""What NeuralFuse prints for CIFAR-10 with its original pixels (Sun et al., NeurIPS 2024): percent of the test images.

Perturbed accuracies are means over ten chips. Tables 12 (relaxed access), 16 and 21 (restricted access), 22 and 23 (precision).
"""

from __future__ import annotations

from typing import Any

__all__ = ["BARE", "CLEAN", "PRECISION", "RELAXED", "TRANSFER"]

_TARGETS = ("resnet18", "resnet50", "vgg11", "vgg16", "vgg19")

CLEAN: dict[Any, float] = dict(zip(_TARGETS, (92.6, 92.6, 88.4, 90.3, 90.5), strict=True))
"""Without errors and without a fuse, by target."""
BARE: dict[Any, float] = {
    **{(target, 0.01): value for target, value in zip(_TARGETS, (38.9, 26.1, 42.2, 35.7, 36.0), strict=True)},
    **{(target, 0.005): value for target, value in zip(_TARGETS, (70.1, 61.0, 63.6, 66.6, 64.2), strict=True)},
}
"""Without a fuse, by target and bit error rate (Table 12)."""

_TABLE_12 = {
    0.01: {
        "ConvL": (87.8, 53.2, 87.2, 86.0, 77.7),
        "ConvS": (59.5, 34.6, 66.3, 59.6, 52.7),
        "DeConvL": (88.5, 63.3, 87.2, 85.5, 78.4),
        "DeConvS": (68.8, 42.2, 68.2, 66.5, 58.2),
        "UNetL": (84.6, 75.5, 83.6, 83.4, 82.1),
        "UNetS": (68.8, 56.2, 72.7, 71.2, 66.4),
    },
    0.005: {
        "ConvL": (87.9, 86.5, 87.0, 88.5, 88.1),
        "ConvS": (78.4, 73.3, 74.5, 77.8, 74.5),
        "DeConvL": (90.0, 87.2, 86.9, 88.2, 88.5),
        "DeConvS": (79.9, 75.5, 75.7, 78.4, 75.2),
        "UNetL": (86.3, 83.9, 82.4, 86.2, 85.0),
        "UNetS": (80.7, 76.1, 75.8, 80.2, 77.1),
    },
}
RELAXED: dict[Any, float] = {
    (target, generator, rate): value
    for rate, rows in _TABLE_12.items()
    for generator, values in rows.items()
    for target, value in zip(_TARGETS, values, strict=True)
}
"""With the fuse that was trained through that target, by target, generator and rate."""

TRANSFER: dict[Any, float] = {
    ("resnet18", "vgg11", "ConvL", 0.01): 62.5, ("resnet18", "vgg11", "ConvL", 0.005): 81.0,
    ("resnet18", "vgg11", "UNetL", 0.01): 61.1, ("resnet18", "vgg11", "UNetL", 0.005): 73.7,
    ("resnet18", "vgg19", "ConvL", 0.01): 50.7, ("resnet18", "vgg19", "ConvL", 0.005): 80.2,
    ("resnet18", "vgg19", "UNetL", 0.01): 51.1, ("resnet18", "vgg19", "UNetL", 0.005): 76.5,
    ("vgg19", "resnet18", "ConvL", 0.01): 61.0, ("vgg19", "resnet18", "ConvL", 0.005): 86.1,
    ("vgg19", "resnet18", "UNetL", 0.01): 69.7, ("vgg19", "resnet18", "UNetL", 0.005): 84.2,
    ("resnet18+vgg19", "resnet18", "ConvL", 0.01): 88.1, ("resnet18+vgg19", "resnet18", "UNetL", 0.01): 85.4,
    ("resnet18+vgg19", "vgg19", "ConvL", 0.01): 75.1, ("resnet18+vgg19", "vgg19", "UNetL", 0.01): 83.0,
}  # fmt: skip
"""By source, target, generator and rate, trained at 1 % (Table 16); both sources together were trained at 1.5 % (Table 21)."""

PRECISION: dict[Any, float] = {
    **{("resnet18", None, b): v for b, v in zip(range(8, 1, -1), (70.1, 68.8, 68.4, 52.7, 26.3, 11.3, 10.0), strict=True)},
    **{("resnet18", "ConvL", b): v for b, v in zip(range(8, 1, -1), (89.5, 89.5, 89.5, 90.0, 58.7, 12.8, 10.0), strict=True)},
    **{("resnet18", "UNetL", b): v for b, v in zip(range(8, 1, -1), (86.2, 86.0, 85.9, 85.5, 64.9, 14.8, 10.0), strict=True)},
    **{("vgg19", None, b): v for b, v in zip(range(8, 1, -1), (64.2, 66.5, 59.8, 37.7, 14.7, 10.5, 10.0), strict=True)},
    **{("vgg19", "ConvL", b): v for b, v in zip(range(8, 1, -1), (89.6, 89.6, 89.4, 78.0, 27.8, 10.9, 10.0), strict=True)},
    **{("vgg19", "UNetL", b): v for b, v in zip(range(8, 1, -1), (86.8, 86.7, 86.4, 79.8, 34.4, 11.0, 10.0), strict=True)},
}
"""At 0.5 % by target, generator (``None``: no fuse) and bits a weight; fuses trained at 1 % and 8 bits (Tables 22 and 23)."""
