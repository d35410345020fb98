"""The parts that are asked once: edge, control plane, log of events, S3 and the online store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from vireo.ops.doctor.deployment import (
    Deployment,
    UnansweredError,
    call_fault,
    get,
    is_loopback,
    reach,
    split,
    words,
)
from vireo.ops.doctor.facts import Channel, Facts, Fault, Refusal, Slate
from vireo.ops.edge import envoys_of
from vireo.server.errors import VireoError
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.online_store import CONFIGURATION, RedisSettings, load_config
from vireo.server.features.sqlite_store import is_locked

_VIEWER = "vireo-doctor"
_VIDEOS = 10


def ask_edge(deployment: Deployment) -> Facts:
    """Ask for a slate."""
    import grpc

    from vireo.v1 import recommendation_pb2 as pb
    from vireo.v1 import viewer_pb2
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

    edge = deployment.edge
    assert edge is not None
    request = pb.RecommendRequest(viewer_id=_VIEWER, page_size=_VIDEOS)
    with edge.channel() as channel:
        began = time.monotonic()
        try:
            slate = RecommendationServiceStub(channel).Recommend(request, timeout=deployment.answer)
        except grpc.RpcError as error:
            if cast("grpc.Call", error).code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                return Facts.of_part("edge", edge.target)  # it sheds, which counts tell
            return Facts.of_part("edge", edge.target, *call_fault(error, edge.target))
        took = time.monotonic() - began
    kinds = [viewer_pb2.Degradation.Name(each) for each in slate.degradations]
    degradations = tuple(each.removeprefix("DEGRADATION_").lower() for each in kinds)
    return Facts.of_part("edge", edge.target, slates=(Slate(took, degradations),))


def ask_control(deployment: Deployment) -> Facts:
    """Ask the control plane for its Envoys' state."""
    where = f"the control plane at {deployment.control}"
    try:
        envoys = envoys_of(deployment.control, deployment.tls, deployment.answer)
    except VireoError as error:
        fault = reach(deployment.control)
        problem = words(fault) if fault else str(error).partition(";")[0]
        return Facts.of_part("control", where, fault or "failed", problem)
    refusals = tuple(
        Refusal(envoy.node, each.kind, each.name, each.words)
        for envoy in envoys
        for each in envoy.resources
        if each.state == "NACKED"
    )
    return Facts.of_part("control", where, refusals=refusals)


def ask_log(deployment: Deployment) -> Facts:
    """Ask the log that the settings name."""
    settings = deployment.log
    assert settings is not None
    # Its addresses without credentials.
    where = f"the log at {', '.join(_address(url) for url in settings.servers)}"
    return Facts.of_part("log", where, *_fault_log(deployment, settings))


def _address(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or 4222}"


def _fault_log(deployment: Deployment, settings: EventLogSettings) -> tuple[Fault, str]:
    faults = [reach(_address(url)) for url in settings.servers]
    if faults and all(faults):
        return faults[0], words(faults[0])
    if deployment.log_health:
        try:
            response = get(deployment.log_health, deployment.answer)
        except UnansweredError as error:
            return error.fault, str(error)
        if response.status != 200:
            return "failed", f"it stores nothing: {response.body.strip() or response.status}"
    try:
        asyncio.run(_end(settings, 2 * deployment.answer))
    except TimeoutError:
        return "silent", words("silent")
    except VireoError as error:
        return "failed", str(error)
    return "", ""


async def _end(settings: EventLogSettings, seconds: float) -> None:
    from vireo.server.event_log.jetstream import opened_log
    from vireo.server.event_log.log import CATALOG

    async with opened_log(settings, read_only=True) as log, asyncio.timeout(seconds):
        await log.end(CATALOG)


def ask_s3(deployment: Deployment) -> Facts:
    """Read the channel in S3, and its clock if it is another machine."""
    from vireo.server.releases.bucket import (
        NotInStoreError,
        StoreError,
        StoreUnavailableError,
    )
    from vireo.server.releases.store import ReleaseStore

    settings = deployment.s3
    assert settings is not None
    where = f"S3 at {settings.endpoint}"
    port = "" if ":" in settings.endpoint else f":{443 if settings.secure else 80}"
    address = f"{settings.endpoint}{port}"
    if fault := reach(address):
        return Facts.of_part("s3", where, fault, words(fault))
    store = ReleaseStore(settings.with_patience(read_timeout=deployment.answer, retries=0))
    try:
        channel = store.read_channel(deployment.channel)
    except NotInStoreError:
        channel = None  # nothing was ever published
    except StoreError as error:
        away: Fault = "silent" if isinstance(error, StoreUnavailableError) else "failed"
        return Facts.of_part("s3", where, away, str(error))
    found = Facts.of_part(
        "s3", where, channels=(Channel(deployment.channel, channel.release_id if channel else ""),)
    )
    if is_loopback(split(address)[0]):
        return found
    try:
        clock = get(f"http{'s' * settings.secure}://{settings.endpoint}/", deployment.answer).clock
    except UnansweredError as error:
        raise VireoError(f"its clock: {error}") from error
    return replace(found, clocks=(clock,) if clock else ())


_VIEWS = ("viewer_activity", "viewer_hidden")
_LOCKED_SECONDS = 1.5
"""Seconds for which a lock must be held to count: consumers hold it for moments."""


def ask_store(deployment: Deployment) -> Facts:
    """Ask the online store, SQLite or Redis, of what production serves; if unknown, of all."""
    assert deployment.features is not None
    dataset = _served(deployment)
    if dataset:
        repositories = [deployment.features / dataset]
    else:
        repositories = [each.parent for each in deployment.features.glob(f"*/{CONFIGURATION}")]
    if not repositories:
        problem = "it has no features; build them with: vireo features build --data DATASET"
        return Facts.of_part("store", str(deployment.features), "missing", problem)
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
    if not (repository / CONFIGURATION).exists():
        problem = f"it has no {CONFIGURATION}: its features were never built"
        return Facts.of_part("store", str(repository), "missing", problem)
    config = load_config(repository)
    if config.online_store.type == "redis":
        redis = RedisSettings.load()
        return Facts.of_part("store", f"Redis at {redis.address}", *_redis(redis, seconds))
    file = repository / config.online_store.path
    return Facts.of_part("store", str(file), *_sqlite(file, config.project))


def _redis(settings: RedisSettings, seconds: float) -> tuple[Fault, str]:
    if fault := reach(settings.address):
        return fault, words(fault)
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    limits = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    once = Retry(NoBackoff(), 0)
    try:
        with redis.Redis.from_url(settings.url.get_secret_value(), retry=once, **limits) as client:
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
            if is_locked(error):
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
