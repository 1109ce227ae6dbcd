"""What the pages say: their tables and their prose, and numbers as they write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from experiments.study import rows_of

ROOT = Path(__file__).parent.parent.parent.parent
PAGES = {"README.md": ROOT / "README.md", "experiments/README.md": ROOT / "experiments" / "README.md"}

MAIN_JOB = (
    "digits, 5 % bit errors, chips 0 to 4, one seed each | images sent | held-out accuracy, % | "
    "share of the lost points recovered, %"
)
"""The first line of the table of README.md that has numbers."""


def tables_of(page: str) -> dict[str, list[list[str]]]:
    """The cells of every table, line by line without its header, by that header's words."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", PAGES[page].read_text(), re.MULTILINE):
        header, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        name = " | ".join(header)
        assert name not in found
        found[name] = lines
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


def whole(number: float) -> str:
    return f"{number:,.0f}"
