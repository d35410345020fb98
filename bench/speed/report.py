"""Writes what was measured: rows for programs, and a page of Markdown for people."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from bench.speed.profile import Profile
from bench.speed.row import Row
from server.cores import cores
from server.errors import VireoError

_MIN_SHARE = 0.002
_MANY, _SOME = 100, 10


def write_report(
    rows: Sequence[Row], dataset: str, folder: Path, profiles: Sequence[Profile] = ()
) -> None:
    """Write `speed.json` and the page `speed.md`.

    Raises:
        VireoError: the folder can't be written.
    """
    machine = f"{cores()} cores, {platform.system()} {platform.machine()}"
    load, day = os.getloadavg()[1], datetime.now(UTC).date()
    documents = [row.document() for row in rows]
    found = {"dataset": dataset, "machine": machine, "load_average": load, "rows": documents}
    title = f"# How fast slates are served: {dataset}\n"
    about = f"{machine}; {day}; load average at the end {load:.1f}."
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
        ordered = sorted(own, key=lambda row: row.bound is None)
        yield from _table("measure figure minimum maximum bound holds", map(_cells, ordered))


def _of_profiles(profiles: Sequence[Profile]) -> Iterator[str]:
    for each in profiles:
        yield f"\n## profile of the {each.service}, {each.dataset}\n"
        yield f"{each.milliseconds:.2f} ms of its processor time an answer.\n"
        yield f"![flame graph]({each.service}.svg)\n"
        functions = ((f"`{f.name}`", f"{f.own:.1%}", f"{f.whole:.1%}") for f in each.functions)
        yield from _table("function itself with-callees", functions)
        for kind, shares in (("thread", each.threads), ("library", each.libraries)):
            large = [(k, f"{v:.1%}") for k, v in shares.items() if v >= _MIN_SHARE]
            yield ""
            yield from _table(f"{kind} share", large)


def _cells(row: Row) -> tuple[str, ...]:
    low, high = (shown(each) for each in row.spread) if row.spread else ("", "")
    bound = "" if row.bound is None else f"{'≥' if row.at_least else '≤'} {row.bound}"
    holds = {True: "yes", False: "**no**", None: ""}[row.holds]
    return (row.measure, shown(row.figure), low, high, bound, holds)


def _table(titles: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    columns = titles.split()
    yield f"| {' | '.join(columns)} |"
    yield f"|---{'|--:' * (len(columns) - 1)}|"
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def shown(value: float) -> str:
    """Return a figure with as many digits as mean something."""
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
