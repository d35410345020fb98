"""Viewers' rows in Feast's Redis store: a hash for each viewer.

Each build writes rows of its own beside those that are read, and is then announced in Redis: on a
volume of many nodes a file may look as it did a minute ago. Rows are read and written in one
transaction with the announcement, and those of a build that isn't announced any more are deleted
later: so nobody reads what was deleted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis, RedisError, WatchError
from redis.asyncio import Redis as AsyncRedis

from vireo.server.event_log.position import Position
from vireo.server.features.viewer_rows import (
    POSITION,
    SERVED,
    Change,
    Stored,
    position_of,
    position_values,
    values_of,
)
from vireo.server.features.viewer_store import (
    PositionMovedError,
    RebuiltError,
    StoreAwayError,
    ViewerStore,
    active_key,
    entity_key,
    series_of,
    viewer_key,
    viewer_of,
    viewer_prefix,
)


class RedisStore(ViewerStore):
    """Rows in Redis; see `ViewerStore`."""

    def __init__(
        self, repo: Path, project: str, expiry: int, url: str, timeout: float, *, announced: bool
    ) -> None:
        """Ask nothing yet.

        Args:
            repo: the feature folder.
            project: that of the folder.
            expiry: seconds after which rows that aren't written are deleted; 0 for never.
            url: where Redis is.
            timeout: maximum seconds to connect, and for each response.
            announced: whether rows are those of the build that is announced, if any is.
        """
        self.repo, self.project = repo, project
        self._expiry, self._url = expiry, url
        self._active = active_key(series_of(project)) if announced else ""
        # Redis' own client retries with pauses: requests have no time for it.
        self._options: dict[str, Any] = {
            "socket_connect_timeout": timeout,
            "socket_timeout": timeout,
            "retry": None,
        }

    @cached_property
    def redis(self) -> Any:  # its types are those of both its clients
        """The connection of who reads and writes in a thread."""
        return Redis.from_url(self._url, **self._options)

    @cached_property
    def _redis_async(self) -> Any:
        """The connection of the event loop of the first read in it."""
        return AsyncRedis.from_url(self._url, **self._options)

    def prepare(self) -> None:
        """Learn which build is announced."""
        with _errors_as_away():
            self.project = self._announced() or self.project

    def _announced(self) -> str:
        """Return the project of the build that is announced; empty if none is."""
        found: bytes | None = self.redis.get(self._active) if self._active else None
        return (found or b"").decode()

    def superseded(self) -> bool:
        """Return whether another build is announced; see `ViewerStore`."""
        with _errors_as_away():
            return self._announced() not in ("", self.project)

    def stored(self, viewers: Sequence[str], views: Mapping[str, Sequence[str]]) -> list[Stored]:
        """Return what is stored of viewers; see `ViewerStore`."""
        return self._read([*map(self._key, viewers)], views)

    def _read(self, keys: Sequence[bytes], views: Mapping[str, Sequence[str]]) -> list[Stored]:
        with _errors_as_away(), self.redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, [*_fields(views)])
            return [_stored(values, views) for values in pipe.execute()]

    async def stored_async(self, viewer: str, seconds: float) -> Stored:
        """Return what is stored of a viewer by the build that is announced; see `ViewerStore`."""
        async with asyncio.timeout(seconds):
            while True:
                project = self.project
                async with self._redis_async.pipeline() as pipe:
                    pipe.hmget(self._key(viewer), [*_fields(SERVED)])
                    pipe.get(self._active)
                    values, announced = await pipe.execute()
                self.project = (announced or b"").decode() or project
                if self.project == project:
                    return _stored(values, SERVED)

    def viewers(self) -> Iterator[str]:
        """Yield all; see `ViewerStore`."""
        project = self.project.encode()
        with _errors_as_away():
            for key in self.redis.scan_iter(viewer_prefix() + b"*" + project, count=1_000):
                yield viewer_of(key.removesuffix(project))

    def write(self, changes: Mapping[str, Change], erased: Collection[str] = ()) -> None:
        """Store rows; see `ViewerStore`."""
        with _errors_as_away(), self.redis.pipeline() as pipe:
            self._write(pipe, changes, erased)
            pipe.execute()

    def commit(
        self,
        partition: int,
        before: Position,
        after: Position,
        changes: Mapping[str, Change],
        erased: Collection[str] = (),
    ) -> None:
        """Store rows with a partition's position; see `ViewerStore`."""
        key = self._partition_key(partition)
        with _errors_as_away(), self.redis.pipeline() as pipe:
            # From here on whatever changes these makes the transaction fail.
            pipe.watch(key, self._active or key)
            if self.superseded():
                raise RebuiltError("Redis announces another build of the features")
            if (found := self.position(partition)) != before:
                raise PositionMovedError(f"the online store is at {found}, not at {before}")
            pipe.multi()
            self._write(pipe, changes, erased)
            [view] = POSITION
            self._set(pipe, key, view, position_values(after))
            pipe.persist(key)  # the build has it expire as viewers' rows do
            try:
                pipe.execute()
            except WatchError as error:
                raise PositionMovedError("another consumer wrote at the same time") from error

    def _write(self, pipe: Any, changes: Mapping[str, Change], erased: Collection[str]) -> None:
        if erased:
            pipe.delete(*map(self._key, erased))
        for viewer, change in changes.items():
            key = self._key(viewer)
            for view in change.views:
                self._set(pipe, key, view, values_of(change.row, view))
            if self._expiry:
                pipe.expire(key, self._expiry)

    def _set(self, pipe: Any, key: bytes, view: str, values: Mapping[str, bytes]) -> None:
        fields: dict[bytes | str, bytes] = {
            _field(view, name): each for name, each in values.items()
        }
        fields[_time_field(view)] = Timestamp(seconds=int(time.time())).SerializeToString()
        pipe.hset(key, mapping=fields)

    def position(self, partition: int) -> Position:
        """Return up to where events are in the rows; see `ViewerStore`."""
        [stored] = self._read([self._partition_key(partition)], POSITION)
        return position_of(stored.values)

    def erase(self, viewers: Iterable[str]) -> bool:
        """Delete viewers' rows; see `ViewerStore`."""
        with _errors_as_away():
            return bool(self.redis.delete(*map(self._key, viewers)))

    def close(self) -> None:
        """Close the connection of who reads and writes in a thread."""
        self.redis.close()

    def _key(self, viewer: str) -> bytes:
        return viewer_key(viewer) + self.project.encode()

    def _partition_key(self, partition: int) -> bytes:
        return entity_key("partition", str(partition)) + self.project.encode()


@cache
def _field(view: str, name: str) -> bytes:
    """Return the field of a feature in a hash."""
    from feast.infra.online_stores.helpers import _mmh3

    return bytes(_mmh3(f"{view}:{name}"))


def _time_field(view: str) -> str:
    """Return the field of when a view was written."""
    return f"_ts:{view}"


def _fields(views: Mapping[str, Sequence[str]]) -> list[bytes | str]:
    fields = [_field(view, name) for view, names in views.items() for name in names]
    return [*fields, *map(_time_field, views)]


def _stored(values: Sequence[bytes | None], views: Mapping[str, Sequence[str]]) -> Stored:
    """Return what is stored by the values of `_fields`."""
    names = [name for names in views.values() for name in names]
    features = {name: value for name, value in zip(names, values, strict=False) if value}
    times = [Timestamp.FromString(value).seconds for value in values[len(names) :] if value]
    return Stored(features, max(times, default=0))


@contextmanager
def _errors_as_away() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreAwayError(f"{type(error).__name__}: {error}") from error
