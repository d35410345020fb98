"""The online store that features are built into: SQLite in the feature folder, or Redis.

One build of a folder is under way at a time. One in Redis has rows of its own, which are announced
when all are there, just before the folder is replaced. Rows of any build but the announced one and
the one that is under way are dead: the next build deletes what a killed one left. After one in
SQLite all rows in Redis are dead.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

import structlog
from pydantic import Field, field_validator

from vireo.server.errors import VireoError
from vireo.server.features.online_store import CONFIGURATION, RedisSettings, load_config
from vireo.server.features.viewer_store import BUILD_MARK, StoreAwayError, active_key, series_of
from vireo.server.file_lock import try_lock
from vireo.server.settings import EnvironmentSettings
from vireo.training.data.folder import cannot_write, replaced_folder

_log = structlog.get_logger(__name__)

_REDIS_IS_HERE = importlib.util.find_spec("redis") is not None
_WAIT_SECONDS = 3600
"""Maximum seconds to wait for another build."""
_REDIS_SECONDS = 30.0
_KEYS_AT_A_TIME = 1000
_IN_REDIS = " redis"
"""After the series in a folder's file of builds while Redis may have rows of it."""


class OnlineStoreSettings(EnvironmentSettings):
    """Choice of the online store; from VIREO_ONLINE_STORE and VIREO_REDIS_URL."""

    online_store: Literal["sqlite", "redis"] = "sqlite"
    """Online store of features: `sqlite` or `redis`."""
    redis: RedisSettings = Field(default_factory=RedisSettings.load)
    viewer_expiry: int = Field(default=365 * 86_400, ge=1)
    """Seconds after which Redis deletes rows that weren't written; SQLite's go with the next build.
    A build leaves out viewers without an interaction for as long before the data set's last one."""

    @field_validator("online_store")
    @classmethod
    def _needs_its_client(cls, name: str) -> str:
        if name == "redis" and not _REDIS_IS_HERE:
            raise ValueError(
                "redis needs the redis package; install it with: pip install 'redis>=6,<8'"
            )
        return name


def _store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that online stores raise on failure."""
    if not _REDIS_IS_HERE:
        return (StoreAwayError,)
    return (StoreAwayError, importlib.import_module("redis.exceptions").RedisError)


@contextmanager
def replaced_build(target: Path, settings: OnlineStoreSettings) -> Iterator[tuple[Path, str]]:
    """Yield an empty folder and a project; after the block they replace the features in `target`.

    Raises:
        VireoError: another build doesn't end, or writing to disk or to the online store fails.
    """
    kind = settings.online_store
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / f".{target.name}.builds").open("a+") as file:
            _lock(file, target)
            old = load_config(target) if (target / CONFIGURATION).exists() else None
            before = old.project if old and old.online_store.type == "redis" else ""
            in_redis = kind == "redis" or bool(before)
            series_in_file, in_redis = _noted(file, target.name, in_redis=in_redis)
            series = series_of(old.project if old else series_in_file)
            project = f"{series}{BUILD_MARK}{secrets.token_hex(4)}"
            if kind == "redis":
                redis = _connected(settings)
                with _replaced_in_redis(target, redis, series, project, before) as folder:
                    yield folder, project
            else:
                with replaced_folder(target) as folder:
                    yield folder, project
                keys = active_key(series), _building(series)
                if in_redis and _REDIS_IS_HERE and _clean(_connected(settings), series, *keys):
                    file.truncate(len(series_in_file))  # without _IN_REDIS: no rows are left
    except OSError as error:
        raise cannot_write(target, error) from error
    except _store_errors() as error:
        raise VireoError(
            f"the online store ({kind}) refused the features: {error}; "
            + ("check VIREO_REDIS_URL" if kind == "redis" else "check free space")
        ) from error


def _noted(file: TextIO, name: str, *, in_redis: bool) -> tuple[str, bool]:
    """Return the series of a folder's first build, which may have been killed, from the file.

    Also return whether Redis may have rows of it: `in_redis`, or the file says so. The file has
    both before Redis has rows.
    """
    file.seek(0)
    series, noted, _ = file.read().partition(_IN_REDIS)
    if not series:
        series = f"vireo_{re.sub('[^a-z0-9]', '_', name)}_{secrets.token_hex(4)}"
        file.write(series)
    if in_redis and not noted:
        file.write(_IN_REDIS)
    file.flush()
    return series, in_redis or bool(noted)


def _lock(file: TextIO, target: Path) -> None:
    """Wait until no other process builds the features; the lock ends with its process."""
    for second in range(_WAIT_SECONDS):
        try:
            if try_lock(file):
                return
        except OSError:  # without locks the build that began last is announced
            return
        if not second:
            _log.warning("another_build_runs", folder=str(target), then="this one waits")
        time.sleep(1)
    raise VireoError(f"another build of {target} hasn't ended; try again, or end its process")


@contextmanager
def _replaced_in_redis(
    target: Path, redis: Any, series: str, project: str, before: str
) -> Iterator[Path]:
    """Yield an empty folder to replace `target` after the block; its rows are announced before.

    `before` is the project of the rows that are read unless others are announced: features that
    were built before there were announcements have none. If `target` can't be replaced, the rows of
    before are announced again.
    """
    redis.set(_building(series), project)
    if before:
        redis.set(active_key(series), before, nx=True)
    announced = redis.get(active_key(series))
    _delete_dead_rows(redis, series)
    try:
        with replaced_folder(target) as folder:
            yield folder
            _announce(redis, series, project)
    finally:
        there = load_config(target).project if (target / CONFIGURATION).exists() else ""
        if there != project:
            _withdraw(redis, series, project, announced)
        _clean(redis, series, _building(series), project=project)


def _announce(redis: Any, series: str, project: str) -> None:
    """Let readers and consumers go on with a build; raise VireoError if another began meanwhile."""
    building = _building(series)

    def set_active(pipe: Any) -> None:
        if pipe.get(building) != project.encode():
            raise VireoError("another build of the features began meanwhile; build them again")
        pipe.multi()
        pipe.set(active_key(series), project)

    redis.transaction(set_active, building)


def _withdraw(redis: Any, series: str, project: str, announced: bytes | None) -> None:
    """Undo the announcement of a build, if it was made."""
    active = active_key(series)
    try:
        if redis.get(active) != project.encode():
            return
        if announced is None:
            redis.delete(active)
        else:
            redis.set(active, announced)
    except _store_errors() as error:
        _log.warning("build_stays_announced", series=series, reason=str(error))


def _clean(redis: Any, series: str, *ended: str, project: str = "") -> bool:
    """Delete keys, and the rows that are dead without them; on failure the next build does.

    With `project`, keys stay that are another build's by now. Return whether it is done.
    """
    try:
        for key in ended:
            if not project or redis.get(key) == project.encode():
                redis.delete(key)
        _delete_dead_rows(redis, series)
    except _store_errors() as error:
        _log.warning("online_rows_left_behind", series=series, reason=str(error))
        return False
    return True


def _delete_dead_rows(redis: Any, series: str) -> None:
    """Delete the rows of dead builds: a build that is dead stays so."""
    dead = dict[bytes, bool]()
    ending = re.compile(f"{series}({BUILD_MARK}[0-9a-f]+)?\\Z".encode())
    with redis.pipeline(transaction=False) as pipe:
        for key in redis.scan_iter(f"*{series}*", count=_KEYS_AT_A_TIME):
            build = ending.search(key)
            if build and build[0] not in dead:
                dead[build[0]] = build[0] not in redis.mget(active_key(series), _building(series))
            if build and dead[build[0]]:
                pipe.unlink(key)
            if len(pipe) >= _KEYS_AT_A_TIME:
                pipe.execute()
        pipe.execute()


def _connected(settings: OnlineStoreSettings) -> Any:
    from redis import Redis

    return Redis.from_url(settings.redis.url.get_secret_value(), socket_timeout=_REDIS_SECONDS)


def _building(series: str) -> str:
    return f"vireo:features:{series}:building"
