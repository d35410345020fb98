"""Writes what was measured: the rows for programs, and a page with plots."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from bench.speed.plots import bounds_plot, libraries_plot, processes_plot, rates_plot
from bench.speed.profile import Profile
from bench.speed.row import Row
from server.errors import VireoError
from server.rpc.cores import cores

_CPU, _FLOOR, _MS = "CPU a request, ", "CPU a request, floor, ms", ", ms"
_RATE, _OURS = "requests a second, ", "ranking pod"
_MANY, _SOME = 100, 10


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    about: str
    rows: Sequence[Row]
    figures: Sequence[tuple[str, str]]
    """Caption and SVG of each."""

    @property
    def groups(self) -> list[tuple[str, list[Row]]]:
        """Its rows in two tables, where both have any: what has a bound, and what is only told."""
        bounded = [row for row in self.rows if row.bound is not None]
        told = [row for row in self.rows if row.bound is None]
        named = [("What has a bound", bounded), ("What is only told", told)]
        return [(name, rows) for name, rows in named if rows]


def write_report(
    rows: Sequence[Row], dataset: str, folder: Path, profiles: Sequence[Profile] = ()
) -> None:
    """Writes `speed.json` and the page `speed.html`, which needs no other file.

    Raises:
        VireoError: the folder can't be written.
    """
    machine, load = _machine(), os.getloadavg()[1]
    documents = [row.document() for row in rows]
    found = {"dataset": dataset, "machine": machine, "load_average": load, "rows": documents}
    page = _page(f"How fast slates are served: {dataset}", rows, profiles)
    _write(folder, {"speed.json": json.dumps(found, indent=2) + "\n", "speed.html": page})


def write_profiles(profiles: Sequence[Profile], folder: Path) -> None:
    """Writes `profile.json`, the page `profile.html`, and each flame graph as `<service>.svg`.

    Raises:
        VireoError: the folder can't be written.
    """
    documents = [profile.document() for profile in profiles]
    page = _page(f"Where processor time goes: {profiles[0].dataset}", (), profiles)
    files = {"profile.json": json.dumps(documents, indent=2) + "\n", "profile.html": page}
    _write(folder, {**files, **{f"{each.service}.svg": each.flame for each in profiles}})


def sections_of(rows: Sequence[Row]) -> list[Section]:
    """The page's parts, of those measurements that have rows."""
    found = []
    for names, anchor, title, about, figures in _SECTIONS:
        those = [row for row in rows if row.section in names]
        if those:
            found.append(Section(anchor, title, about, those, figures(those)))
    return found


def _chain_figures(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Processor time by process, of each chain, beside the floor."""
    chains: dict[str, dict[str, float]] = {}
    floor = None
    for row in rows:
        way, of_process, process = row.measure.removeprefix(_CPU).removesuffix(_MS).partition(": ")
        if row.measure == _FLOOR:
            floor = row.figure
        elif row.measure.startswith(_CPU) and of_process:
            name = "gateway" if process == "direct" else process
            chains.setdefault(way, {})[name] = row.figure
    if floor is None or not chains:
        return []
    return [("Processor time of an answer, by process", processes_plot(floor, chains))]


def _rank_figures(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Requests a second of each server."""
    rates = {
        row.measure.removeprefix(_RATE): row
        for row in rows
        if row.measure.startswith(_RATE) and " over " not in row.measure
    }
    return [("The same ranking, by server", rates_plot(rates, _OURS))] if rates else []


def _no_figures(rows: Sequence[Row]) -> list[tuple[str, str]]:  # noqa: ARG001
    return []


_Figures = Callable[[Sequence[Row]], list[tuple[str, str]]]
_SECTIONS: tuple[tuple[tuple[str, ...], str, str, str, _Figures], ...] = (
    (
        ("chain",),
        "chain",
        "The chain over its models",
        "What a slate costs, gateway, candidate pod and ranking pod together, over the floor: what "
        "the release's models take in one process, without a call between. Processor time is that "
        "of 32 callers, p50 that of one.",
        _chain_figures,
    ),
    (
        ("tail",),
        "tail",
        "Late answers",
        "How much longer than usual the slowest answers take, behind Envoy, at a rate that is "
        "sustained.",
        _no_figures,
    ),
    (
        ("rank",),
        "rank",
        "A ranking pod, and other servers around the same ranking",
        "All run on one and the same core and answer the same requests by the same Python code "
        "around the same model; so what differs is the server.",
        _rank_figures,
    ),
    (
        ("tower",),
        "tower",
        "The viewer tower",
        "What it takes for histories of several lengths, on one thread.",
        _no_figures,
    ),
    (
        ("search", "pods", "catalogue"),
        "catalogue",
        "A large catalogue",
        "What the index finds and takes, how long pods take to start and how much memory, and what "
        "a slate takes beside one out of a small catalogue.",
        _no_figures,
    ),
    (("",), "other", "Other figures", "", _no_figures),
)


def _page(title: str, rows: Sequence[Row], profiles: Sequence[Profile]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["figure"] = shown
    sampled: dict[str, list[Profile]] = {}
    for profile in profiles:
        sampled.setdefault(profile.dataset, []).append(profile)
    return environment.get_template("page.html.jinja").render(
        title=title,
        machine=_machine(),
        load=os.getloadavg()[1],
        day=datetime.now(UTC).date().isoformat(),
        bounded=[row for row in rows if row.bound is not None],
        bounds=bounds_plot(rows),
        sections=sections_of(rows),
        profiles=sampled,
        libraries={
            dataset: libraries_plot(
                {each.service: each.native.libraries for each in found if each.native is not None}
            )
            for dataset, found in sampled.items()
            if any(each.native is not None for each in found)
        },
    )


def shown(value: float) -> str:
    """A figure with as many digits as mean something."""
    if abs(value) >= _MANY:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= _SOME else f"{value:.3f}"


def _machine() -> str:
    return f"{cores()} cores, {platform.system()} {platform.machine()}"


def _write(folder: Path, files: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise VireoError(
            f"cannot write {folder}: {error.strerror}; give --report another folder"
        ) from error
