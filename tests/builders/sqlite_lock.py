"""A SQLite file that another process has locked."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

_PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute(f"BEGIN {sys.argv[2]}")
print("locked", flush=True)
sys.stdin.read()
"""


def let_writers_lock_readers(file: Path) -> None:
    """Give a file a rollback journal, as on volumes without shared memory; nobody has it open."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)


@contextmanager
def locked(file: Path, *, against_readers: bool = False) -> Iterator[int]:
    """Yield the id of a process that has a file locked until the block ends.

    Args:
        file: the file.
        against_readers: whether it keeps out readers, too, not only writers; for files with a
            rollback journal.
    """
    kind = "EXCLUSIVE" if against_readers else "IMMEDIATE"
    command = [sys.executable, "-c", _PROGRAM, str(file), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as locker:
        assert locker.stdout is not None
        assert locker.stdout.readline()
        try:
            yield locker.pid
        finally:
            locker.communicate()
