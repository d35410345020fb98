"""Viewers' rows in Feast's Redis store: a hash for each viewer.

Each build writes rows of its own beside those that are read, and is then announced in Redis: on a
volume of many nodes a file may look as it did a minute ago. Rows of a build are deleted only once
another one is announced. Readers look at the announcement right after a row, in the same round
trip, and writers in their transaction: so nobody takes deleted rows for a viewer without any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import mmh3
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis, RedisError, WatchError
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from vireo.server.features.viewer_rows import POSITION, SERVED, Stored, Views
from vireo.server.features.viewer_store import (
    VIEWER_PREFIX,
    Guard,
    PositionMovedError,
    Put,
    RebuiltError,
    ViewerStore,
    active_key,
    errors_as_away,
    series_of,
    viewer_key,
    viewer_of,
)

_errors_as_away = partial(errors_as_away, RedisError)


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
        super().__init__(repo, project)
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
        # A connection that Redis ends in mid-read costs a reconnection, not the viewer's features.
        lost = [RedisConnectionError]
        again = {"retry": Retry(NoBackoff(), 1, supported_errors=(*lost,)), "retry_on_error": lost}
        return AsyncRedis.from_url(self._url, **{**self._options, **again})

    def prepare(self) -> None:
        """Learn which build is announced."""
        with _errors_as_away():
            self.project = self._announced() or self.project

    def superseded(self) -> bool:
        """Return whether another build is announced; see `ViewerStore`."""
        with _errors_as_away():
            return self._announced() not in ("", self.project)

    def _announced(self) -> str:
        """Return the project of the build that is announced; empty if none is."""
        found: bytes | None = self.redis.get(self._active) if self._active else None
        return (found or b"").decode()

    def fetch(self, keys: Sequence[bytes], views: Views) -> list[Stored]:
        """Return what is stored; see `ViewerStore`."""
        with _errors_as_away(), self.redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(self._key(key), [*_fields(views)])
            return [_stored(values, views) for values in pipe.execute()]

    async def fetch_served(self, viewer: str, seconds: float) -> Stored:
        """Return what is stored of a viewer by the build that is announced; see `ViewerStore`."""
        async with asyncio.timeout(seconds):
            while True:
                project = self.project
                # In this order: a row isn't deleted before its build is announced no longer.
                async with self._redis_async.pipeline(transaction=False) as pipe:
                    pipe.hmget(self._key(viewer_key(viewer)), [*_fields(SERVED)])
                    pipe.get(self._active)
                    values, announced = await pipe.execute()
                self.project = (announced or b"").decode() or project
                if self.project == project:
                    return _stored(values, SERVED)

    def apply(
        self, puts: Iterable[Put], deletes: Collection[bytes] = (), guard: Guard | None = None
    ) -> bool:
        """Delete and store; see `ViewerStore`."""
        with _errors_as_away(), self.redis.pipeline() as pipe:
            if guard is not None:
                # From here on whatever changes these makes the transaction fail.
                pipe.watch(self._key(guard.key), *filter(None, [self._active]))
                if self.superseded():
                    raise RebuiltError("Redis announces another build of the features")
                guard.check(self.fetch([guard.key], POSITION)[0])
                pipe.multi()
            for key in deletes:
                pipe.delete(self._key(key))
            for key, view, values, at in puts:
                fields: dict[bytes | str, bytes] = {
                    _field(view, name): value for name, value in values.items()
                }
                fields[_time_field(view)] = Timestamp(seconds=int(at)).SerializeToString()
                pipe.hset(self._key(key), mapping=fields)
                if self._expiry and view not in POSITION:
                    pipe.expire(self._key(key), self._expiry)
            try:
                return any(pipe.execute()[: len(deletes)])
            except WatchError as error:
                raise PositionMovedError("another consumer wrote at the same time") from error

    def viewers(self) -> Iterator[str]:
        """Yield all; see `ViewerStore`."""
        project = self.project.encode()
        with _errors_as_away():
            for key in self.redis.scan_iter(VIEWER_PREFIX + b"*" + project, count=1_000):
                yield viewer_of(key.removesuffix(project))

    def close(self) -> None:
        """Close the connection of who reads and writes in a thread."""
        self.redis.close()

    def _key(self, key: bytes) -> bytes:
        return key + self.project.encode()


@cache
def _field(view: str, name: str) -> bytes:
    """Return the field of a feature in a hash."""
    return mmh3.hash(f"{view}:{name}", signed=False).to_bytes(4, "little")


def _time_field(view: str) -> str:
    """Return the field of when a view was written."""
    return f"_ts:{view}"


def _fields(views: Views) -> list[bytes | str]:
    fields = [_field(view, name) for view, names in views.items() for name in names]
    return [*fields, *map(_time_field, views)]


def _stored(values: Sequence[bytes | None], views: Views) -> Stored:
    """Return what is stored by the values of `_fields`."""
    names = [name for names in views.values() for name in names]
    features = {name: value for name, value in zip(names, values, strict=False) if value}
    times = [Timestamp.FromString(value).seconds for value in values[len(names) :] if value]
    return Stored(features, max(times, default=0))
