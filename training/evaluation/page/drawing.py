"""Style of the page's figures, and their conversion to inline SVG."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, QUIET, GRID = "#22262b", "#7b838d", "#e4e7eb"
_STYLE: Any = {
    "svg.fonttype": "none",  # Text stays text, in the page's own font.
    "svg.hashsalt": "vireo",  # Makes the bytes reproducible.
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}
NAMES = {
    "popularity": "popularity",
    "item_knn": "item kNN",
    "ease": "EASE",
    "ease_recency": "EASE, recency",
    "ials": "iALS",
    "markov_blend": "EASE + Markov",
    "two_tower": "two-tower",
    "chain": "chain",
    "served": "served",
    "vireo": "Vireo",
    "content_knn": "content kNN",
    "random": "random",
}
MEASURES = {
    "hr_10": "HR@10",
    "ndcg_10": "NDCG@10",
    "recall_50": "Recall@50",
    "recall_100": "Recall@100",
    "coverage_10": "Coverage@10",
}
_COLOURS = {
    "popularity": "#b4bac2",
    "random": "#d5d9de",
    "item_knn": "#8f9aa6",
    "content_knn": "#8f9aa6",
    "ease": "#c9a66b",
    "ease_recency": "#a9762f",
    "ials": "#9b8bb4",
    "markov_blend": "#6d5a8c",
    "two_tower": "#74a9b8",
    "chain": "#1f6f80",
    "served": "#0d3f4b",
    "vireo": "#1f6f80",
}
_OTHERS = ("#1f6f80", "#a9762f", "#6d5a8c", "#8f9aa6", "#7d9a5b", "#b4635a")


def name_of(system: str) -> str:
    """Return the display name of a system."""
    return NAMES.get(system, system.replace("_", " "))


def colour_of(system: str, place: int = 0) -> str:
    """Return a system's colour in every figure, or one by place for other names."""
    return _COLOURS.get(system, _OTHERS[place % len(_OTHERS)])


def figure(
    columns: int = 1, *, width: float = 9.0, height: float = 3.6
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with `columns` axes side by side; sizes in inches."""
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        axes = drawn.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
    return drawn, list(axes)


def legend(axis: Axes, columns: int = 1) -> None:
    """Add a legend beside the axes."""
    axis.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9, ncols=columns
    )


def as_svg(drawn: Figure) -> str:
    """Return the figure as an SVG element that scales with the page."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    element = buffer.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    tag, rest = element.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", tag) + ">" + rest
