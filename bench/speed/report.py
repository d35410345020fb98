"""Writes what was measured: the rows for programs, and a page with plots."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import jinja2
from matplotlib.axes import Axes

from bench.speed.row import Row
from server.errors import VireoError
from training.evaluation.page.drawing import INK, QUIET, as_svg, figure

_GOOD, _BAD, _PLAIN = "#1f6f80", "#b4635a", "#8f9aa6"


def write_report(rows: Sequence[Row], dataset: str, folder: Path) -> None:
    """Writes `speed.json` and the page `speed.html`, which needs no other file.

    Raises:
        VireoError: the folder can't be written.
    """
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    load = os.getloadavg()[1]
    documents = [row.document() for row in rows]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html.jinja").render(
        dataset=dataset,
        machine=machine,
        load=load,
        rows=rows,
        bounds=bounds_figure([row for row in rows if row.bound]),  # nothing is a multiple of 0
        parts=parts_figure([row for row in rows if row.measure.endswith(", ms")]),
    )
    found = {"dataset": dataset, "machine": machine, "load_average": load, "rows": documents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "speed.json").write_text(json.dumps(found, indent=2) + "\n")
        (folder / "speed.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise VireoError(
            f"cannot write {folder}: {error.strerror}; give --report another folder"
        ) from error


def bounds_figure(rows: Sequence[Row]) -> str:
    """Each figure that has a bound, with its spread, over the bound."""
    drawn, [axis] = figure(height=0.8 + 0.34 * len(rows))
    for place, row in enumerate(reversed(rows)):
        assert row.bound is not None, "only these are drawn"
        colour = _GOOD if row.holds else _BAD
        _draw(axis, row, place, colour, row.bound)
    axis.axvline(1, color=INK, linewidth=1)
    axis.set_yticks(range(len(rows)), [_label(row) for row in reversed(rows)])
    axis.set(xlabel="figure over its bound", xlim=(0, None))
    axis.grid(axis="y", visible=False)
    return as_svg(drawn)


def parts_figure(rows: Sequence[Row]) -> str:
    """Each time, with its spread."""
    drawn, [axis] = figure(height=0.8 + 0.26 * len(rows))
    for place, row in enumerate(reversed(rows)):
        _draw(axis, row, place, _PLAIN, 1.0)
    axis.set_yticks(range(len(rows)), [row.measure.removesuffix(", ms") for row in reversed(rows)])
    axis.set(xlabel="milliseconds", xlim=(0, None))
    axis.grid(axis="y", visible=False)
    return as_svg(drawn)


def _draw(axis: Axes, row: Row, place: int, colour: str, unit: float) -> None:
    if row.spread is not None:
        low, high = row.spread
        axis.plot([low / unit, high / unit], [place, place], color=colour, linewidth=5, alpha=0.4)
    axis.plot(row.figure / unit, place, "o", color=colour if row.spread else QUIET, markersize=6)


def _label(row: Row) -> str:
    return f"{row.measure} ({'≥' if row.at_least else '≤'} {row.bound})"
