"""The page's figures, each drawn from one file of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from training.evaluation.page.drawing import (
    INK,
    MEASURES,
    QUIET,
    as_svg,
    colour_of,
    figure,
    legend,
    name_of,
)

Document = Mapping[str, Any]


def _percent(axis: Axes) -> None:
    axis.yaxis.set_major_formatter(PercentFormatter(1))


def recall(document: Document) -> str:
    """Draw recall by list length, a line a system."""
    drawn, [axis] = figure()
    lengths = document["k"]
    for name, values in document["systems"].items():
        style: dict[str, Any] = {"color": colour_of(name), "label": name_of(name)}
        bold = 2.6 if name in ("chain", "served") else 1.4
        axis.plot(lengths, values, marker="o", linewidth=bold, **style)
    axis.set(xscale="log", xlabel="length k of the list", ylabel="recall@k", ylim=(0, 1))
    axis.set_xticks(lengths, [str(k) for k in lengths])
    axis.minorticks_off()
    _percent(axis)
    legend(axis)
    return as_svg(drawn)


def headline(document: Document) -> str:
    """Draw NDCG@10 of each system with its interval."""
    names = list(reversed(document["systems"]))
    drawn, [axis] = figure(height=0.6 + 0.3 * len(names))
    for place, name in enumerate(names):
        found, colour = document["systems"][name]["ndcg_10"], colour_of(name)
        ends = [found["low"], found["high"]]
        axis.plot(ends, [place] * 2, color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
        axis.plot(found["value"], place, "o", color=colour, markersize=6)
    axis.set_yticks(range(len(names)), [name_of(name) for name in names])
    axis.set(xlabel="NDCG@10, with its 95% interval over viewers", xlim=(0, None))
    axis.grid(axis="y", visible=False)
    return as_svg(drawn)


def slices(slicing: Document) -> str:
    """Draw NDCG@10 of each system in each group of a slicing."""
    found = slicing["groups"]
    labels = [f"{group['name']}\n{group['n']:,} viewers" for group in found]
    return _bars(labels, [group["systems"] for group in found], "ndcg_10")


def groups(found: Mapping[str, Document], measure: str) -> str:
    """Draw one measure of each group's `systems`."""
    return _bars(list(found), [each["systems"] for each in found.values()], measure)


def _bars(labels: Sequence[str], found: Sequence[Document], measure: str) -> str:
    """Draw a bar for each system in each group, with its interval if there is one."""
    drawn, [axis] = figure(height=3.2)
    names = list(dict.fromkeys(name for systems in found for name in systems))
    width = 0.84 / max(len(names), 1)
    for place, name in enumerate(names):
        x = np.arange(len(found)) + (place - (len(names) - 1) / 2) * width
        values = [systems.get(name, {}).get(measure, 0.0) for systems in found]
        if isinstance(values[0], Mapping):
            low, middle, high = (
                np.array([each[end] for each in values]) for end in ("low", "value", "high")
            )
            errors = [middle - low, high - middle]
            axis.errorbar(x, middle, errors, fmt="none", ecolor=QUIET, elinewidth=0.8)
            values = middle.tolist()
        axis.bar(x, values, width * 0.92, color=colour_of(name, place), label=name_of(name))
    axis.set_xticks(range(len(labels)), labels)
    axis.set(ylabel=MEASURES[measure], ylim=(0, None))
    axis.grid(axis="x", visible=False)
    legend(axis)
    return as_svg(drawn)


def calibration(document: Document) -> str:
    """Draw predicted against observed rate of each task."""
    drawn, axes = figure(len(document["bins"]), height=3.8)
    for axis, (task, bins) in zip(axes, document["bins"].items(), strict=True):
        predicted = [each["predicted"] for each in bins]
        observed = [each["observed"] for each in bins]
        top = max([*predicted, *observed, 1e-6]) * 1.08
        axis.plot([0, top], [0, top], color=QUIET, linestyle=":", label="perfect")
        axis.plot(predicted, observed, marker="o", color=colour_of("chain"), label="ranker")
        axis.set(title=f"will {task}", xlabel="predicted probability", ylabel="observed rate")
        axis.set(xlim=(0, top), ylim=(0, top))
        axis.legend(frameon=False, loc="upper left")
    return as_svg(drawn)


def learning(document: Document) -> str:
    """Draw the losses and validation measures of both models by epoch."""
    drawn, (losses, measures, ranker) = figure(3, width=11, height=3.2)
    retrieval = document["retrieval"]
    _lines(losses, retrieval, {"loss": "training"}, "epoch")
    losses.set(title="viewer tower: loss", xlabel="epoch")
    validation = {"hit_rate_10": "HR@10", "ndcg_10": "NDCG@10", "recall_100": "Recall@100"}
    _lines(measures, retrieval, validation, "epoch")
    measures.set(title="viewer tower: validation", xlabel="epoch", ylim=(0, None))
    steps = [{"step": step, **point} for step, point in enumerate(document["ranking"], 1)]
    held_out = {"held_out_watch_loss": "watch", "held_out_outcome_loss": "outcomes"}
    _lines(ranker, steps, held_out, "step")
    ranker.set(title="ranker: held-out loss", xlabel="epoch, linear part first")
    return as_svg(drawn)


def _lines(
    axis: Axes, points: Sequence[Mapping[str, Any]], names: Mapping[str, str], x: str
) -> None:
    for place, (name, label) in enumerate(names.items()):
        known = [point for point in points if name in point]
        if known:
            colour = colour_of("", place)
            axis.plot([p[x] for p in known], [p[name] for p in known], label=label, color=colour)
    if axis.lines:
        axis.legend(frameon=False, fontsize=8.5)


def popularity(document: Document) -> str:
    """Draw the share of the first ten places that each decile of videos has."""
    drawn, [axis] = figure()
    for name, shares in document.items():
        style: dict[str, Any] = {"label": name_of(name), "color": colour_of(name)}
        if name == "watches":
            style = {"label": "all watches", "color": INK, "linestyle": "--"}
        axis.plot(range(1, 11), shares, marker="o", **style)
    axis.set(xlabel="tenth of the catalogue, most watched first", ylabel="share of the places")
    axis.set_yscale("symlog", linthresh=0.01)
    axis.set_xticks(range(1, 11))
    axis.set_ylim(0, 1.1)
    _percent(axis)
    legend(axis)
    return as_svg(drawn)


def diversity(document: Document) -> str:
    """Draw NDCG@10 against distance within a slate, and against coverage."""
    drawn, axes = figure(2, height=3.6)
    points = document["points"]
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": colour_of("ease_recency")}
    titles = {"intra_list_distance": "distance within a slate", "coverage": "coverage"}
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        x, y = [p[measure] for p in points], [p["ndcg_10"] for p in points]
        axis.plot(x, y, marker="o", color=colour_of("chain"))
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "color": QUIET}
        for point, *place in zip(points, x, y, strict=True):
            axis.annotate(f"{point['strength']:g}", (place[0], place[1]), (4, 4), **style)
            if point["strength"] == document["chosen"]:
                axis.plot(*place, "o", markersize=11, markeredgewidth=2, **ring)
        axis.set(xlabel=title, ylabel="NDCG@10")
    return as_svg(drawn)


def sources(document: Document) -> str:
    """Draw recall of each source and of the union, and of the union without each."""
    drawn, axes = figure(2, width=10, height=3.4)
    cuts = list(document["union"])
    without = {f"without {name}": values for name, values in document["without"].items()}
    titles = {"each alone": document["alone"], "all but one": without}
    for axis, (title, lines) in zip(axes, titles.items(), strict=True):
        for place, (name, values) in enumerate(lines.items()):
            style: dict[str, Any] = {"color": colour_of("", place), "label": name_of(name)}
            axis.plot(range(len(cuts)), [values[k] for k in cuts], marker="o", **style)
        style = {"color": INK, "linestyle": "--", "label": "all together"}
        axis.plot(range(len(cuts)), [document["union"][k] for k in cuts], marker="o", **style)
        axis.set_xticks(range(len(cuts)), cuts)
        axis.set(title=title, xlabel="candidates k", ylabel="recall@k")
        _percent(axis)
        axis.legend(frameon=False, fontsize=8.5)
    return as_svg(drawn)
