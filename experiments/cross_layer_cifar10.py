"""Protection across layers at 32x32: a residual target on CIFAR-10 as JPEG files, to be found under ``data/cifar10-jpeg``.

As `experiments.cross_layer`; fewer designs are tried, on fewer images, and `cross-layer with fuse` has the head `standardize`
alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from experiments import cross_layer
from experiments.cross_layer_designs import Bench
from experiments.study import command

__all__ = ["CIFAR10", "main"]

CIFAR10 = Bench("data/cifar10-jpeg", "resnet20", {}, validation_images=150, validation_chips=2, test_images=500, steps=25)
RATES = (0.01,)
EVALUATIONS = {"bits only": 10, "neurons only": 6, "quantization only": 10, "cross-layer": 25, "cross-layer with fuse": 12}


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("cross_layer_cifar10", _compute, cross_layer.tables, arguments)


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    rows, _, tried = cross_layer.measured(CIFAR10, RATES, EVALUATIONS)
    cross_layer.draw(tried, rows, "cross_layer_cifar10.svg")
    return cross_layer.settings(EVALUATIONS), rows


if __name__ == "__main__":
    from experiments.cross_layer_cifar10 import main

    sys.exit(main(sys.argv[1:]))
