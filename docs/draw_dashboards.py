"""Draw the dashboards from what a Prometheus knows: `python -m docs.draw_dashboards`.

There is no Grafana here, so the pictures show the same panels, queries and units in a plainer look.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from server.home import Home
from server.stack.observe import FOLDER
from server.stack.state import running_stack

PICTURES = Path(__file__).parent / "pictures"
_GRID_COLUMNS = 24
"""Columns of Grafana's grid, in whose cells panels have their places."""
_CELL_INCHES = (0.72, 0.36)
"""Width and height of a cell of Grafana's grid."""
_DPI = 72
_POINTS = 240
_MAX_SERIES = 12
_MAX_NAMES = 6
_SHORT = 22
"""Legends of fewer characters fit beside each other by threes."""
_TIMEOUT = 30.0
_STYLE: Any = {
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#7b838d",
    "xtick.color": "#7b838d",
    "ytick.color": "#7b838d",
    "lines.linewidth": 1.1,
}

Series = tuple[str, list[float], list[float]]
"""A legend, times in minutes before the end, and values."""


def main() -> None:
    """Draw every dashboard into docs/pictures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--prometheus", help="URL; by default that of the running stack")
    parser.add_argument("--minutes", type=float, default=15.0, help="time to draw, until now")
    arguments = parser.parse_args()
    stack = running_stack(Home.current())
    url = arguments.prometheus or (stack.prometheus if stack else "")
    if not url:
        parser.error("no stack runs with --observe on this home; start one, or give --prometheus")
    PICTURES.mkdir(exist_ok=True)
    for file in sorted((FOLDER / "dashboards").glob("*.json")):
        picture = PICTURES / f"dashboard-{file.stem}.png"
        drawn = figure(json.loads(file.read_text()), Prometheus(url, arguments.minutes))
        drawn.savefig(pixels := io.BytesIO(), dpi=_DPI)
        few_colours = Image.open(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
        few_colours.save(picture, optimize=True)


class Prometheus:
    """The API of a Prometheus, for one stretch of time."""

    def __init__(self, url: str, minutes: float) -> None:
        """Ask for the last `minutes`."""
        self._url = url
        self._end = time.time()
        self._seconds = minutes * 60

    def series(self, expression: str) -> list[tuple[Mapping[str, str], list[float], list[float]]]:
        """Return the labels, times in minutes before the end, and values of an expression."""
        step = max(5.0, self._seconds / _POINTS)
        found = self._ask(
            "query_range", expression, start=self._end - self._seconds, end=self._end, step=step
        )
        return [
            (
                each["metric"],
                [(float(at) - self._end) / 60 for at, _ in each["values"]],
                [float(value) for _, value in each["values"]],
            )
            for each in found
        ]

    def now(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the labels and values of an expression at the end."""
        found = self._ask("query", expression, time=self._end)
        return [(each["metric"], float(each["value"][1])) for each in found]

    def _ask(self, path: str, expression: str, **parameters: float) -> list[Any]:
        asked = urllib.parse.urlencode({"query": expression, **parameters})
        url = f"{self._url}/api/v1/{path}?{asked}"
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as page:  # noqa: S310
            result: list[Any] = json.loads(page.read())["data"]["result"]
        return result


def figure(dashboard: Mapping[str, Any], prometheus: Prometheus) -> Figure:
    """Return a dashboard's picture, its panels in their places."""
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    rows = max(place["y"] + place["h"] for place in places) + 1
    width, height = _CELL_INCHES
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(_GRID_COLUMNS * width, rows * height))
        drawn.text(0.01, 1 - 0.6 / rows, dashboard["title"], fontsize=13, weight="bold")
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            left, top = place["x"] / _GRID_COLUMNS, 1 - (place["y"] + 1) / rows
            if panel["type"] == "row":
                drawn.text(0.01, top - 0.75 / rows, panel["title"], fontsize=10, weight="bold")
                continue
            # Room for the labels of the axes, the title and the legend.
            box = (
                left + 0.035,
                top - (place["h"] - 1.4) / rows,
                place["w"] / _GRID_COLUMNS - 0.05,
                (place["h"] - 2.6) / rows,
            )
            _DRAW[panel["type"]](drawn.add_axes(box), panel, prometheus)
    return drawn


def _draw_lines(axes: Axes, panel: Mapping[str, Any], prometheus: Prometheus) -> None:
    series = _series(panel, prometheus)
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    if stacked and series:
        times, aligned = _aligned(series)
        axes.stackplot(times, aligned, labels=[name for name, _, _ in series], alpha=0.75)
    else:
        for name, times, values in series:
            axes.plot(times, values, label=name)
    axes.set_title(panel["title"])
    axes.grid(color="#e4e7eb", linewidth=0.6)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, defaults["unit"])))
    if "min" in defaults:
        axes.set_ylim(bottom=defaults["min"])
    if "max" in defaults:
        axes.set_ylim(top=defaults["max"] * 1.05)
    handles, names = axes.get_legend_handles_labels()
    if names:
        longest = max(map(len, names))
        axes.legend(
            handles[:_MAX_NAMES],
            names[:_MAX_NAMES],
            loc="upper left",
            bbox_to_anchor=(0, -0.13),
            ncols=3 if longest < _SHORT else 2 if longest < 2 * _SHORT else 1,
            frameon=False,
            fontsize=6,
            borderaxespad=0,
            labelspacing=0.2,
        )


def _draw_number(axes: Axes, panel: Mapping[str, Any], prometheus: Prometheus) -> None:
    found = prometheus.now(_query(panel["targets"][0]))
    text = shown(found[0][1], panel["fieldConfig"]["defaults"]["unit"]) if found else "no data"
    axes.axis("off")
    axes.set_title(panel["title"])
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=20, color="#1f6f80")


def _draw_table(axes: Axes, panel: Mapping[str, Any], prometheus: Prometheus) -> None:
    rows = [labels for labels, _ in prometheus.now(_query(panel["targets"][0]))]
    columns = sorted({name for row in rows for name in row})
    axes.axis("off")
    axes.set_title(panel["title"])
    if rows:
        cells = sorted([row.get(name, "") for name in columns] for row in rows)[:_MAX_SERIES]
        table = axes.table(cells, colLabels=columns, loc="upper left", cellLoc="left", edges="B")
        table.auto_set_font_size(False)
        table.set_fontsize(6)


_DRAW: Mapping[str, Callable[[Axes, Mapping[str, Any], Prometheus], None]] = {
    "timeseries": _draw_lines,
    "stat": _draw_number,
    "table": _draw_table,
}


def _series(panel: Mapping[str, Any], prometheus: Prometheus) -> list[Series]:
    """Return the series of all queries of a panel, highest first, without those that stay 0."""
    series = [
        (_legend(target["legendFormat"], labels), times, values)
        for target in panel["targets"]
        for labels, times, values in prometheus.series(_query(target))
    ]
    series.sort(key=_height, reverse=True)
    return [each for each in series if _height(each)][:_MAX_SERIES] or series[:1]


def _height(series: Series) -> float:
    _, _, values = series
    return max((abs(value) for value in values if math.isfinite(value)), default=0.0)


def _query(target: Mapping[str, Any]) -> str:
    query: str = target["expr"].replace("$__rate_interval", "1m").replace("$installation", ".*")
    return query


def _legend(pattern: str, labels: Mapping[str, str]) -> str:
    if pattern == "__auto":
        return ", ".join(labels.values())
    name = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern)
    return name.rpartition("/")[2] if name.startswith("/") else name.strip(" ,:")


def _aligned(series: Sequence[Series]) -> tuple[list[float], list[list[float]]]:
    """Return all times, and the values of each series at them, 0 where it has none."""
    times = sorted({at for _, each, _ in series for at in each})
    values = [dict(zip(each, numbers, strict=True)) for _, each, numbers in series]
    return times, [[known.get(at, 0.0) for at in times] for known in values]


def shown(value: float, unit: str) -> str:
    """Return a value in Grafana's unit, short."""
    if unit == "percentunit":
        return f"{value * 100:.4g}%"
    if unit == "s":
        return _scaled(
            value, (("d", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3), ("µs", 1e-6))
        )
    if unit == "bytes":
        return _scaled(value, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1)))
    return f"{value:.4g}{'/s' if unit in ('reqps', 'ops') else ''}"


def _scaled(value: float, units: Sequence[tuple[str, float]]) -> str:
    """Return a value in the largest unit of which there is one, else in the smallest."""
    name, size = next((each for each in units if abs(value) >= each[1]), units[-1])
    return f"{value / size:.3g} {name}" if value else "0"


if __name__ == "__main__":
    main()
