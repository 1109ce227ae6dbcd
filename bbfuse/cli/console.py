"""What a run shows while it goes on, and the table it ends with. All of it on standard error but the table."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from bbfuse.training.trainer import Status

__all__ = ["Show", "closing_table", "plan_table"]

_PLAIN_LINES = 10


class Show:
    """A progress bar on a terminal, about ten plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar: tuple[Progress, TaskID] | None = None
        self._printed = 0
        self._began: tuple[float, int] | None = None

    def say(self, message: str) -> None:
        """One line for the user."""
        self._console.print(message, soft_wrap=True, markup=False)

    def __enter__(self) -> Show:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.fields[spent]} images"), BarColumn(), TextColumn("loss {task.fields[loss]}"),
                TextColumn("validation {task.fields[validation]}"), TimeRemainingColumn(compact=True),
            )  # fmt: skip
            bar = Progress(*columns, console=self._console)
            bar.start()
            self._bar = bar, bar.add_task("", total=None, spent="0", loss="-", validation="-")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def watch(self, status: Status) -> None:
        """Take note of where the run stands."""
        now = time.monotonic()
        self._began = began, first = self._began or (now, status.step)
        loss = "-" if status.loss is None else f"{status.loss:.3f}"
        validation = "-" if status.validation is None else f"{100 * status.validation:.1f} %"
        spent = f"{status.images:,} of {status.budget:,}"
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=status.step, total=status.steps, spent=spent, loss=loss, validation=validation)
        elif (tenth := status.step * _PLAIN_LINES // status.steps) > self._printed:
            self._printed = tenth
            left = (now - began) * (status.steps - status.step) / max(status.step - first, 1)
            self.say(f"{spent} images, loss {loss}, validation {validation}, about {left:.0f} s left")


def closing_table(summary: dict[str, Any]) -> None:
    """Print what was won, on standard output."""
    accuracy = summary["accuracy"]
    chips = accuracy["perturbed"]["chips"]
    console = Console(highlight=False)
    where = f"chip {summary['config']['chip_seed']}" if summary["config"]["chip_seed"] is not None else f"{chips} unseen chips"
    console.print(f"Held-out accuracy, {100 * summary['config']['bit_error_rate']:g} % bit errors, {where}", soft_wrap=True)
    table = Table()
    for name, justify in (("", "left"), ("accuracy", "right"), ("won back", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_row("nominal voltage", f"{100 * accuracy['clean']:.1f} %", "")
    lost = accuracy["clean"] - accuracy["perturbed"]["mean"]
    for label, key in LABELS.items():
        spread = accuracy[key]
        sd = f" ± {100 * spread['sd']:.1f}" if chips > 1 else ""
        share = (
            f"{100 * (spread['mean'] - accuracy['perturbed']['mean']) / lost:.0f} %" if lost > 0 and key != "perturbed" else ""
        )
        table.add_row(label, f"{100 * spread['mean']:.1f}{sd} %", share)
    console.print(table)
    if summary["config"]["head"] != "none":
        console.print(
            "fuse alone: this run's fuse with the head taken away; --head none trains one that stands alone", soft_wrap=True
        )
    trust = summary.get("trust")
    if trust is not None:
        verdict = "" if trust >= TRUSTED else ": it was not trusted"
        console.print(f"the surrogate foretold {100 * trust:.0f} % of the variance of the last answers{verdict}", soft_wrap=True)
    for line in _about_target(summary.get("target") or {}):
        console.print(line, soft_wrap=True)
    energy, queries = summary["energy"], summary["queries"]
    if energy["saving"] is not None:
        console.print(
            f"{100 * energy['voltage']:.0f} % of the voltage saves {100 * energy['saving_bare']:.1f} % of the energy of weight "
            f"reads, {100 * energy['saving']:.1f} % with the fuse in front",
            soft_wrap=True,
        )
    console.print(
        f"{summary['lost_points']:.1f} points lost, {summary['recovered_points']:.1f} won back; {queries['images']:,} images in "
        f"{queries['requests']:,} requests{_costing(queries)} (budget {queries['budget']:,}){_kept(queries)}; "
        f"{summary['seconds']:.0f} s",
        soft_wrap=True,
    )


def plan_table(plan: dict[str, Any]) -> None:
    """Print what a run would send, on standard output."""
    console = Console(highlight=False)
    table = Table()
    for name, justify in (("", "left"), ("images", "right"), ("requests", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for label, key in PURPOSES.items():
        sent = plan["purposes"][key]
        if key == "watch" and not sent["images"]:
            continue
        name = f"{label}, {plan['steps']:,} steps" if key == "training" else label
        table.add_row(name, f"{sent['images']:,}", f"{sent['requests']:,}", end_section=key == "report")
    queries = plan["queries"]
    table.add_row("sent", f"{queries['images']:,}", f"{queries['requests']:,}")
    table.add_row("kept back", f"{plan['kept_back']:,}", "")
    console.print(table)
    lines = [
        f"{queries['images']:,} images in {queries['requests']:,} requests{_costing(queries)} (budget {queries['budget']:,})"
    ]
    if plan["bytes"] is not None:
        lines.append(f"about {_size(plan['bytes']['up'])} up and {_size(plan['bytes']['down'])} down, without HTTP headers")
    bound = "exact" if plan["exact"] else "at most that, since a smaller fuse may ask less,"
    lines.append(f"{bound} if no request has to be sent again: retries take what is kept back, then training")
    console.print("; ".join(lines), soft_wrap=True)


def _costing(queries: dict[str, Any]) -> str:
    """What they cost, if that is known; summaries of older runs do not say."""
    return "" if queries.get("cost") is None else f" that cost {queries['cost']:,.2f}"


def _kept(queries: dict[str, Any]) -> str:
    return f", {queries['kept']:,} more from the store" if queries.get("kept") else ""


def _about_target(target: dict[str, Any]) -> list[str]:
    """What was found of the target itself, where it was asked."""
    lines = []
    if target.get("deterministic") is False:
        lines.append(f"the target does not repeat itself: asked twice, it changed a logit by {100 * target['noise']:.2g} % of "
                     "their spread")  # fmt: skip
    if target.get("honours_chip") is False:
        lines.append("the target answered alike at nominal voltage and on a chip")
    if target.get("drift") is not None:
        lines.append(f"asked again on the way, the target had changed a logit by at most {100 * target['drift']:.2g} % of their "
                     "spread")  # fmt: skip
    return lines


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


TRUSTED = 0.2
"""A surrogate that foretold less moved the fuse by less than a fifth of the steps that it asked for."""

LABELS = {
    "no protection": "perturbed",
    "head alone": "perturbed_head",
    "fuse alone": "perturbed_fuse",
    "fuse and head": "perturbed_fused",
}
"""The rows of the closing table and the bars of the report, in order."""

PURPOSES = {
    "the target itself": "watch",
    "warm-up: labels and head": "warm_up",
    "training": "training",
    "validation": "validation",
    "closing report": "report",
}
"""The rows of the plan, in order."""
