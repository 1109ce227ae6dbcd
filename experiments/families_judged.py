"""Which published directions the families of targets show: one rule for each family, on the rows of `experiments.families`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, stdev

from scipy.stats import t as student

from bbfuse.compare.display.tables import rows_where
from bbfuse.compare.tasks import Row

__all__ = ["compared", "judged"]

Other = Callable[[str], Row]
"""The row of another variant of the family, with the same rate and kind of errors."""
Verdict = tuple[str, bool | None] | None
"""A direction and whether the rows show it; ``None`` where no direction is published for a row."""


def compared(better: Sequence[float], worse: Sequence[float]) -> bool | None:
    """Whether ``better`` exceeds ``worse``, pair by pair; ``None`` if 0 is in the 95 % interval of the mean difference."""
    apart = [first - second for first, second in zip(better, worse, strict=True)]
    noise = student.ppf(0.975, len(apart) - 1) * stdev(apart) / len(apart) ** 0.5
    return None if abs(mean(apart)) <= noise else mean(apart) > 0


def judged(rows: Sequence[Row]) -> list[Row]:
    """``rows`` with what was published for each, in our words, and whether it holds; "(ours)" marks our own expectations."""

    def verdict(row: Row) -> Verdict:
        same = rows_where(list(rows), family=row["family"], errors=row["errors"], rate=row["rate"])

        def other(variant: str) -> Row:
            (found,) = rows_where(same, variant=variant)
            return found

        return RULES[row["family"]](row, other)

    found = [verdict(row) or (None, None) for row in rows]
    return [
        {**row, "direction_published": direction, "direction_holds": holds}
        for row, (direction, holds) in zip(rows, found, strict=True)
    ]


def _lost(row: Row) -> float:
    """Points."""
    return 100 * float(row["clean"] - row["perturbed_mean"])


def _flatenn(row: Row, other: Other) -> Verdict:
    if row["rate"] and row["variant"].endswith(", SAQ"):
        control = other(f"{row['variant'].removesuffix('SAQ')}twice the steps")
        return "SAQ is above conventional fitting (of twice the steps)", compared(row["by_fit"], control["by_fit"])
    if row["rate"] and row["variant"] == "sparse":
        return "sparse activations tolerate less", compared(other("standard")["by_fit"], row["by_fit"])
    return None


def _softsnn(row: Row, other: Other) -> Verdict:
    """The unprotected target counts as collapsed at 60 % of its accuracy without errors and below."""
    if row["variant"] == "unprotected" or not row["rate"]:
        return None
    bare = other("unprotected")
    if bare["perturbed_mean"] > 0.6 * bare["clean"]:
        return None
    return "at most 4 points lost where the unprotected one collapses", _lost(row) <= 4.0


def _smartexchange(row: Row, other: Other) -> Verdict:
    if row["basis_power"] is None:
        return None
    return "the basis carries 15 to 30 % of the error power (our estimate)", 0.15 <= row["basis_power"] <= 0.3


def _shiftaddnet(row: Row, other: Other) -> Verdict:
    if row["variant"] != "shift codes":
        return None
    fixed = other("8-bit codes")
    if row["rate"]:
        return "exponent codes suffer more than 8-bit codes (ours)", compared(fixed["by_chip"], row["by_chip"])
    larger = row["flip_error"] > fixed["flip_error"]
    return "a wrong bit of an exponent code is a larger error than one of 8 bits (ours)", larger


def _ftbnn(row: Row, other: Other) -> Verdict:
    if row["variant"] == "none" or row["rate"]:
        return None
    return "the non-linearity gains accuracy", compared(row["by_fit"], other("none")["by_fit"])


def _rram(row: Row, other: Other) -> Verdict:
    if row["variant"] == "plain" and 0 < row["rate"] <= 1e-3:
        return "holds (to 1 point) up to 1e-4 to 1e-3", _lost(row) <= 1.0
    if row["variant"] != "plain" and row["rate"] == 0.033:
        above = compared(row["by_fit"], other("plain")["by_fit"])
        return "holds (to 3 points) at 3 to 4e-2, above the plain one", None if above is None else above and _lost(row) <= 3.0
    return None


RULES: dict[str, Callable[[Row, Other], Verdict]] = {
    "FlatENN": _flatenn, "SoftSNN": _softsnn, "SmartExchange": _smartexchange, "ShiftAddNet": _shiftaddnet, "FTBNN": _ftbnn,
    "RRAM binary": _rram,
}  # fmt: skip
