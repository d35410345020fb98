"""Viewers' rows in Feast's SQLite store: a table for each view, and a line for each feature."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path

from vireo.server.event_log.position import Position
from vireo.server.features.viewer_rows import (
    HIDDEN,
    POSITION,
    PROFILE,
    SERVED,
    STATE,
    Change,
    Stored,
    position_of,
    position_values,
    values_of,
)
from vireo.server.features.viewer_store import (
    VIEWERS_AT_A_TIME,
    PositionMovedError,
    StoreAwayError,
    ViewerStore,
    entity_key,
    viewer_key,
    viewer_of,
)

_LOCKED_PAUSE_SECONDS = 0.002
"""Pause before another try to read a file that is locked."""
_OF_VIEWERS = (PROFILE, *STATE)
"""Views whose rows are viewers'."""


class SqliteStore(ViewerStore):
    """Rows in a file; see `ViewerStore`."""

    def __init__(
        self, repo: Path, file: Path, project: str, timeout: float, built_at: float
    ) -> None:
        """Open nothing yet.

        Args:
            repo: the feature folder.
            file: the store's file.
            project: names the build's tables.
            timeout: maximum seconds to wait for whoever else writes the file.
            built_at: when the features were built, Unix seconds.
        """
        self.repo, self.project = repo, project
        self._file, self._timeout, self._built_at = file, timeout, built_at

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._file, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )

    def prepare(self) -> None:
        """Let gateways read while rows are written."""
        if not self._file.exists():
            raise StoreAwayError(f"there is no {self._file}")
        with _errors_as_away():
            self._connection.execute("PRAGMA journal_mode=WAL")
            # A power cut may undo the last transactions, but in order: the position goes back too.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("PRAGMA secure_delete=ON")  # else the file keeps the bytes

    def stored(self, viewers: Sequence[str], views: Mapping[str, Sequence[str]]) -> list[Stored]:
        """Return what is stored of viewers; see `ViewerStore`."""
        with _errors_as_away():
            return self._of([*map(viewer_key, viewers)], tuple(views))

    async def stored_async(self, viewer: str, seconds: float) -> Stored:
        """Return what is stored of a viewer; see `ViewerStore`.

        A read takes tens of microseconds, so it may as well be made on the event loop.
        """
        until = 0.0
        while True:
            try:
                return self._of([viewer_key(viewer)], tuple(SERVED))[0]
            except sqlite3.OperationalError as error:
                if not is_locked(error):
                    raise
                until = until or time.monotonic() + seconds
                if time.monotonic() >= until:
                    raise TimeoutError from error
                await asyncio.sleep(_LOCKED_PAUSE_SECONDS)

    def _of(self, keys: Sequence[bytes], views: tuple[str, ...]) -> list[Stored]:
        """Return what is stored of each key, in one query."""
        found: dict[bytes, dict[str, bytes]] = {key: {} for key in keys}
        latest: dict[bytes, int] = {}
        query = _query(self.project, views, len(keys))
        for key, name, value, at in self._connection.execute(query, keys):
            found[key][name] = value
            latest[key] = max(latest.get(key, 0), at)
        return [Stored(found[key], _unix_seconds(latest.get(key, 0))) for key in keys]

    def viewers(self) -> Iterator[str]:
        """Yield those who have hidden a video."""
        with _errors_as_away():
            for (key,) in self._connection.execute(
                f'SELECT DISTINCT entity_key FROM "{self.project}_{HIDDEN}"'  # noqa: S608  # ours
            ):
                yield viewer_of(key)

    def write(self, changes: Mapping[str, Change], erased: Collection[str] = ()) -> None:
        """Store rows; see `ViewerStore`."""
        with self._transaction():
            self._write(changes, erased)

    def commit(
        self,
        partition: int,
        before: Position,
        after: Position,
        changes: Mapping[str, Change],
        erased: Collection[str] = (),
    ) -> None:
        """Store rows with a partition's position; see `ViewerStore`."""
        with self._transaction():
            if (found := self.position(partition)) != before:
                raise PositionMovedError(f"the online store is at {found}, not at {before}")
            self._write(changes, erased)
            [view] = POSITION
            key = entity_key("partition", str(partition))
            self._upsert(view, [(key, position_values(after))])

    def _write(self, changes: Mapping[str, Change], erased: Collection[str]) -> None:
        self._delete("entity_key = ?", [(viewer_key(each),) for each in erased])
        for view in STATE:
            self._upsert(
                view,
                [
                    (viewer_key(viewer), values_of(change.row, view))
                    for viewer, change in changes.items()
                    if view in change.views
                ],
            )

    def _upsert(self, view: str, rows: Iterable[tuple[bytes, Mapping[str, bytes]]]) -> None:
        now = _stored_time(time.time())
        self._connection.executemany(
            f'INSERT INTO "{self.project}_{view}" '  # noqa: S608  # our name
            "(entity_key, feature_name, value, event_ts, created_ts) VALUES (?1, ?2, ?3, ?4, ?4) "
            "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value, "
            "event_ts = excluded.event_ts, created_ts = excluded.created_ts",
            [(key, name, value, now) for key, row in rows for name, value in row.items()],
        )

    def position(self, partition: int) -> Position:
        """Return up to where events are in the rows; see `ViewerStore`."""
        key = entity_key("partition", str(partition))
        with _errors_as_away():
            [stored] = self._of([key], tuple(POSITION))
        return position_of(stored.values)

    def erase(self, viewers: Iterable[str]) -> bool:
        """Delete viewers' rows; see `ViewerStore`."""
        with self._transaction():
            return self._delete("entity_key = ?", [(viewer_key(each),) for each in viewers])

    def expire(self, seconds: float, after: bytes = b"") -> bytes:
        """Delete viewers who weren't seen for long; see `ViewerStore`.

        It looks at VIEWERS_AT_A_TIME, in the order of their keys.
        """
        since = time.time() - seconds
        if self._built_at > since:
            return b""
        at = _stored_time(max(since, 0))
        listed = f"{self._keys_where('entity_key > ?')} ORDER BY entity_key LIMIT ?"
        with _errors_as_away():
            places = (*[after] * len(_OF_VIEWERS), VIEWERS_AT_A_TIME)
            found: list[bytes] = [key for (key,) in self._connection.execute(listed, places)]
            if not found:
                return b""
            # In the same transaction: consumers of other partitions write meanwhile.
            within = "entity_key BETWEEN ?1 AND ?2"
            seen = self._keys_where(f"{within} AND created_ts >= ?3")
            with self._transaction():
                self._delete(
                    f"{within} AND entity_key NOT IN ({seen})", [(found[0], found[-1], at)]
                )
        return found[-1]

    def _keys_where(self, condition: str) -> str:
        """Return a query for the keys of viewers who have a row under a condition."""
        return " UNION ".join(
            f'SELECT entity_key FROM "{self.project}_{view}" WHERE {condition}'  # noqa: S608  # ours
            for view in _OF_VIEWERS
        )

    def _delete(self, condition: str, parameters: Sequence[Sequence[object]]) -> bool:
        """Delete viewers' rows under a condition; return whether there were any."""
        count = 0
        for view in _OF_VIEWERS:
            delete = f'DELETE FROM "{self.project}_{view}" WHERE {condition}'  # noqa: S608  # ours
            count += self._connection.executemany(delete, parameters).rowcount
        return count > 0

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

    def superseded(self) -> bool:
        """Return False: a file is replaced together with its folder."""
        return False

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


@contextmanager
def _errors_as_away() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreAwayError(f"{type(error).__name__}: {error}") from error


def is_locked(error: sqlite3.Error) -> bool:
    """Return whether SQLite raised this because another connection has locked the file."""
    code = getattr(error, "sqlite_errorcode", 0)  # absent if Python itself raised it
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _stored_time(seconds: float) -> int:
    """Return a time as Feast stores it in SQLite: it takes UTC's for this machine's local time."""
    return int(datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).timestamp())


def _unix_seconds(stored: int) -> int:
    """Return the Unix seconds of a time that was stored; 0 for none."""
    return int(datetime.fromtimestamp(stored).replace(tzinfo=UTC).timestamp()) if stored else 0
