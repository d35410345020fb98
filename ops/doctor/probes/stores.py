"""S3, and the online store of features: SQLite or Redis, as each feature repository says."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import Channel, Facts, Fault, Part
from vireo.ops.doctor.reach import UnansweredError, get, is_loopback, reach, split, words
from vireo.server.errors import VireoError
from vireo.server.features.online_store import CONFIGURATION, RedisSettings

_PORTS = {False: 80, True: 443}


def s3_probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of S3."""
    if deployment.s3:
        yield Probe("S3", partial(_ask_s3, deployment))
    else:
        yield Probe.unnamed("S3", "set VIREO_S3_ENDPOINT and its keys")


def _ask_s3(deployment: Deployment) -> Facts:
    from vireo.server.releases.bucket import (
        NotInStoreError,
        StoreError,
        StoreUnavailableError,
    )
    from vireo.server.releases.store import ReleaseStore

    settings = deployment.s3
    assert settings is not None
    where = f"S3 at {settings.endpoint}"
    address = settings.endpoint
    if ":" not in address:
        address = f"{address}:{_PORTS[settings.secure]}"
    if fault := reach(address):
        return Facts(parts=(Part("s3", where, fault, words(fault)),))
    store = ReleaseStore(settings.with_patience(read_timeout=deployment.answer, retries=0))
    try:
        channel = store.read_channel(deployment.channel)
    except NotInStoreError:
        channel = None  # nothing was ever published
    except StoreError as error:
        away: Fault = "silent" if isinstance(error, StoreUnavailableError) else "failed"
        return Facts(parts=(Part("s3", where, away, str(error)),))
    named = Channel(
        deployment.channel,
        channel.release_id if channel else "",
        channel.pointer.share if channel else 0.0,
    )
    clocks = Facts()
    if not is_loopback(split(address)[0]):
        clocks = _clock_s3(
            f"http{'s' if settings.secure else ''}://{settings.endpoint}/", deployment
        )
    return Facts.merged([Facts(parts=(Part("s3", where),), channels=(named,)), clocks])


def _clock_s3(url: str, deployment: Deployment) -> Facts:
    try:
        clock = get(url, deployment.answer).clock
    except UnansweredError as error:
        raise VireoError(f"its clock: {error}") from error
    return Facts(clocks=(clock,) if clock else ())


_VIEWS = ("viewer_activity", "viewer_hidden")
_LOCKED_SECONDS = 1.5
"""Seconds for which a lock must be held to count: consumers hold it for moments."""


def store_probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of the online store."""
    if deployment.features:
        yield Probe("the online store", partial(_ask_store, deployment))
    else:
        yield Probe.unnamed(
            "the online store", "set VIREO_FEATURES to the folder of the feature repositories"
        )


def _ask_store(deployment: Deployment) -> Facts:
    assert deployment.features is not None
    dataset = _served(deployment)
    if dataset:
        repositories = [deployment.features / dataset]
    else:
        repositories = [each.parent for each in deployment.features.glob(f"*/{CONFIGURATION}")]
    if not repositories:
        problem = "it has no features; build them with: vireo features build DATASET"
        return Facts(parts=(Part("store", str(deployment.features), "missing", problem),))
    return Facts.merged(_asked(each, deployment.answer) for each in repositories)


def _served(deployment: Deployment) -> str:
    """Return the data set of the release in production; empty if S3 can't tell at once."""
    from vireo.server.releases.store import ReleaseStore

    if deployment.s3 is None:
        return ""
    with suppress(VireoError):  # the probe of S3 says so
        impatient = deployment.s3.with_patience(connect_timeout=0.5, read_timeout=1.0, retries=0)
        store = ReleaseStore(impatient)
        if channel := store.read_channel(deployment.channel):
            return store.manifest(channel.release_id).dataset
    return ""


def _asked(repository: Path, seconds: float) -> Facts:
    import yaml

    try:
        document = yaml.safe_load((repository / CONFIGURATION).read_text())
        online, project = document["online_store"], document["project"]
        kind = online["type"]
    except FileNotFoundError:
        problem = f"it has no {CONFIGURATION}: its features were never built"
        return Facts(parts=(Part("store", str(repository), "missing", problem),))
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise VireoError(f"{repository / CONFIGURATION} can't be read: {error}") from error
    if kind == "redis":
        redis = RedisSettings.load()
        address = redis.address
        fault, problem = _redis(redis.url.get_secret_value(), address, seconds)
        return Facts(parts=(Part("store", f"Redis at {address}", fault, problem),))
    file = repository / online["path"]
    return Facts(parts=(Part("store", str(file), *_sqlite(file, project)),))


def _redis(url: str, address: str, seconds: float) -> tuple[Fault, str]:
    if fault := reach(address):
        return fault, words(fault)
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = redis.Redis.from_url(
        url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0)
    )
    with client:
        try:
            client.ping()
        except redis.TimeoutError:
            return "silent", words("silent")
        except redis.RedisError as error:
            return "failed", str(error)
    return "", ""


def _sqlite(file: Path, project: str) -> tuple[Fault, str]:
    if not file.exists():
        return "missing", "the file isn't there"
    # Never as a file that a probe creates.
    location = f"{file.absolute().as_uri()}?mode=rw"
    with closing(
        sqlite3.connect(location, _LOCKED_SECONDS, uri=True, isolation_level=None)
    ) as connection:
        try:
            query = "SELECT name FROM sqlite_master WHERE type = 'table'"
            tables = {name for (name,) in connection.execute(query)}
            missing = [view for view in _VIEWS if f"{project}_{view}" not in tables]
            if missing:
                return "missing", f"it lacks the tables of {', '.join(missing)}"
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                held = f"another program has held its write lock for {_LOCKED_SECONDS:g} s"
                return "locked", held + _holder(file)
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
                return "", ""  # this user may not write, so nothing is known of locks
            return "failed", str(error)
        except sqlite3.DatabaseError as error:
            return "failed", f"it isn't a database that can be read: {error}"
    return "", ""


def _holder(file: Path) -> str:
    """Return which processes have locks on the file, as the kernel says; empty if it doesn't."""
    import psutil

    inodes = set()
    for suffix in ("", "-shm"):  # in WAL mode writers lock the latter
        with suppress(OSError):
            inodes.add(str(Path(f"{file}{suffix}").stat().st_ino))
    pids = set()
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: POSIX  ADVISORY  WRITE 4711 fe:01:12345 120 120
            parts = line.split()
            if parts[1] != "->" and parts[3] == "WRITE" and parts[5].split(":")[-1] in inodes:
                pids.add(int(parts[4]))
    shown = []
    for pid in sorted(pids):
        with suppress(psutil.Error):
            command = " ".join(psutil.Process(pid).cmdline())[:80]
            shown.append(f"process {pid} ({command})")
    return f": {', '.join(shown)}" if shown else ""
