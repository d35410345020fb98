"""Writes what was measured: rows for programs, and a page of Markdown for people."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from rich.console import Console

from bench.rows import Row
from bench.speed.profile import Profile
from vireo.server.cores import cores
from vireo.server.errors import VireoError

_TITLES = ("measure", "figure", "minimum", "maximum", "bound", "holds")
_MANY, _SOME = 100, 10
MAX_LOAD = 0.5
"""Load average from which on a machine isn't quiet."""


def load_before(console: Console) -> float:
    """Return the load average of the last minute, and print it: as a warning if it is high."""
    load = os.getloadavg()[0]
    warning = "[yellow]warning:[/] " if load >= MAX_LOAD else ""
    console.print(f"{warning}{_load_text(load)}")
    return load


def _load_text(load: float) -> str:
    noise = f": not a quiet machine, which has less than {MAX_LOAD}" if load >= MAX_LOAD else ""
    return f"load average before it started {load:.2f}{noise}"


def write_report(
    rows: Sequence[Row],
    dataset: str,
    load: float,
    folder: Path,
    profiles: Sequence[Profile] = (),
) -> None:
    """Write `speed.json` and the page `speed.md`.

    Args:
        rows: what was measured.
        dataset: data set of the release.
        load: load average before the first measurement.
        folder: where to write.
        profiles: flame graphs in that folder.

    Raises:
        VireoError: the folder can't be written.
    """
    machine = f"{cores()} cores, {platform.system()} {platform.machine()}"
    day = datetime.now(UTC).date()
    documents = [row.document() for row in rows]
    found = {"dataset": dataset, "machine": machine, "load_average": load, "rows": documents}
    title = f"# How fast slates are served: {dataset}\n"
    about = f"{machine}; {day}; {_load_text(load)}."
    page = [title, about, *_of_rows(rows), *_of_profiles(profiles)]
    _write(folder, {"speed.json": json.dumps(found, indent=2), "speed.md": "\n".join(page)})


def write_profiles(profiles: Sequence[Profile], folder: Path) -> None:
    """Write `profile.json` and the page `profile.md`, beside the flame graphs.

    Raises:
        VireoError: the folder can't be written.
    """
    document = json.dumps([asdict(profile) for profile in profiles], indent=2)
    page = "\n".join(_of_profiles(profiles))
    _write(folder, {"profile.json": document, "profile.md": page})


def _of_rows(rows: Sequence[Row]) -> Iterator[str]:
    bounded = [row for row in rows if row.bound is not None]
    yield f"\n{sum(bool(row.holds) for row in bounded)} of {len(bounded)} bounds hold."
    yield "[How it is measured](../../README.md#how-speed-is-measured)"
    for section, own in groupby(rows, lambda row: row.section):
        yield f"\n## {section}\n"
        yield f"| {' | '.join(_TITLES)} |"
        yield "|---|--:|--:|--:|--:|--:|"
        for row in sorted(own, key=lambda row: row.bound is None):
            low, high = map(shown, row.spread) if row.spread else ("", "")
            holds = {True: "yes", False: "**no**", None: ""}[row.holds]
            cells = (row.measure, shown(row.figure), low, high, row.bound_text, holds)
            yield f"| {' | '.join(cells)} |"


def _of_profiles(profiles: Sequence[Profile]) -> Iterator[str]:
    for each in profiles:
        yield f"\n## profile of the {each.service}, {each.dataset}\n"
        yield f"{each.milliseconds:.2f} ms of its processor time an answer.\n"
        yield f"![flame graph]({each.service}.svg)"


def shown(value: float) -> str:
    """Return a figure with as many digits as are significant."""
    if abs(value) >= _MANY:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= _SOME else f"{value:.3f}"


def _write(folder: Path, files: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(f"{text.strip()}\n", encoding="utf-8")
    except OSError as error:
        raise VireoError(
            f"cannot write {folder}: {error.strerror}; give --report another folder"
        ) from error
