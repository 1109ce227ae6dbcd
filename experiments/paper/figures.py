"""The figure of `experiments.paper`: fuses by generator beside the paper's, images sent, rates, energy against accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbfuse.compare.display.plots import BLUE, GREEN, ORANGE, PURPLE, RED
from bbfuse.runs.figures import svg, without_frame
from experiments.study import RESULTS

__all__ = ["draw"]

Rows = list[dict[str, Any]]
_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#937860")
_MARKS = ("o", "s", "^", "D", "v")
_LEAST_SAVING = -0.6


def draw(rows: Rows, name: str) -> None:
    """Write ``results/NAME.svg``."""
    figure = Figure(figsize=(11.5, 9.6), layout="constrained")
    panels: list[Callable[[Axes, Rows], None]] = [_generators, _images, _rates, _plane]
    for axes, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
        panel(axes, rows)
        without_frame(axes)
        if panel is not _images:
            axes.set_ylim(0, 102)
            axes.set_ylabel("held-out accuracy, %")
            axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    (RESULTS / f"{name}.svg").write_text(svg(figure))


def _targets(rows: Rows) -> list[str]:
    """Those in front of which fuses were trained."""
    return list(dict.fromkeys(row["target"] for row in _population(rows)))


def _population(rows: Rows) -> Rows:
    """Fuses trained through their targets for all chips, at the highest rate."""
    mine = [row for row in rows if (row["study"], row["method"]) == ("relaxed", "backprop")]
    high = max(row["rate"] for row in mine)
    return [row for row in mine if row["rate"] == high]


def _generators(axes: Axes, rows: Rows) -> None:
    """White-box fuses at the highest rate, bare targets, and the paper's numbers."""
    mine = _population(rows)
    high = mine[0]["rate"]
    names = list(dict.fromkeys(row["generator"] for row in mine))
    for place, (target, colour) in enumerate(zip(_targets(rows), _COLOURS, strict=False)):
        these = {row["generator"]: row for row in mine if row["target"] == target}
        x = [index + 0.36 * (place - 0.5) for index in range(len(names))]
        y, sd = ([100 * these[name][key] for name in names] for key in ("fused_mean", "fused_sd"))
        axes.bar(x, y, 0.3, yerr=sd, color=colour, alpha=0.75, error_kw={"lw": 0.7, "capsize": 2}, label=target)
        axes.hlines([100 * these[name]["perturbed_mean"] for name in names], [v - 0.15 for v in x], [v + 0.15 for v in x],
                    color="black", lw=1.4, label="without a fuse" if place == 0 else "_")  # fmt: skip
        paper = [these[name]["paper_fused_mean"] for name in names]
        if None not in paper:
            label = f"{these[names[0]]['paper_target']}, 1 % (the paper)"
            axes.plot(x, [100 * v for v in paper], "*", color=colour, markeredgecolor="black", markeredgewidth=0.5, label=label)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_title(f"with gradients, {100 * high:g} % errors", fontsize=10)


def _images(axes: Axes, rows: Rows) -> None:
    """Strict access, and single chips with gradients: every method with the images sent, beside the same chips without a fuse."""
    mine = [row for row in rows if row["method"].endswith(")")]
    kinds = sorted(dict.fromkeys((row["method"].rpartition(" (")[2], row["method"], row["images"]) for row in mine), reverse=True)
    for place, (target, colour) in enumerate(zip(_targets(rows), _COLOURS, strict=False)):
        these = {(row["method"], row["images"]): row for row in mine if row["target"] == target}
        y = [index + 0.3 * (place - 0.5) for index in range(len(kinds))]
        found = [these[kind[1:]] for kind in kinds]
        x, sd = ([100 * row[key] for row in found] for key in ("fused_mean", "fused_sd"))
        axes.barh(y, x, 0.28, xerr=sd, color=colour, alpha=0.75, error_kw={"lw": 0.7, "capsize": 1.5})
        axes.vlines([100 * row["perturbed_mean"] for row in found], [v - 0.14 for v in y], [v + 0.14 for v in y], color="black")
    axes.set_yticks(range(len(kinds)), [f"{method}, {sent:,}" for _, method, sent in kinds], fontsize=7)
    axes.set_xlim(0, 102)
    axes.set_xlabel("held-out accuracy, %")
    axes.set_title("strict access (backprop: with gradients), images sent", fontsize=10)


def _rates(axes: Axes, rows: Rows) -> None:
    """Fuses trained at the highest rate, used at all; bare targets dashed."""
    high = _population(rows)[0]["rate"]
    for target, colour in zip(_targets(rows), _COLOURS, strict=False):
        alone = [row for row in rows if (row["target"], row["method"]) == (target, "no fuse") and row["bits"] == 8]
        bare = {row["rate"]: row["perturbed_mean"] for row in alone}
        axes.plot(*_sorted(bare), "--", color=colour, marker=".", label=f"{target} alone")
        used = [r for r in rows if r["study"] in ("rates", "relaxed") and r["target"] == target and r["trained_rate"] == high]
        for generator, mark in zip(("ConvL", "UNetL"), _MARKS, strict=False):
            these = {row["rate"]: row["fused_mean"] for row in used if row["generator"] == generator}
            if these:
                axes.plot(*_sorted(these), "-", color=colour, marker=mark, markersize=4, label=f"{target} behind {generator}")
    rates = sorted({100 * row["rate"] for row in rows if row["study"] == "rates"} | {100 * high})
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.set_xlabel("bit error rate, % (trained at one of them)")
    axes.set_title("one fuse, all rates", fontsize=10)


def _sorted(points: dict[float, float]) -> tuple[list[float], list[float]]:
    rates = sorted(points)
    return [100 * rate for rate in rates], [100 * points[rate] for rate in rates]


_PLANE = {
    "no fuse": ("no fuse, all voltages", "black", "--"), "smaller target": ("a smaller target, all voltages", "#8c8c8c", ":"),
}  # fmt: skip


def _plane(axes: Axes, rows: Rows) -> None:
    """All points that save energy, with lines for the alternatives without a fuse."""
    first = _targets(rows)[-1]
    shown = [row for row in rows if row["saving"] is not None and row["saving"] > _LEAST_SAVING]
    for method, (label, colour, style) in _PLANE.items():
        line = sorted(
            (row["saving"], row["perturbed_mean"]) for row in shown
            if row["study"] == "alternatives" and row["method"] == method and row["target"] in (first, "", *_smaller(rows))
        )  # fmt: skip
        axes.plot([100 * x for x, _ in line], [100 * y for _, y in line], style, color=colour, marker=".", label=label)
    kinds = [("relaxed", "backprop", "fuse by gradients"), ("strict", "population", "strict access, population"),
             ("strict", "one chip", "strict access, one chip")]  # fmt: skip
    for (study, word, label), colour, mark in zip(kinds, _COLOURS, _MARKS, strict=False):
        these = [r for r in shown if r["study"] == study and word in r["method"] and r["target"] == first]
        x, y = [100 * r["saving"] for r in these], [100 * r["fused_mean"] for r in these]
        axes.plot(x, y, mark, color=colour, markersize=5, alpha=0.8, label=label)
    controls = [r for r in shown if "classifier" in r["method"] and r["target"] == first]
    x, y = [100 * r["saving"] for r in controls], [100 * r["clean"] for r in controls]
    axes.plot(x, y, "P", color="#c44e52", label="classifier of a fuse's size instead")
    outside = sum(row["study"] in ("relaxed", "strict") and row["target"] == first and row not in shown for row in rows)
    axes.set_xlabel(f"energy of weight reads saved, % ({outside} more expensive fuses left out)")
    axes.set_title(f"energy against accuracy, {first}", fontsize=10)


def _smaller(rows: Rows) -> set[str]:
    return {row["target"] for row in rows if row["method"] == "smaller target"}
