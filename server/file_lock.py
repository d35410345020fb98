"""A lock file: one holder at a time, released by the kernel when its process ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from vireo.server.errors import VireoError

_ATTEMPTS = 4
_PAUSE = 0.05


class LockTakenError(VireoError):
    """Another process holds the lock."""

    def __init__(self, path: Path, holder: int | None) -> None:
        super().__init__(f"process {holder} holds {path}; try again once it has ended")
        self.holder = holder
        """The holder's process id; None if it could not be read."""


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock at `path`.

    Raises:
        LockTakenError: another process holds it.
        VireoError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A reader of a file can lock it: another user could keep a stack from starting.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        if os.fstat(file.fileno()).st_uid == os.geteuid():
            os.fchmod(file.fileno(), 0o600)  # one that was made before may be open to all
        for _ in range(_ATTEMPTS):
            if _locked(file, fcntl.LOCK_EX):
                break
            time.sleep(_PAUSE)  # `holder` may be testing the lock
        else:
            raise LockTakenError(path, _process_id(file))
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(path: Path) -> int | None:
    """Return the process id of the holder of the lock at `path`; None if it is free."""
    try:
        with path.open() as file:
            return None if _locked(file, fcntl.LOCK_SH) else _process_id(file)
    except FileNotFoundError:
        return None


def try_lock(file: int | TextIO, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock a file or folder unless another process has; return whether it is locked.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked(file: TextIO, kind: int) -> bool:
    try:
        return try_lock(file, kind)
    except OSError as error:
        raise VireoError(
            f"cannot lock {file.name}: {error.strerror}; set VIREO_HOME to a folder on a file "
            "system with locks, such as a local disk"
        ) from error


def _process_id(file: TextIO) -> int | None:
    text = file.read(32)
    return int(text) if text.isdigit() else None
