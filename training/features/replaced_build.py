"""One build of a feature folder at a time, and one copy of its rows in Redis once it has ended.

Before its first row, a build writes its project to a key in Redis, without which it can't be
announced. Rows of any build but that and the announced one are dead: the next build deletes them.
"""

from __future__ import annotations

import fcntl
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import structlog

from vireo.server.errors import VireoError
from vireo.server.features.online_store import CONFIGURATION, load_config
from vireo.server.features.viewer_store import BUILD_MARK, active_key, series_of
from vireo.training.data.folder import cannot_write, replaced_folder
from vireo.training.features.online_store import OnlineStoreSettings, store_errors

_log = structlog.get_logger(__name__)

_WAIT_SECONDS = 3600
"""Maximum seconds to wait for another build."""
_REDIS_SECONDS = 30.0
_KEYS_AT_A_TIME = 1000


@contextmanager
def replaced_build(target: Path, settings: OnlineStoreSettings) -> Iterator[tuple[Path, str]]:
    """Yield an empty folder and a project; after the block they replace the features in `target`.

    Raises:
        VireoError: another build doesn't end, or writing to disk or to the online store fails.
    """
    kind = settings.online_store
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The file has a series before Redis has rows of it, so a killed first build is found, too.
        with (target.parent / f".{target.name}.builds").open("a+") as file:
            _lock(file, target)
            built = (target / CONFIGURATION).exists()
            old = load_config(target) if built else None
            file.seek(0)
            begun = file.read()
            name = re.sub("[^a-z0-9]", "_", target.name)
            series = begun or f"vireo_{name}_{secrets.token_hex(4)}"
            series = series_of(old.project) if old else series
            if not begun:
                file.write(series)
                file.flush()
            project = f"{series}{BUILD_MARK}{secrets.token_hex(4)}"
            before = old.project if old and old.online_store.type == "redis" else ""
            with ExitStack() as stack:
                if kind == "redis":
                    check = stack.enter_context(_announced(settings, series, project, before))
                yield stack.enter_context(replaced_folder(target)), project
                if kind == "redis":
                    check()  # before the folder is replaced
            if before and kind != "redis":
                _clean(_connected(settings), series, active_key(series), _building(series))
    except OSError as error:
        raise cannot_write(target, error) from error
    except store_errors() as error:
        raise VireoError(
            f"the online store ({kind}) refused the features: {error}; "
            + ("check VIREO_REDIS_URL" if kind == "redis" else "check free space")
        ) from error


def _lock(file: TextIO, target: Path) -> None:
    """Wait until no other process builds the features; the lock ends with its process."""
    for second in range(_WAIT_SECONDS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not second:
                _log.warning("another_build_runs", folder=str(target), then="this one waits")
            time.sleep(1)
        except OSError:  # without locks the build that began last is announced
            return
        else:
            return
    raise VireoError(f"another build of {target} hasn't ended; try again, or end its process")


@contextmanager
def _announced(
    settings: OnlineStoreSettings, series: str, project: str, old: str
) -> Iterator[Callable[[], None]]:
    """Announce a build after the block, and `old`, which may not be, before; delete dead rows.

    Yields a check that raises VireoError if another build began meanwhile.
    """
    redis, building = _connected(settings), _building(series)

    def check() -> None:
        if redis.get(building) != project.encode():
            raise VireoError("another build of the features began meanwhile; build them again")

    redis.set(building, project)
    if old:
        redis.set(active_key(series), old, nx=True)
    _delete_dead_rows(redis, series)
    try:
        yield check
        with redis.pipeline() as pipe:
            pipe.watch(building)
            check()
            pipe.multi()
            pipe.set(active_key(series), project)
            pipe.execute()
    finally:
        _clean(redis, series, building, project=project)


def _clean(redis: Any, series: str, *ended: str, project: str = "") -> None:
    """Delete keys, and the rows that are dead without them; on failure the next build does.

    With `project`, the key stays if it is another build's by now.
    """
    try:
        if not project or redis.get(*ended) == project.encode():
            redis.delete(*ended)
        _delete_dead_rows(redis, series)
    except store_errors() as error:
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
