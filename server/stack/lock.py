"""A lock file: one holder at a time, released by the kernel when its process ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

_ATTEMPTS = 4
_PAUSE = 0.05


class LockTakenError(Exception):
    """Another process holds the lock."""

    def __init__(self, path: Path, holder: int | None) -> None:
        super().__init__(f"{path} is held by process {holder}")
        self.holder = holder
        """The holder's process id; None if it could not be read."""


class FileLock:
    """Locks `path` while used as a context; raises LockTakenError if another process holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def __enter__(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # A reader of a file can lock it: another user could keep a stack from starting.
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(file).st_uid == os.geteuid():
            os.fchmod(file, 0o600)  # one that was made before may be open to all
        for _ in range(_ATTEMPTS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_PAUSE)  # `holder` may be testing the lock
        else:
            text = os.read(file, 32).decode()
            os.close(file)
            raise LockTakenError(self._path, int(text) if text.isdigit() else None)
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
        self._file = file

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)


def holder(path: Path) -> int | None:
    """Return the process id of the holder of the lock at `path`; None if it is free."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(file, 32).decode()
        return int(text) if text.isdigit() else None
    else:
        return None
    finally:
        os.close(file)
