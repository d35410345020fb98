"""Viewers' rows, and the consumer's position beside them, in the Feast online store.

Rows are read and written by Feast's own stores, many viewers at once. Use it from one thread.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from vireo.server.arrays import Int64Array
from vireo.server.consumer.fold import Folded, ViewerRow
from vireo.server.errors import VireoError
from vireo.server.event_log.position import BEGIN, Position
from vireo.server.features.active_build import ActiveBuild
from vireo.server.features.activity import HISTORY_LIMIT
from vireo.server.features.online_store import CONFIGURATION, RedisSettings, open_features

if TYPE_CHECKING:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    _Stored: TypeAlias = tuple[EntityKey, dict[str, Value]]

_ACTIVITY, _HIDDEN, _POSITION = "viewer_activity", "viewer_hidden", "consumer_position"
_OF_VIEWERS = ("viewer_profile", _ACTIVITY, _HIDDEN)
"""Views whose rows are viewers'."""
_ACTIVITY_STATE = (
    "watched_keys",
    "watched_times",
    "watched_liked",
    "viewer_watch_count",
    "viewer_like_count",
)
_HIDDEN_STATE = ("hidden_keys", "hidden_times")
_MICROS = 1_000_000
VIEWERS_AT_A_TIME = 500
"""Viewers whose rows are read and written at a time; bounds the memory."""


class StoreAwayError(VireoError):
    """The online store can't be read or written now; the same may be tried again."""


class UnfitRowError(ValueError):
    """A viewer's stored row can't be brought up to date."""


class OnlineRows:
    """The rows of one feature repository."""

    def __init__(
        self,
        repo: Path,
        timeout: float,
        redis: RedisSettings | None = None,
        *,
        announced: bool = True,
    ) -> None:
        """Open the repository.

        Args:
            repo: a feature folder.
            timeout: maximum seconds to wait for the store.
            redis: where Redis is; of this process's environment if None.
            announced: whether rows are those of the build that Redis announces, rather than the
                folder's own, which may not be announced yet.

        Raises:
            StoreAwayError: the online store can't be opened now.
            VireoError: there is no repository, or an earlier build made it.
        """
        from feast.errors import FeatureViewNotFoundException
        from feast.infra.online_stores.helpers import get_online_store_from_config

        self.repo = repo
        if not (repo / CONFIGURATION).exists():
            raise VireoError(
                f"there are no features in {repo}; "
                f"build them with: vireo features build {repo.name}"
            )
        store = open_features(repo, redis, timeout)
        if store.config.online_store.type == "redis":
            # This process alone writes activity and hides, so that rows needn't be compared by
            # their time first; and a clock that was set back must not stop them from being written.
            store.config.online_store.skip_dedup = True
        self._config = store.config
        self._built_at = (repo / CONFIGURATION).stat().st_mtime
        try:
            names = (_ACTIVITY, _HIDDEN, _POSITION)
            self._views = {name: store.get_feature_view(name) for name in names}
        except FeatureViewNotFoundException as error:
            raise VireoError(
                f"the features in {repo} were built before events could be applied to them; "
                f"build them again with: vireo features build {repo.name}"
            ) from error
        # Of the stores' own methods only their connections are used.
        self._online = cast("Any", get_online_store_from_config(store.config.online_store))
        self.redis: Any = None
        """The connection to Redis; None if the store is SQLite."""
        with store_errors_as_away():
            if store.config.online_store.type == "redis":
                self.redis = self._online._get_client(store.config.online_store)
            else:
                self._prepare_sqlite(repo / store.config.online_store.path, timeout)
            self._build = ActiveBuild(store.config, self._online if announced else None)
            self._build.ask()
        self._config = self._build.config
        self.project: str = self._config.project
        """Unique to each build of the features."""

    def _prepare_sqlite(self, file: Path, timeout: float) -> None:
        """Let gateways read while rows are written; wait for others who write."""
        if not file.exists():
            raise StoreAwayError(f"there is no {file}")
        with closing(sqlite3.connect(file, timeout=timeout)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection = self._online._get_conn(self._config)
        connection.execute(f"PRAGMA busy_timeout={round(timeout * 1000)}")
        # A power cut may undo the last transactions, but in order: the position goes back too.
        connection.execute("PRAGMA synchronous=NORMAL")

    def superseded(self) -> bool:
        """Return whether another build is announced now; raise StoreAwayError."""
        with store_errors_as_away():
            if not self._build.trusted:
                self._build.ask()
        return self._build.config is not self._config

    def read(self, viewers: Sequence[str]) -> list[ViewerRow | UnfitRowError]:
        """Return the viewers' rows, each as it is stored or why it can't be used.

        Raises:
            StoreAwayError: the store can't be read now.
        """
        keys = [_entity_key("viewer_id", viewer) for viewer in viewers]
        activities = self._read(_ACTIVITY, keys, _ACTIVITY_STATE)
        hidden = self._read(_HIDDEN, keys, _HIDDEN_STATE)
        return [_row(*both) for both in zip(activities, hidden, strict=True)]

    def hides(self) -> Iterator[tuple[str, dict[int, int]]]:
        """Yield each viewer who has hidden a video, with the times by key, Unix seconds.

        Raises:
            StoreAwayError: the store can't be read now.
        """
        keys = self._viewers()
        while some := list(islice(keys, VIEWERS_AT_A_TIME)):
            for key, stored in zip(some, self._read(_HIDDEN, some, _HIDDEN_STATE), strict=True):
                videos, times = (_integers(stored, name).tolist() for name in _HIDDEN_STATE)
                if videos and len(videos) == len(times):
                    yield key.entity_values[0].string_val, dict(zip(videos, times, strict=True))

    def _viewers(self) -> Iterator[EntityKey]:
        """Yield the viewers; those of SQLite that have hidden a video."""
        from feast.infra.key_encoding_utils import (
            deserialize_entity_key,
            serialize_entity_key_prefix,
        )

        with store_errors_as_away():
            if self.redis is not None:
                project = self.project.encode()
                prefix = serialize_entity_key_prefix(["viewer_id"])
                found = (
                    key.removesuffix(project)
                    for key in self.redis.scan_iter(prefix + b"*" + project, count=1_000)
                )
            else:
                table = f'SELECT DISTINCT entity_key FROM "{self.project}_{_HIDDEN}"'  # noqa: S608  # our name
                found = (key for (key,) in self._online._get_conn(self._config).execute(table))
            for key in found:
                yield deserialize_entity_key(key)

    def write(self, changes: Mapping[str, Folded]) -> None:
        """Store rows by viewer; raise StoreAwayError if some may not be stored.

        One that didn't change is stored, too: its viewer was seen, see `expire`.
        """
        activities: list[_Stored] = []
        hidden: list[_Stored] = []
        for viewer, each in changes.items():
            key = _entity_key("viewer_id", viewer)
            if each.activity_changed or not each.hidden_changed:
                activities.append((key, _activity_values(each.row)))
            if each.hidden_changed:
                hidden.append((key, _hidden_values(each.row)))
        self._write(_ACTIVITY, activities)
        self._write(_HIDDEN, hidden)

    def erase(self, viewers: Iterable[str]) -> bool:
        """Delete all that is stored of some viewers; return whether anything was.

        Raises:
            StoreAwayError: some may still be there.
        """
        from feast.infra.key_encoding_utils import serialize_entity_key

        keys = [serialize_entity_key(_entity_key("viewer_id", viewer)) for viewer in viewers]
        with store_errors_as_away():
            if self.redis is not None:
                return bool(self.redis.delete(*(key + self.project.encode() for key in keys)))
            return self._delete("entity_key = :key", [{"key": key} for key in keys])

    def expire(self, seconds: float, after: bytes = b"") -> bytes:
        """Delete viewers of SQLite's store of whom nothing was written for some seconds.

        It looks at a few at a time, in the order of their keys. Redis' keys expire by themselves.

        Args:
            seconds: for how long nothing was written; the build of the features counts for all.
            after: what the call before returned, to go on from there.

        Raises:
            StoreAwayError: the store can't be read or written now.
        """
        since = time.time() - seconds
        if self.redis is not None or self._built_at > since:
            return b""
        # As Feast stores times: it takes UTC's for this machine's local time.
        at = datetime.fromtimestamp(max(since, 0), UTC).replace(tzinfo=None)
        within = "entity_key > :after AND entity_key <= :last"
        listed = (
            f"{self._keys('entity_key > :after')} ORDER BY entity_key LIMIT {VIEWERS_AT_A_TIME}"
        )
        with store_errors_as_away():
            found = (
                self._online._get_conn(self._config).execute(listed, {"after": after}).fetchall()
            )
            if not found:
                return b""
            [last] = found[-1]
            # Looked at by the deletion itself: consumers of other partitions write meanwhile.
            seen = self._keys(f"{within} AND created_ts >= :at")
            unseen = f"{within} AND entity_key NOT IN ({seen})"
            self._delete(unseen, [{"after": after, "last": last, "at": at}])
        return bytes(last)

    def _keys(self, condition: str) -> str:
        """Return a query for the keys of viewers who have a row under a condition."""
        return " UNION ".join(
            f'SELECT entity_key FROM "{self.project}_{view}" WHERE {condition}'  # noqa: S608  # ours
            for view in _OF_VIEWERS
        )

    def _delete(self, condition: str, parameters: Sequence[Mapping[str, object]]) -> bool:
        """Delete viewers' rows from SQLite's store; return whether there were any."""
        connection, count = self._online._get_conn(self._config), 0
        connection.execute("PRAGMA secure_delete=ON")  # else the file keeps the bytes
        with connection:
            for view in _OF_VIEWERS:
                delete = f'DELETE FROM "{self.project}_{view}" WHERE {condition}'  # noqa: S608  # ours
                count += connection.executemany(delete, parameters).rowcount
        return count > 0

    def position(self, partition: int) -> Position:
        """Return up to where the log's events are in the rows; raise StoreAwayError."""
        [stored] = self._read(_POSITION, [_entity_key("partition", str(partition))], ("position",))
        text = stored["position"].string_val if "position" in stored else ""
        return Position.parse(text) if text else BEGIN  # Redis has an empty value for none

    def write_position(self, partition: int, position: Position) -> None:
        """Store up to where the log's events are in the rows; raise StoreAwayError."""
        from feast.protos.feast.types.Value_pb2 import Value

        key = _entity_key("partition", str(partition))
        self._write(_POSITION, [(key, {"position": Value(string_val=str(position))})])
        if self.redis is not None:  # it must not expire as viewers' rows do
            from feast.infra.key_encoding_utils import serialize_entity_key

            with store_errors_as_away():
                self.redis.persist(serialize_entity_key(key) + self.project.encode())

    def _read(
        self, view: str, keys: list[EntityKey], features: Sequence[str]
    ) -> list[Mapping[str, Value]]:
        with store_errors_as_away():
            # A new list for each read: the Redis store appends to it.
            found = self._online.online_read(self._config, self._views[view], keys, [*features])
        return [values or {} for _, values in found]

    def _write(self, view: str, rows: Sequence[_Stored]) -> None:
        now = datetime.now(UTC)
        data = [(key, values, now, now) for key, values in rows]
        if data:
            with store_errors_as_away():
                self._online.online_write_batch(self._config, self._views[view], data, None)

    def close(self) -> None:
        """Close the connection to the store."""
        if self.redis is not None:
            self.redis.close()
        else:
            self._online._get_conn(self._config).close()


@contextmanager
def store_errors_as_away() -> Iterator[None]:
    """Raise what the stores raise as StoreAwayError."""
    redis = sys.modules.get("redis.exceptions")  # imported if the store is Redis
    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError)
    if redis is not None:
        errors += (redis.RedisError,)
    try:
        yield
    except errors as error:
        raise StoreAwayError(f"{type(error).__name__}: {error}") from error


def _entity_key(name: str, value: str) -> EntityKey:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return EntityKey(join_keys=[name], entity_values=[Value(string_val=value)])


def _row(activity: Mapping[str, Value], hidden: Mapping[str, Value]) -> ViewerRow | UnfitRowError:
    keys, times = (_integers(activity, name) for name in ("watched_keys", "watched_times"))
    likes = activity["watched_liked"].bool_list_val.val if "watched_liked" in activity else ()
    hidden_keys, hidden_times = (_integers(hidden, name) for name in _HIDDEN_STATE)
    if not len(keys) == len(times) == len(likes) or len(hidden_keys) != len(hidden_times):
        return UnfitRowError(
            f"the viewer's row has {len(keys)} videos watched with {len(times)} times and "
            f"{len(likes)} likes, and {len(hidden_keys)} hidden with {len(hidden_times)} times"
        )
    watches, like_count = (
        activity[name].int64_val if name in activity else 0
        for name in ("viewer_watch_count", "viewer_like_count")
    )
    liked = np.array(likes, np.bool_)
    return ViewerRow(keys, times, liked, watches, like_count, hidden_keys, hidden_times)


def _integers(stored: Mapping[str, Value], name: str) -> Int64Array:
    return np.array(stored[name].int64_list_val.val if name in stored else (), np.int64)


def _activity_values(row: ViewerRow) -> dict[str, Value]:
    from feast.protos.feast.types.Value_pb2 import BoolList, Value

    return {
        "history_times": _list_of(row.times[-HISTORY_LIMIT:] // _MICROS),
        "watched_keys": _list_of(row.keys),
        "watched_times": _list_of(row.times),
        "watched_liked": Value(bool_list_val=BoolList(val=row.liked.tolist())),
        "viewer_watch_count": Value(int64_val=row.watches),
        "viewer_like_count": Value(int64_val=row.likes),
    }


def _hidden_values(row: ViewerRow) -> dict[str, Value]:
    return {"hidden_keys": _list_of(row.hidden_keys), "hidden_times": _list_of(row.hidden_times)}


def _list_of(numbers: Int64Array) -> Value:
    from feast.protos.feast.types.Value_pb2 import Value

    stored = Value()
    stored.int64_list_val.val.extend(numbers.tolist())  # two thirds of the time of a constructor
    return stored
