"""What all figures share."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["legend_beside", "svg", "without_frame"]


def svg(figure: Figure) -> str:
    """The ``<svg>`` element of ``figure``, identical at every call, with text as text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "bbfuse", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def without_frame(axes: Axes) -> None:
    """Remove the two sides of the frame that have no scale."""
    axes.spines[["top", "right"]].set_visible(False)


def legend_beside(axes: Axes) -> None:
    """The legend to the right of the axes, where it covers nothing."""
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
