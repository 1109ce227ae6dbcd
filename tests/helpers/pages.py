"""What the pages say: their tables and their prose, and numbers as they write them."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from experiments.study import rows_of

ROOT = Path(__file__).parent.parent.parent
PAGES = {"README.md": ROOT / "README.md", "experiments/README.md": ROOT / "experiments" / "README.md"}

HEADERS = {
    "main job": "digits, 5 % bit errors, chips 0 to 4, one seed each | images sent | held-out accuracy, % | "
    "share of the lost points won back, %",
    "far from gradients": "images sent for training | 10,000 | 30,000 | 100,000 | 300,000",
    "few images": " | one chip: 80 % | 90 % | 95 % | population: 50 % | 80 % | 90 %",
    "32x32": "all 45,000 images owned | 30,000 sent, 5 chips | share of white box | 100,000 sent, 3 chips | share",
    "32x32, few images": "10,000 sent, 3 chips; images owned, labels | 500, given | 500, of the target | 2,000, given | "
    "2,000, of the target",
    "claims": "claim | study (`study` in the rows) | residual target, 5 % errors | plain target, 5 % errors",
    "generators": "fuse through the target, in front of the | ConvL | ConvS | DeConvL | DeConvS | UNetL | UNetS | none",
    "paper's rates": " | study | VGG11 (the paper: 42.2 bare, 83.6 with UNetL, 87.2 with ConvL) | residual target",
    "digits that resist": "bit errors | none | 1 % | 5 % | 10 %",
    "CIFAR-10 that resists": "bit errors | none | 0.5 % | 1 % | 2.5 %",
    "chosen errors": "projected-gradient attack, flips of 203,728 bits | 10 | 20 | 40 | 80 | 320 | progressive: 20 | "
    "logits only, 200 asked: 80",
    "hardened fuse": " | no errors | 5 %: bare | head | head and fuse | 10 %: bare | head | head and fuse",
    "layers": " | 1 % wrong bits | 5 % | 10 %",
    "families": "bit error rate | 0 | 0.1 % | 0.3 % | 1 % | 3.3 % | 10 %",
}
"""The tables of numbers, by their first lines."""


def tables(page: str) -> dict[str, list[list[str]]]:
    """The cells of every table, line by line without its header, by that header's words."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", PAGES[page].read_text(), re.MULTILINE):
        header, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        name = " | ".join(header)
        assert name not in found
        found[name] = lines
    return found


def table(name: str) -> list[list[str]]:
    """The one called ``name`` in `HEADERS`."""
    (found,) = (every[HEADERS[name]] for every in map(tables, PAGES) if HEADERS[name] in every)
    return found


def prose(page: str) -> str:
    """All but tables, pictures and blocks of code, each run of blanks as one."""
    text = re.sub(r"^```.*?^```$", "", PAGES[page].read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(\|.*\||!\[.*\))$", "", text, flags=re.MULTILINE)
    return " ".join(text.split())


def one(result: str, **named: Any) -> dict[str, Any]:
    """The row of a committed result that these entries name."""
    (row,) = rows(result, **named)
    return row


def rows(result: str, **named: Any) -> list[dict[str, Any]]:
    return [row for row in rows_of(result) if named.items() <= {k: v for k, v in row.items() if k in named}.items()]


def with_sd(mean: float, sd: float, scale: float = 1.0) -> str:
    return f"{scale * mean:.1f} ± {scale * sd:.1f}"


def rounded(number: float) -> str:
    """To one place; halves, as they were printed, upwards."""
    return str(Decimal(str(number)).quantize(Decimal("0.1"), ROUND_HALF_UP))


def whole(number: float) -> str:
    return f"{number:,.0f}"
