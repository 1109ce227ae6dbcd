"""What the paper's networks and fuses cost and save; tests compare it with the paper's own numbers.

Computed at every call: parameters, weight reads and MACs of the five targets and six generators for 32x32 images, and the
energy saved by each pair at the paper's operating point (1 % bit errors, an access at 0.694 of the nominal energy).
``results/energy.svg`` draws them against the accuracy that the paper recovers there with gradients.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from rich.console import Console, Group

from backends import flags
from backends.base import InputError
from backends.memory.energy import macs, saving, weight_reads
from backends.targets import networks
from bbfuse.compare.display.plots import BLUE, GREEN, GREY, ORANGE, RED, panels
from bbfuse.compare.display.tables import first, table
from bbfuse.compare.measured import across, value
from bbfuse.compare.results import as_json
from bbfuse.compare.tasks import Row
from bbfuse.fuse.generators.base import GENERATORS
from experiments.study import RESULTS

__all__ = ["rows"]

SHAPE = (3, 32, 32)
ACCESS_ENERGY = {"reads": 0.69394, "macs": 0.694}
"""The paper prints E_LV / E_NV with too few digits. All known cells of its Table 2 (reads) are reproduced to the printed digit by
0.69391 to 0.69396 alone, all of Table 8 (MACs) by 0.69400 to 0.69401."""
TARGETS = ("resnet18", "resnet50", "vgg11", "vgg16", "vgg19")
FUSES = ("ConvL", "ConvS", "DeConvL", "DeConvS", "UNetL", "UNetS")
PUBLISHED_POINTS = {
    "resnet18": (48.8, 20.6, 49.6, 29.9, 45.6, 29.8),
    "resnet50": (27.1, 8.5, 37.2, 16.1, 49.4, 30.1),
    "vgg11": (45.1, 24.1, 45.0, 26.0, 41.4, 30.5),
    "vgg16": (50.3, 23.9, 49.8, 30.8, 47.7, 35.5),
    "vgg19": (41.7, 16.7, 42.4, 22.2, 46.0, 30.4),
}
"""Points recovered with gradients, CIFAR-10, 1 % bit errors, in the order of `FUSES` (published: NeuralFuse, Table 12)."""


@dataclass(frozen=True)
class EnergyFlags:
    """Reads, MACs and energy savings of the paper's networks."""

    json: bool = False
    """print the rows, and nothing else"""
    run: bool = False
    """draw the figure again"""


def rows() -> list[Row]:
    """One record for each network, then one for each pair; savings in per cent with one decimal."""
    made = {name: networks.build(name, SHAPE) for name in TARGETS} | {name: GENERATORS[name](SHAPE) for name in FUSES}
    cost = {
        name: {
            "parameters": sum(p.numel() for p in network.parameters()),
            # the paper counts the last 1x1 convolution of U-Nets as if it were padded by 1
            "reads": weight_reads(network, SHAPE, {"out": 1} if name.startswith("UNet") else None),
            "macs": macs(network, SHAPE),
        }
        for name, network in made.items()
    }
    pairs = [
        {"network": target, "generator": fuse} | {
            column: round(100 * saving(ACCESS_ENERGY[kind], cost[target][kind], cost[fuse][kind]), 1)
            for column, kind in (("saving", "reads"), ("saving_macs", "macs"))
        }
        for target in TARGETS for fuse in FUSES
    ]  # fmt: skip
    return [{"network": name, **values} for name, values in cost.items()] + pairs


def main(arguments: list[str]) -> int:
    """Print the rows; the exit code."""
    try:
        show = flags.parse(EnergyFlags, "python -m experiments.energy", arguments)
    except InputError as error:
        return flags.refused(error)
    found = rows()
    if show.run:
        _draw(found)
    if show.json:
        print(as_json({"image_shape": SHAPE, "access_energy": ACCESS_ENERGY}, found, RESULTS), end="")
    else:
        Console().print(_tables(found))
    return 0


def _draw(found: list[Row]) -> None:
    with panels(RESULTS / "energy.svg", 8.4, 3.8) as (axes,):
        saved = {(row["network"], row["generator"]): row["saving"] for row in found if "generator" in row}
        for fuse, colour in zip(FUSES, (BLUE, BLUE, ORANGE, ORANGE, GREEN, GREEN), strict=True):
            large = fuse.endswith("L")
            x = [saved[target, fuse] for target in TARGETS]
            y = [PUBLISHED_POINTS[target][FUSES.index(fuse)] for target in TARGETS]
            axes.scatter(x, y, s=110 if large else 40, color=colour, alpha=0.75, lw=0, label=fuse)
            for target, place in zip(TARGETS, zip(x, y, strict=True), strict=True) if large else ():
                axes.annotate(target, place, xytext=(5, 3), textcoords="offset points", fontsize=6, color=GREY)
        axes.axvline(100 * (1 - ACCESS_ENERGY["reads"]), linestyle=":", color=RED, lw=1.2, label="no fuse")
        axes.set(xlabel="energy of weight reads saved, % (computed here)", ylabel="points recovered (published)")
        axes.set_ylim(0)


def _tables(found: list[Row]) -> Group:
    alone, pairs = [row for row in found if "generator" not in row], [row for row in found if "generator" in row]
    return Group(
        table(alone, ["network"], {
            "parameters": first("parameters", ","), "weight reads": first("reads", ",.0f"),
            "MACs": lambda group: f"{group[0]['macs'] / 1e6:,.2f} M",
        }, title="one 32x32 image"),
        *(
            table(pairs, ["network"], across(pairs, "generator", value(key)), title=f"energy saved by {kind}, %")
            for key, kind in (("saving", "weight reads"), ("saving_macs", "MACs"))
        ),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
