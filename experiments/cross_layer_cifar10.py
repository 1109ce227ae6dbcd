"""Protection across layers at 32x32: a residual target on CIFAR-10 as JPEG files, in the folder ``data/cifar10-jpeg``.

As `experiments.cross_layer` with fewer trials on fewer images; `cross-layer with fuse` has the head `standardize` alone.
"""

from __future__ import annotations

import sys

from experiments.cross_layer import Comparison
from experiments.cross_layer_designs import DesignBench

__all__ = ["COMPARISON", "RESULT"]

COMPARISON = Comparison(
    "cross_layer_cifar10",
    DesignBench("data/cifar10-jpeg", "resnet20", {}, validation_images=150, validation_chips=2, test_images=500, steps=25),
    (0.01,),
    {"bits only": 10, "neurons only": 6, "quantization only": 10, "cross-layer": 25, "cross-layer with fuse": 12},
)
RESULT = COMPARISON.result()

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
