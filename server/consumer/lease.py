"""The lease of one partition of one feature repository: one consumer at a time applies its events.

Rows are read, folded and written: two consumers at once could write over each other's. The lease
is where the rows are: a lock on a file beside SQLite's, which ends with its process, or a key in
Redis that expires.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from pathlib import Path
from typing import Any, Protocol

from vireo.server.consumer.rows import OnlineRows, store_errors_as_away

LEASE_SECONDS = 15.0
"""Seconds after which the lease in Redis of a consumer that is gone may be taken."""
RENEW_SECONDS = 5.0
"""Seconds after which it is renewed."""


class LeaseLostError(Exception):
    """Another consumer took the partition."""


class Lease(Protocol):
    """A lease. Use it from one thread."""

    def hold(self) -> bool:
        """Take the lease, or renew it if it is time; return whether this process holds it.

        Raises:
            StoreAwayError: the store can't say.
        """

    def release(self) -> None:
        """Give the lease back."""


def lease_of(rows: OnlineRows, partition: int, holder: str) -> Lease:
    """Return the lease of a partition's rows, which isn't taken yet.

    Args:
        rows: the rows.
        partition: the partition.
        holder: names this process; see `holder_name`.
    """
    if rows.redis is not None:
        key = f"vireo:consumer:{rows.project}:{partition}"
        return RedisLease(rows.redis, key, holder)
    return FileLease(rows.repo / f"consumer-{partition}.lock")


def holder_name(port: int) -> str:
    """Return a name that only this process has, and after a restart the one that takes its place.

    One process at a time has a port in a network of a machine that has run since it started. Host
    names don't do: two hosts may have the same. Where the machine or the port has no name, neither
    has the process after a restart: it waits until the lease has expired.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        network = Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        port = 0
    return f"{boot}:{network}:{port}" if port else str(uuid.uuid4())


class FileLease:
    """A lock on a file."""

    def __init__(self, path: Path) -> None:
        """Name the file; it is made if it isn't there."""
        self._path = path
        self._file: int | None = None

    def hold(self) -> bool:
        """Take the lock if nobody has it; see `Lease`."""
        if self._file is not None:
            return True
        with store_errors_as_away():
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Let go of the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class RedisLease:
    """A key that expires. After LEASE_SECONDS without an answer it counts as lost."""

    def __init__(self, redis: Any, key: str, holder: str) -> None:
        """Name the key, and its value while this process holds it."""
        self._redis, self._key, self._holder = redis, key, holder.encode()
        self._renewed = -LEASE_SECONDS

    def hold(self) -> bool:
        """Take the key, or renew it; see `Lease`."""
        now = time.monotonic()
        if now - self._renewed < RENEW_SECONDS:
            return True
        milliseconds = round(LEASE_SECONDS * 1000)
        with store_errors_as_away():
            if not self._redis.set(self._key, self._holder, nx=True, px=milliseconds):
                # Nobody else has this process's name: between the two calls it can only expire.
                if self._redis.get(self._key) != self._holder:
                    self._renewed = -LEASE_SECONDS
                    return False
                self._redis.pexpire(self._key, milliseconds)
        self._renewed = now
        return True

    def release(self) -> None:
        """Delete the key if it is this process's."""
        with store_errors_as_away():
            if self._redis.get(self._key) == self._holder:
                self._redis.delete(self._key)
        self._renewed = -LEASE_SECONDS
