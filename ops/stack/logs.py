"""The log files of a stack's processes: bounded in size and number, quoted in messages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import structlog

log = structlog.get_logger()

_TAIL_BYTES = 16384
MAX_LOG_BYTES = 8 * 1024 * 1024
"""Bytes from which a log is rotated."""
KEPT_LOGS = 2
"""Number of rotated logs kept for each process."""


def last_lines(path: Path, count: int) -> str:
    """Return the last `count` lines of the file that are not blank; empty if there are none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def start_log(path: Path) -> None:
    """Rotate the log of the previous run, so that the next one begins with an empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(_make_room(path))


def is_large(path: Path) -> bool:
    """Return whether `bound_log` has something to do: to rotate a log, or to report an error."""
    try:
        return path.stat().st_size > MAX_LOG_BYTES
    except OSError:
        return True


def bound_log(path: Path) -> None:
    """Rotate a log that has become large, while its process goes on writing.

    The process holds the file open, so it is copied and truncated. The process must append
    (O_APPEND). Lines written between the two steps are lost; they are few, and the alternative,
    a pipe that the supervisor reads, would stop every process with it.
    """
    try:
        if path.stat().st_size <= MAX_LOG_BYTES:
            return
        try:
            shutil.copyfile(path, _make_room(path))
        except OSError as error:
            # The declared policy: on a full disk, space is worth more than the lines.
            numbered(path, 1).unlink(missing_ok=True)
            log.warning("a log was emptied without a copy", log=str(path), reason=str(error))
        os.truncate(path, 0)
    except OSError as error:
        # The declared policy: a log that can't be rotated stops nothing, and is retried.
        log.warning("a log can't be bounded", log=str(path), reason=str(error))


def numbered(path: Path, number: int) -> Path:
    """Return the path of a rotated log: 1 for the latest, 2 for the one before."""
    return path.with_name(f"{path.name}.{number}")


def _make_room(path: Path) -> Path:
    for number in range(KEPT_LOGS, 1, -1):
        older = numbered(path, number - 1)
        if older.exists():
            older.replace(numbered(path, number))
    return numbered(path, 1)
