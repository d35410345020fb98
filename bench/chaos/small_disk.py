"""A small disk for the log, in memory, so that it can be filled."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vireo.server.home import Home

_MIB = 256


def log_disk(home: Home) -> Path:
    """Return the folder of the embedded log's data."""
    return home.root / "log" / "data"


@contextmanager
def small_log_disk(home: Home) -> Iterator[bool]:
    """Give the log of a stack that doesn't run yet a disk of its own, until the block ends.

    Yields whether it has one: that needs root on Linux.
    """
    folder = log_disk(home)
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_MIB}m", "vireo-chaos", str(folder)]
    mounted = _succeeds(mount)
    try:
        yield mounted
    finally:
        if mounted:
            take_away(home)


def take_away(home: Home) -> None:
    """Take the disk away, also one that a run which was killed has left."""
    if log_disk(home).is_mount():
        _succeeds(["umount", "--lazy", str(log_disk(home))])


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
