"""Writes what was measured: rows for programs, and a page of Markdown for people."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench.speed.profile import Profile
from bench.speed.row import Row
from server.errors import VireoError
from server.rpc.cores import cores

_LARGE = (
    "A large catalogue",
    "What the index finds and takes, how long pods take to start and how much memory, and what a "
    "slate takes beside one out of a small catalogue.",
)
_SECTIONS: Mapping[str, tuple[str, str]] = {
    "chain": (
        "The chain over its models",
        "What a slate costs, gateway, candidate pod and ranking pod together, over the floor: what "
        "the release's models take in one process, without a call between. Processor time is that "
        "of 32 callers, p50 that of one.",
    ),
    "tail": (
        "Late answers",
        "How much longer than usual the slowest answers take, behind Envoy, at a sustained rate.",
    ),
    "rank": (
        "A ranking pod, and other servers around the same ranking",
        "All run on one and the same core and answer the same requests by the same Python code "
        "around the same model; so what differs is the server.",
    ),
    "tower": (
        "The viewer tower",
        "What it takes for histories of several lengths, on one thread.",
    ),
    **dict.fromkeys(("search", "pods", "catalogue"), _LARGE),
}
"""Title and text, by the section of rows."""
_PROFILE = """
## Where processor time goes

Each service was sampled in turn while 32 callers asked a gateway that calls the pods directly.
Shares of threads are by the kernel's accounting, those of functions by py-spy, those of libraries
by perf. A thread that was woken and has no core yet runs as well to py-spy: the busier the machine
is with something else, the larger functions that wait, such as `select`, look.
"""
_LEAST_SHARE = 0.002
_MANY, _SOME = 100, 10


def write_report(
    rows: Sequence[Row], dataset: str, folder: Path, profiles: Sequence[Profile] = ()
) -> None:
    """Write `speed.json` and the page `speed.md`.

    Raises:
        VireoError: the folder can't be written.
    """
    machine, load = _machine(), os.getloadavg()[1]
    documents = [row.document() for row in rows]
    found = {"dataset": dataset, "machine": machine, "load_average": load, "rows": documents}
    page = "\n".join([*_of_rows(rows, dataset, machine, load), *_of_profiles(profiles)])
    _write(folder, {"speed.json": json.dumps(found, indent=2), "speed.md": page})


def write_profiles(profiles: Sequence[Profile], folder: Path) -> None:
    """Write `profile.json` and the page `profile.md`, beside the flame graphs.

    Raises:
        VireoError: the folder can't be written.
    """
    document = json.dumps([asdict(profile) for profile in profiles], indent=2)
    page = "\n".join([f"# {profiles[0].dataset}, {_machine()}", *_of_profiles(profiles)])
    _write(folder, {"profile.json": document, "profile.md": page})


def _of_rows(rows: Sequence[Row], dataset: str, machine: str, load: float) -> Iterator[str]:
    bounded = [row for row in rows if row.bound is not None]
    broken = [row for row in bounded if not row.holds]
    yield f"# How fast slates are served: {dataset}\n"
    yield f"{machine}; {datetime.now(UTC).date()}; load average at the end {load:.1f}."
    yield f"\n{len(bounded) - len(broken)} of {len(bounded)} bounds hold.\n"
    yield "A figure is the median of the rounds. One with a bound is a ratio to something measured"
    yield "in turns within one run, or an amount; bench/README.md tells how it is measured."
    for title in dict.fromkeys(_section(row)[0] for row in rows):
        own = [row for row in rows if _section(row)[0] == title]
        own.sort(key=lambda row: row.bound is None)
        yield f"\n## {title}\n\n{_section(own[0])[1]}\n"
        yield from _table(
            ("measure", "figure", "minimum", "maximum", "bound", "holds"), map(_cells, own)
        )


def _of_profiles(profiles: Sequence[Profile]) -> Iterator[str]:
    if profiles:
        yield _PROFILE
    for each in profiles:
        yield f"### {each.service}, {each.dataset}\n"
        yield f"{each.milliseconds:.2f} ms of its processor time an answer.\n"
        yield f"![flame graph]({each.service}.svg)\n"
        functions = ((f"`{f.name}`", _share(f.own), _share(f.whole)) for f in each.functions)
        yield from _table(("function", "itself", "with what it calls"), functions)
        for kind, shares in (("thread", each.threads), ("library", each.libraries)):
            if shares:
                large = ((k, _share(v)) for k, v in shares.items() if v >= _LEAST_SHARE)
                yield ""
                yield from _table((kind, "share"), large)
        yield ""


def _section(row: Row) -> tuple[str, str]:
    return _SECTIONS.get(row.section, ("Other figures", ""))


def _cells(row: Row) -> tuple[str, ...]:
    low, high = (shown(each) for each in row.spread) if row.spread else ("", "")
    bound = "" if row.bound is None else f"{'≥' if row.at_least else '≤'} {row.bound}"
    holds = {True: "yes", False: "**no**", None: ""}[row.holds]
    return (row.measure, shown(row.figure), low, high, bound, holds)


def _table(titles: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|---{'|--:' * (len(titles) - 1)}|"
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def shown(value: float) -> str:
    """Return a figure with as many digits as mean something."""
    if abs(value) >= _MANY:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= _SOME else f"{value:.3f}"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _machine() -> str:
    return f"{cores()} cores, {platform.system()} {platform.machine()}"


def _write(folder: Path, files: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(f"{text.rstrip()}\n", encoding="utf-8")
    except OSError as error:
        raise VireoError(
            f"cannot write {folder}: {error.strerror}; give --report another folder"
        ) from error
