"""The online store that features are built into: SQLite in the feature folder, or Redis.

One build of a folder is under way at a time. One in Redis has rows of its own, which are announced
when all are there, before the folder is replaced. Rows of any build but the announced one and the
one that is under way are dead: the next build deletes what a killed one left.
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
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from vireo.server.errors import VireoError
from vireo.server.features.online_store import CONFIGURATION, RedisSettings, load_config
from vireo.server.features.viewer_store import BUILD_MARK, StoreAwayError, active_key, series_of
from vireo.server.file_lock import try_lock
from vireo.training.data.folder import cannot_write, replaced_folder

_log = structlog.get_logger(__name__)

_REDIS_IS_HERE = importlib.util.find_spec("redis") is not None
_WAIT_SECONDS = 3600
"""Maximum seconds to wait for another build."""
_REDIS_SECONDS = 30.0
_KEYS_AT_A_TIME = 1000


class OnlineStoreSettings(BaseSettings):
    """Choice of the online store; from VIREO_ONLINE_STORE and VIREO_REDIS_URL."""

    model_config = SettingsConfigDict(env_prefix="VIREO_")

    online_store: Literal["sqlite", "redis"] = "sqlite"
    redis: RedisSettings = Field(default_factory=RedisSettings.load)
    viewer_expiry: int = Field(default=365 * 86_400, ge=1)
    """Seconds after which Redis deletes rows that weren't written; SQLite's are by the consumer. A
    build leaves out viewers without an interaction for as long before the data set's last one."""

    @staticmethod
    def current() -> OnlineStoreSettings:
        """Return this process's settings; raise VireoError if one is invalid."""
        try:
            settings = OnlineStoreSettings()
        except ValidationError as error:
            raise VireoError(
                "VIREO_ONLINE_STORE must be sqlite or redis, and VIREO_VIEWER_EXPIRY whole seconds"
            ) from error
        if settings.online_store == "redis" and not _REDIS_IS_HERE:
            raise VireoError(
                "VIREO_ONLINE_STORE=redis needs the redis package; "
                "install it with: pip install 'redis>=5,<8'"
            )
        return settings


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
            series = _series(file, target.name, old.project if old else "")
            project = f"{series}{BUILD_MARK}{secrets.token_hex(4)}"
            redis = _connected(settings) if kind == "redis" else None
            if redis is not None:
                redis.set(_building(series), project)
                _delete_dead_rows(redis, series)
            try:
                with replaced_folder(target) as folder:
                    yield folder, project
                    if redis is not None:
                        _announce(redis, series, project)
            finally:
                if redis is not None:
                    _clean(redis, series, _building(series), project)
            if redis is None and old is not None and old.online_store.type == "redis":
                _clean(_connected(settings), series, active_key(series))
    except OSError as error:
        raise cannot_write(target, error) from error
    except _store_errors() as error:
        raise VireoError(
            f"the online store ({kind}) refused the features: {error}; "
            + ("check VIREO_REDIS_URL" if kind == "redis" else "check free space")
        ) from error


def _series(file: TextIO, name: str, project: str) -> str:
    """Return the series of a folder's builds: of its project, or of a first build that was killed.

    The file has it before Redis has rows of it.
    """
    file.seek(0)
    begun = file.read()
    if not begun:
        begun = f"vireo_{re.sub('[^a-z0-9]', '_', name)}_{secrets.token_hex(4)}"
        file.write(begun)
        file.flush()
    return series_of(project) or begun


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


def _announce(redis: Any, series: str, project: str) -> None:
    """Let readers and consumers go on with a build; raise VireoError if another began meanwhile."""
    if redis.get(_building(series)) != project.encode():
        raise VireoError("another build of the features began meanwhile; build them again")
    redis.set(active_key(series), project)


def _clean(redis: Any, series: str, ended: str, project: str = "") -> None:
    """Delete a key, and the rows that are dead without it; on failure the next build does.

    With `project`, the key stays if it is another build's by now.
    """
    try:
        if not project or redis.get(ended) == project.encode():
            redis.delete(ended)
        _delete_dead_rows(redis, series)
    except _store_errors() as error:
        _log.warning("online_rows_left_behind", series=series, reason=str(error))


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
