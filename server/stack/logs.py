"""The end of a process's log, for messages."""

from __future__ import annotations

from pathlib import Path

_TAIL_BYTES = 16384


def last_lines(path: Path, count: int) -> str:
    """The last `count` lines of the file that are not blank; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
