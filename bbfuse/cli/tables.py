"""The tables that a run and a plan print at the end, on standard output."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from backends.registry import shown
from bbfuse.runs.report import kept_by, labels_of

__all__ = ["PURPOSES", "TRUSTED", "closing_table", "plan_table"]


def closing_table(summary: dict[str, Any], console: Console | None = None) -> None:
    """Print the accuracies, what was recovered and what was sent, on ``console``, standard output if not given."""
    accuracy = summary["accuracy"]
    console = console or Console(highlight=False)
    console.print(_heading(summary), soft_wrap=True)
    healthy = accuracy["clean"] is None
    table = Table()
    for name, justify in (("", "left"), ("accuracy", "right"), ("points gained" if healthy else "recovered", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    if not healthy:
        table.add_row("nominal voltage", f"{100 * accuracy['clean']:.1f} %", "")
    for label, key in labels_of(summary).items():
        spread = accuracy[key]
        sd = f" ± {100 * spread['sd']:.1f}" if spread["chips"] > 1 else ""
        table.add_row(label, f"{100 * spread['mean']:.1f}{sd} %", _gain(accuracy, key))
    console.print(table)
    if (kept := kept_by(summary)) is not None:
        console.print(f"kept after validation: {kept}, {100 * accuracy['kept']['mean']:.1f} %", soft_wrap=True)
    elif summary["config"]["head"] != "none":
        console.print(
            "fuse alone: this run's fuse without its head; to use a fuse alone, train one without a head", soft_wrap=True
        )
    trust = summary.get("trust")
    if trust is not None:
        verdict = "" if trust >= TRUSTED else ": its gradients were not used"
        console.print(
            f"the surrogate predicted {100 * trust:.0f} % of the variance of the last responses{verdict}", soft_wrap=True
        )
    for line in _about_target(summary.get("target") or {}):
        console.print(line, soft_wrap=True)
    energy, queries = summary["energy"], summary["queries"]
    if energy["saving"] is not None:
        console.print(
            f"{100 * energy['voltage']:.0f} % of the voltage saves {100 * energy['saving_bare']:.1f} % of the energy of weight "
            f"reads, {100 * energy['saving']:.1f} % with the fuse in front",
            soft_wrap=True,
        )
    points = f"{summary['recovered_points']:.1f}"
    points = f"{points} points gained" if healthy else f"{summary['lost_points']:.1f} points lost, {points} recovered"
    console.print(
        f"{points}; {queries['images']:,} images in "
        f"{queries['requests']:,} requests{_costing(queries)} (budget {queries['budget']:,}){_kept(queries)}; "
        f"{summary['seconds']:.0f} s",
        soft_wrap=True,
    )


def _heading(summary: dict[str, Any]) -> str:
    config, chips = summary["config"], summary["accuracy"]["perturbed"]["chips"]
    if summary["accuracy"]["clean"] is None:
        return f"Held-out accuracy on {shown(config['data'])}, target without bit errors"
    where = f"chip {config['chip_seed']}" if config["chip_seed"] is not None else f"{chips} unseen chips"
    return f"Held-out accuracy, {100 * config['bit_error_rate']:g} % bit errors, {where}"


def _gain(accuracy: dict[str, Any], key: str) -> str:
    """Of the lost points the share that was recovered; the points gained where nothing was lost to bit errors."""
    gained = accuracy[key]["mean"] - accuracy["perturbed"]["mean"]
    if key == "perturbed":
        return ""
    if accuracy["clean"] is None:
        return f"{100 * gained:+.1f}"
    lost = accuracy["clean"] - accuracy["perturbed"]["mean"]
    return f"{100 * gained / lost:.0f} %" if lost > 0 else ""


def plan_table(plan: dict[str, Any]) -> None:
    """Print what a run would send."""
    console = Console(highlight=False)
    table = Table()
    for name, justify in (("", "left"), ("images", "right"), ("requests", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for label, key in PURPOSES.items():
        sent = plan["purposes"].get(key)
        if sent is None or (key == "watch" and not sent["images"]):
            continue
        name = f"{label}, {plan['steps']:,} steps" if key == "training" else label
        table.add_row(name, f"{sent['images']:,}", f"{sent['requests']:,}", end_section=key == "report")
    queries = plan["queries"]
    table.add_row("sent", f"{queries['images']:,}", f"{queries['requests']:,}")
    table.add_row("reserve", f"{plan['kept_back']:,}", "")
    console.print(table)
    lines = [
        f"{queries['images']:,} images in {queries['requests']:,} requests{_costing(queries)} (budget {queries['budget']:,})"
    ]
    if plan["bytes"] is not None:
        lines.append(f"about {_size(plan['bytes']['up'])} up and {_size(plan['bytes']['down'])} down, without HTTP headers")
    bound = "exact" if plan["exact"] else "at most that, since a smaller fuse may send less,"
    lines.append(f"{bound} without retries, which use the reserve first, then the budget for training")
    console.print("; ".join(lines), soft_wrap=True)


def _costing(queries: dict[str, Any]) -> str:
    """The cost, if known."""
    return "" if queries.get("cost") is None else f" that cost {queries['cost']:,.2f}"


def _kept(queries: dict[str, Any]) -> str:
    return f", {queries['kept']:,} more from the cache" if queries.get("kept") else ""


def _about_target(target: dict[str, Any]) -> list[str]:
    """Results of the drift checks."""
    lines = []
    if target.get("deterministic") is False:
        lines.append(f"responses are not repeatable: the same query changed a logit by {100 * target['noise']:.2g} % of "
                     "their spread")  # fmt: skip
    if target.get("honours_chip") is False:
        lines.append("responses were the same at nominal voltage and on a chip")
    if target.get("drift") is not None:
        lines.append(f"drift: during the run a logit changed by at most {100 * target['drift']:.2g} % of their "
                     "spread")  # fmt: skip
    return lines


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


TRUSTED = 0.2
"""Below this trust the surrogate's gradients had little effect: trust scales the learning rate."""

PURPOSES = {
    "drift checks": "watch",
    "labels and head": "warm_up",
    "start": "start",
    "training": "training",
    "validation": "validation",
    "choice of the parts to keep": "selection",
    "closing report": "report",
}
"""The rows of the plan, in order."""
