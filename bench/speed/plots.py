"""The figures of the page, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.speed.native import Share
from bench.speed.row import Row
from training.evaluation.page.drawing import INK, as_svg, figure, legend

_GOOD, _BAD, _OURS, _OTHERS = "#1f6f80", "#b4635a", "#1f6f80", "#b4bac2"
_PARTS = ("#0d3f4b", "#74a9b8", "#c9a66b", "#1f6f80", "#9b8bb4", "#a9762f", "#7d9a5b", "#b4635a")
_REST = "all else"


def bounds_plot(rows: Sequence[Row]) -> str:
    """Each figure that has a bound, with its spread, over the bound; empty where none has."""
    bounded = [row for row in rows if row.bound][::-1]  # nothing is a multiple of 0
    if not bounded:
        return ""
    drawn, [axis] = figure(height=0.8 + 0.34 * len(bounded))
    for place, row in enumerate(bounded):
        assert row.bound is not None, "only these are drawn"
        colour = _GOOD if row.holds else _BAD
        low, high = row.spread or (row.figure, row.figure)
        ends = (low / row.bound, high / row.bound)
        axis.plot(ends, (place, place), color=colour, linewidth=5, alpha=0.4)
        axis.plot(row.figure / row.bound, place, "o", color=colour, markersize=6)
    axis.axvline(1, color=INK, linewidth=1)
    labels = [f"{row.measure} ({'≥' if row.at_least else '≤'} {row.bound})" for row in bounded]
    axis.set_yticks(range(len(bounded)), labels)
    axis.set(xlabel="figure over its bound", xlim=(0, None))
    axis.grid(axis="y", visible=False)
    return as_svg(drawn)


def processes_plot(floor: float, chains: Mapping[str, Mapping[str, float]]) -> str:
    """Processor time of an answer by process, in milliseconds, beside the floor's.

    Args:
        floor: of the floor.
        chains: of each process, by the chain's name.
    """
    bars = {"the floor": {"floor": floor}, **chains}
    drawn, axis = _stacked(bars, {"floor": _OTHERS})
    axis.axvline(floor, color=INK, linewidth=1, linestyle=":")
    axis.set(xlabel="milliseconds of processor time an answer")
    return as_svg(drawn)


def rates_plot(rates: Mapping[str, Row], ours: str) -> str:
    """Requests a second of servers, with their spread; `ours` is how names of our own begin."""
    drawn, [axis] = figure(height=0.9 + 0.36 * len(rates))
    for place, (name, row) in enumerate(rates.items()):
        axis.barh(place, row.figure, color=_OURS if name.startswith(ours) else _OTHERS)
        if row.spread is not None:
            axis.plot(row.spread, (place, place), color=INK, linewidth=1.4)
    _named(axis, list(rates))
    axis.set(xlabel="requests a second on one core, and the least and most of the rounds")
    return as_svg(drawn)


def libraries_plot(services: Mapping[str, Sequence[Share]]) -> str:
    """Shares of processor time by library, a bar a service; the largest are drawn by themselves."""
    most: dict[str, float] = {}
    for share in (share for shares in services.values() for share in shares):
        most[share.name] = max(share.share, most.get(share.name, 0.0))
    drawn_alone = sorted(most, key=lambda name: -most[name])[: len(_PARTS)]
    bars = {}
    for service, shares in services.items():
        found = {share.name: 100 * share.share for share in shares}
        parts = {name: found.get(name, 0.0) for name in drawn_alone}
        bars[service] = {**parts, _REST: 100 - sum(parts.values())}
    drawn, axis = _stacked(bars, {_REST: _OTHERS})
    axis.set(xlabel="% of the service's processor time", xlim=(0, 100))
    return as_svg(drawn)


def _stacked(
    bars: Mapping[str, Mapping[str, float]], colours: Mapping[str, str]
) -> tuple[Figure, Axes]:
    """Bars of parts one after the other; parts that have no colour get one in turn."""
    drawn, [axis] = figure(height=1.0 + 0.42 * len(bars))
    parts = list(dict.fromkeys(part for widths in bars.values() for part in widths))
    left = [0.0] * len(bars)
    free = iter(_PARTS)
    for part in parts:
        widths = [bar.get(part, 0.0) for bar in bars.values()]
        colour = colours.get(part) or next(free)
        axis.barh(range(len(bars)), widths, left=left, color=colour, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    _named(axis, list(bars))
    legend(axis)
    return drawn, axis


def _named(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
