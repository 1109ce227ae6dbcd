"""What the paper's networks and fuses cost and save; tests hold it to the paper's own numbers.

Computed at every call: parameters, weight reads and MACs of the five targets and six generators for 32x32 images, and the
energy saved by each pair at the paper's operating point (1 % bit errors, an access at 0.694 of the nominal energy).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from backends import flags
from backends.interface import InputError
from backends.memory.energy import macs, saving, weight_reads
from backends.targets import networks
from bbfuse.generators import GENERATORS
from experiments.study import as_json

__all__ = ["rows"]

SHAPE = (3, 32, 32)
ACCESS_ENERGY = {"reads": 0.69394, "macs": 0.694}
"""The paper's E_LV / E_NV is not printed with enough digits: every cell of its Table 2 (reads) that we know is met to the printed
digit for 0.69391 to 0.69396 and nothing else, every one of Table 8 (MACs) for 0.69400 to 0.69401."""
TARGETS = ("resnet18", "resnet50", "vgg11", "vgg16", "vgg19")
FUSES = ("ConvL", "ConvS", "DeConvL", "DeConvS", "UNetL", "UNetS")


@dataclass(frozen=True)
class Asked:
    """Reads, MACs and energy savings of the paper's networks."""

    json: bool = False
    """print the records, and nothing else"""


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
    if asked.json:
        print(as_json({"image_shape": SHAPE, "access_energy": ACCESS_ENERGY}, records), end="")
    else:
        _show(records)
    return 0


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
