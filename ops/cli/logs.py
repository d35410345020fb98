"""`vireo logs`: what the processes of the stack wrote last, and write."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vireo.ops.cli.options import JsonOption
from vireo.ops.cli.output import print_json, printable
from vireo.ops.stack.logs import last_lines
from vireo.server.errors import VireoError
from vireo.server.home import Home

_POLL_SECONDS = 0.25


def logs(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROCESS", help="Processes, or kinds: gateway-1, candidate."),
    ] = None,
    lines: Annotated[int, typer.Option(min=0, help="Last lines of each to begin with.")] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for further lines, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what processes of the stack wrote last, also of one that has ended.

    Settings that a process began with are left out; they are in --json, which has lines as written.

    vireo logs gateway --follow
    """
    files = _files(Home.current().logs, names or [])
    read = {file: file.stat().st_size for file in files}
    shown = {file.stem: last_lines(file, lines).splitlines() if lines else [] for file in files}
    if as_json:
        if follow:
            raise typer.BadParameter("--json doesn't go with --follow")
        print_json(shown)
        return
    for name, some in shown.items():
        for line in some:
            _print(name, line)
    while follow:
        for file in files:
            read[file] = _print_new(file, read[file])
        time.sleep(_POLL_SECONDS)


def _files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the log of each process that is named, by its name or its kind; of all if none is.

    Raises:
        VireoError: there is none.
    """
    found = sorted(folder.glob("*.log"))
    chosen = [
        each for each in found if not names or {each.stem, each.stem.rpartition("-")[0]} & {*names}
    ]
    if not chosen:
        there = ", ".join(each.stem for each in found) or "none: no stack has run on this home"
        raise VireoError(f"there are no such logs in {folder}; there are {there}")
    return chosen


def _print_new(file: Path, start: int) -> int:
    """Print the whole lines of a log from an offset on; return the offset after them."""
    try:
        with file.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(start if start <= size else 0)  # it was rotated
            begin = log.tell()
            whole, newline, _ = log.read().rpartition(b"\n")
    except FileNotFoundError:  # between two runs
        return 0
    for line in whole.decode(errors="replace").splitlines():
        _print(file.stem, line)
    return begin + len(whole) + len(newline)


def _print(name: str, line: str) -> None:
    typer.echo(f"{name}: {printable(_readable(line))}")


def _readable(line: str) -> str:
    """Return a record as time, level, event and fields, without the settings; other lines as is."""
    try:
        record = json.loads(line)
        time_of_day = record.pop("timestamp")[11:23]
        words = [time_of_day, record.pop("level"), record.pop("event")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return line
    words += [f"{key}={record[key]}" for key in record if key not in ("settings", "pod")]
    return "  ".join(map(str, words))
