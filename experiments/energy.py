"""What the paper's networks and fuses cost and save; tests hold it to the paper's own numbers.

Computed at every call: parameters, weight reads and MACs of the five targets and six generators for 32x32 images, and the
energy saved by each pair at the paper's operating point (1 % bit errors, an access at 0.694 of the nominal energy).
``results/energy.svg`` draws them against the points that the paper's gradients won back there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from backends import flags
from backends.base import InputError
from backends.memory.energy import macs, saving, weight_reads
from backends.targets import networks
from bbfuse.compare.results import as_json
from bbfuse.fuse.generators import GENERATORS
from bbfuse.runs.figures import legend_beside, svg, without_frame
from experiments.study import RESULTS

__all__ = ["rows"]

SHAPE = (3, 32, 32)
ACCESS_ENERGY = {"reads": 0.69394, "macs": 0.694}
"""The paper's E_LV / E_NV is not printed with enough digits: every cell of its Table 2 (reads) that we know is met to the printed
digit for 0.69391 to 0.69396 and nothing else, every one of Table 8 (MACs) for 0.69400 to 0.69401."""
TARGETS = ("resnet18", "resnet50", "vgg11", "vgg16", "vgg19")
FUSES = ("ConvL", "ConvS", "DeConvL", "DeConvS", "UNetL", "UNetS")
PUBLISHED_POINTS = {
    "resnet18": (48.8, 20.6, 49.6, 29.9, 45.6, 29.8),
    "resnet50": (27.1, 8.5, 37.2, 16.1, 49.4, 30.1),
    "vgg11": (45.1, 24.1, 45.0, 26.0, 41.4, 30.5),
    "vgg16": (50.3, 23.9, 49.8, 30.8, 47.7, 35.5),
    "vgg19": (41.7, 16.7, 42.4, 22.2, 46.0, 30.4),
}
"""Points won back with gradients, CIFAR-10, 1 % bit errors, in the order of `FUSES` (NeuralFuse, Table 12); theirs, not ours."""


@dataclass(frozen=True)
class Asked:
    """Reads, MACs and energy savings of the paper's networks."""

    json: bool = False
    """print the records, and nothing else"""
    run: bool = False
    """draw the trade-off anew"""


def rows() -> list[dict[str, Any]]:
    """One record for each network, then one for each pair; savings in per cent with one decimal."""
    made = {name: networks.build(name, SHAPE) for name in TARGETS} | {name: GENERATORS[name](SHAPE) for name in FUSES}
    cost = {
        name: {
            "parameters": sum(p.numel() for p in network.parameters()),
            # the paper counts the U-Nets' last 1x1 convolution as if it were padded by 1
            "reads": weight_reads(network, SHAPE, {"out": 1} if name.startswith("UNet") else None),
            "macs": macs(network, SHAPE),
        }
        for name, network in made.items()
    }
    pairs = [
        {
            "network": target,
            "generator": fuse,
            "saving": _percent(saving(ACCESS_ENERGY["reads"], cost[target]["reads"], cost[fuse]["reads"])),
            "saving_macs": _percent(saving(ACCESS_ENERGY["macs"], cost[target]["macs"], cost[fuse]["macs"])),
        }
        for target in TARGETS
        for fuse in FUSES
    ]
    return [{"network": name, **values} for name, values in cost.items()] + pairs


def main(arguments: list[str]) -> int:
    """Print the records; the exit code."""
    try:
        asked = flags.parse(Asked, "python -m experiments.energy", arguments)
    except InputError as error:
        return flags.refused(error)
    records = rows()
    if asked.run:
        _draw(records)
    if asked.json:
        print(as_json({"image_shape": SHAPE, "access_energy": ACCESS_ENERGY}, records, RESULTS), end="")
    else:
        _show(records)
    return 0


def _draw(records: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    axes = figure.subplots()
    saved = {(row["network"], row["generator"]): row["saving"] for row in records if "generator" in row}
    for fuse, colour in zip(FUSES, ("#4c72b0", "#4c72b0", "#dd8452", "#dd8452", "#55a868", "#55a868"), strict=True):
        large = fuse.endswith("L")
        x = [saved[target, fuse] for target in TARGETS]
        y = [PUBLISHED_POINTS[target][FUSES.index(fuse)] for target in TARGETS]
        axes.scatter(x, y, s=110 if large else 40, color=colour, alpha=0.75, lw=0, label=fuse)
        for target, place in zip(TARGETS, zip(x, y, strict=True), strict=True) if large else ():
            axes.annotate(target, place, xytext=(5, 3), textcoords="offset points", fontsize=6, color="#555555")
    axes.axvline(100 * (1 - ACCESS_ENERGY["reads"]), linestyle=":", color="#c44e52", lw=1.2, label="no fuse")
    axes.set_xlabel("energy of weight reads saved, % (computed here)")
    axes.set_ylabel("points won back (published)")
    axes.set_ylim(0)
    without_frame(axes)
    legend_beside(axes)
    (RESULTS / "energy.svg").write_text(svg(figure))


def _percent(fraction: float) -> float:
    return round(100 * fraction, 1)


def _show(records: list[dict[str, Any]]) -> None:
    alone = Table("network", "parameters", "weight reads", "MACs", title="one 32x32 image")
    for column in alone.columns[1:]:
        column.justify = "right"
    for row in records:
        if "generator" not in row:
            alone.add_row(row["network"], f"{row['parameters']:,}", f"{row['reads']:,.0f}", f"{row['macs'] / 1e6:,.2f} M")
    console = Console()
    console.print(alone)
    for key, title in (("saving", "energy saved by weight reads, %"), ("saving_macs", "energy saved by MACs, %")):
        table = Table("", *FUSES, title=title)
        for target in TARGETS:
            table.add_row(target, *(str(row[key]) for row in records if row["network"] == target and "generator" in row))
        console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
