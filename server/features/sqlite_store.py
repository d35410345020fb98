"""Viewers' rows in Feast's SQLite store: a table for each view, and a line for each feature."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property, lru_cache, partial
from pathlib import Path

from vireo.server.features.viewer_rows import (
    FOLLOWED,
    HIDDEN,
    LATER_VIEWS,
    POSITION,
    PROFILE,
    SERVED,
    STATE,
    Stored,
    Views,
)
from vireo.server.features.viewer_store import (
    Guard,
    Put,
    StoreAwayError,
    ViewerStore,
    errors_as_away,
    viewer_key,
    viewer_of,
)

_errors_as_away = partial(errors_as_away, sqlite3.Error)
_LOCKED_PAUSE_SECONDS = 0.002
"""Pause before another try to read a file that is locked."""


class SqliteStore(ViewerStore):
    """Rows in a file; see `ViewerStore`."""

    def __init__(self, repo: Path, file: Path, project: str, timeout: float) -> None:
        """Open nothing yet.

        Args:
            repo: the feature folder.
            file: the store's file.
            project: names the build's tables.
            timeout: maximum seconds to wait for whoever else writes the file.
        """
        super().__init__(repo, project)
        self._file, self._timeout = file, timeout
        self._found: set[str] = set()
        """Views of LATER_VIEWS that the file is known to have."""

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._file, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )

    def prepare(self) -> None:
        """Let gateways read while rows are written, and add what features of before lack."""
        if not self._file.exists():
            raise StoreAwayError(f"there is no {self._file}")
        with _errors_as_away():
            self._connection.execute("PRAGMA journal_mode=WAL")
            # A power cut may undo the last transactions, but in order: the position goes back too.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("PRAGMA secure_delete=ON")  # else the file keeps the bytes
            for view in LATER_VIEWS:
                self._connection.execute(
                    f'CREATE TABLE IF NOT EXISTS "{self.project}_{view}" (entity_key BLOB, '
                    "feature_name TEXT, value BLOB, vector_value BLOB, event_ts timestamp, "
                    "created_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
                )

    def fetch(self, keys: Sequence[bytes], views: Views) -> list[Stored]:
        """Return what is stored; see `ViewerStore`."""
        with _errors_as_away():
            return self._fetch(keys, tuple(views))

    async def fetch_served(self, viewer: str, seconds: float) -> Stored:
        """Return what is stored of a viewer; see `ViewerStore`.

        A read takes tens of microseconds, so it may as well be made on the event loop.
        """
        until = 0.0
        while True:
            try:
                return self._fetch([viewer_key(viewer)], tuple(SERVED))[0]
            except sqlite3.OperationalError as error:
                if not is_locked(error):
                    raise
                until = until or time.monotonic() + seconds
                if time.monotonic() >= until:
                    raise TimeoutError from error
                await asyncio.sleep(_LOCKED_PAUSE_SECONDS)

    def _fetch(self, keys: Sequence[bytes], views: tuple[str, ...]) -> list[Stored]:
        found: dict[bytes, dict[str, bytes]] = {key: {} for key in keys}
        latest: dict[bytes, int] = {}
        there = tuple(view for view in views if view not in LATER_VIEWS or self._has(view))
        query = _query(self.project, there, len(keys))
        for key, name, value, at in self._connection.execute(query, keys):
            found[key][name] = value
            latest[key] = max(latest.get(key, 0), at)
        return [Stored(found[key], _unix_seconds(latest.get(key, 0))) for key in keys]

    def _has(self, view: str) -> bool:
        """Return whether the file has a view; a consumer may add it at any time."""
        if view not in self._found:
            named = "SELECT name FROM sqlite_master WHERE name = ?"
            if self._connection.execute(named, [f"{self.project}_{view}"]).fetchone():
                self._found.add(view)
        return view in self._found

    def apply(
        self, puts: Iterable[Put], deletes: Collection[bytes] = (), guard: Guard | None = None
    ) -> bool:
        """Delete and store; see `ViewerStore`."""
        with self._transaction():
            if guard is not None:
                guard.check(self._fetch([guard.key], tuple(POSITION))[0])
            gone = [(key,) for key in deletes]
            deleted = sum(
                self._connection.executemany(
                    f'DELETE FROM "{self.project}_{view}" WHERE entity_key = ?',  # noqa: S608  # ours
                    gone,
                ).rowcount
                for view in (PROFILE, *STATE)
            )
            now = _stored_time(time.time())
            for key, view, values, at in puts:
                self._connection.executemany(
                    f'INSERT INTO "{self.project}_{view}" '  # noqa: S608  # our name
                    "(entity_key, feature_name, value, event_ts, created_ts) "
                    "VALUES (?, ?, ?, ?, ?) ON CONFLICT (entity_key, feature_name) "
                    "DO UPDATE SET value = excluded.value, event_ts = excluded.event_ts, "
                    "created_ts = excluded.created_ts",
                    [(key, name, value, _stored_time(at), now) for name, value in values.items()],
                )
        return deleted > 0

    def viewers(self) -> Iterator[str]:
        """Yield those who have hidden a video or follow someone."""
        kept = " UNION ".join(
            f'SELECT entity_key FROM "{self.project}_{view}"'  # noqa: S608  # our name
            for view in (HIDDEN, FOLLOWED)
        )
        with _errors_as_away():
            for (key,) in self._connection.execute(kept):
                yield viewer_of(key)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _errors_as_away():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


@lru_cache(maxsize=8)
def _query(project: str, views: tuple[str, ...], count: int) -> str:
    keys = ",".join(f"?{number}" for number in range(1, count + 1))
    return " UNION ALL ".join(
        f"SELECT entity_key, feature_name, value, event_ts "  # noqa: S608  # our name
        f'FROM "{project}_{view}" WHERE entity_key IN ({keys})'
        for view in views
    )


def is_locked(error: sqlite3.Error) -> bool:
    """Return whether SQLite raised this because another connection has locked the file."""
    code = getattr(error, "sqlite_errorcode", 0)  # absent if Python itself raised it
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _stored_time(seconds: float) -> int:
    """Return a time as Feast stores it in SQLite: it takes UTC's for this machine's local time."""
    return int(datetime.fromtimestamp(max(seconds, 0), UTC).replace(tzinfo=None).timestamp())


def _unix_seconds(stored: int) -> int:
    """Return the Unix seconds of a time that was stored; 0 for none."""
    return int(datetime.fromtimestamp(stored).replace(tzinfo=UTC).timestamp()) if stored else 0
