"""The consumer of one partition: follows the log for the features that gateways read."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
from pydantic import Field

from vireo.server.consumer.archive import Archiver
from vireo.server.consumer.archived_rows import EVENT_ROWS, SLATE_ROWS
from vireo.server.consumer.follow import Follower
from vireo.server.consumer.live_state import LiveState
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog, opened_log
from vireo.server.event_log.log import ARCHIVED, STATE, LogAwayError
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.online_store import RedisSettings, identity
from vireo.server.home import Home
from vireo.server.live.settings import TRENDING_HALF_LIFE, LiveSettings
from vireo.server.pod.announcements import Announcements
from vireo.server.releases.bucket import Bucket, StoreError
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.server.rpc.logs import configure_logs
from vireo.server.rpc.metrics import export_disk
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.settings import RpcSettings
from vireo.server.rpc.spans import start_export

log = structlog.get_logger()

POLL_SECONDS = 5.0
"""Seconds between reads of the channel without announcements."""
_STORE_SECONDS = 5.0
"""Maximum seconds to wait for the online store; then the same events are tried again."""
_UPLOAD_SECONDS = 60.0
"""Maximum seconds to wait for S3 to store a file of the archive."""
_LOOK_SECONDS = 1.0
"""Seconds between two looks whether other features are served, or were built."""


class ConsumerSettings(RpcSettings):
    """What a consumer follows, and how much it does at a time."""

    event_partition: int = Field(default=0, ge=0, le=255)
    """The partition of the events to apply, from 0; one process for each."""
    channel: str = Field(default="production", min_length=1)
    """The channel whose release gateways serve: its data set's features are kept up to date."""
    control_target: str = ""
    """host:port of the control plane, which announces changes of the channel and tells gateways
    which release all pods serve; if empty, or while it doesn't answer, the channel is polled."""
    features: Path = Field(default_factory=lambda: Home.current().root / "features")
    """Folder with a Feast repository per data set, by its name."""
    redis: RedisSettings = Field(default_factory=RedisSettings.load)
    """The Redis server that features may be in."""
    s3: S3Settings = Field(default_factory=S3Settings.load)
    """Where releases are stored, and the archive."""
    live: LiveSettings = Field(default_factory=LiveSettings.load)
    """Which videos' impressions are counted, and for how long a watch counts as trending."""
    slate_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the viewers whose slates gateways record. Unless it is 0, consumers archive slates
    and events as Parquet files in the bucket of releases, which needs keys that may write."""
    archive_seconds: float = Field(default=300.0, gt=0)
    """Maximum seconds until events and recorded slates are in the archive."""
    archive_retention: float = Field(default=90 * 86_400.0, gt=0)
    """Seconds for which files of the archive are kept."""


class ServedDataset:
    """Follows a channel: the data set that its release was trained on."""

    def __init__(self, settings: ConsumerSettings) -> None:
        """Read nothing yet.

        Raises:
            VireoError: a TLS file can't be read.
        """
        self._store = ReleaseStore(settings.s3.with_short_timeouts())
        self._channel, self._poll_seconds = settings.channel, POLL_SECONDS
        control = settings.control_target
        self._announcements = (
            Announcements(control, settings.tls, settings.channel) if control else None
        )
        self._release_id = ""
        self._problem = ""
        self.name = ""
        """The data set; empty until a release is known."""
        self.known = asyncio.Event()
        """Set once a release is known."""

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._read()
                self._problem = ""
            except (StoreError, ReleaseError) as error:
                # Until the store is back, the data set is the one before.
                if str(error) != self._problem:
                    log.warning("the channel can't be read", reason=str(error))
                self._problem = str(error)
            if self._announcements is None or self._problem or not self._release_id:
                await asyncio.sleep(self._poll_seconds)
            else:
                await self._announcements.wait(self._release_id, self._poll_seconds)

    async def _read(self) -> None:
        channel = await asyncio.to_thread(self._store.read_channel, self._channel)
        if channel is None or channel.release_id == self._release_id:
            return
        # Gateways of another build may serve a release that this one couldn't.
        dataset = await asyncio.to_thread(self._store.dataset, channel.release_id)
        self._release_id = channel.release_id
        if dataset != self.name:
            log.info("features to follow", dataset=dataset, release=channel.release_id)
            self.name = dataset
            self.known.set()


async def serve_consumer(settings: ConsumerSettings) -> None:
    """Consume until stopped.

    Raises:
        VireoError: there is no log, or no such partition of it, or the address can't be bound.
    """
    name = settings.pod_name or f"consumer-{settings.port}"
    configure_logs(settings.log_level, pod=name)
    start_export(settings, "consumer", name)
    log.info("starting", kind="consumer", settings=settings.model_dump(mode="json"))
    export_disk("features", settings.features)
    log_settings = EventLogSettings.load()
    if settings.event_partition >= log_settings.event_partitions:
        raise VireoError(
            f"VIREO_EVENT_PARTITION={settings.event_partition}: the log has "
            f"{log_settings.event_partitions} partitions, from 0; VIREO_EVENT_PARTITIONS sets them"
        )
    live, dataset, server = settings.live, ServedDataset(settings), RpcServer(settings)
    async with opened_log(log_settings, limits="set") as event_log:
        # What is archived stays subject to erasures and its retention.
        begun = await _archived_before(event_log, settings.event_partition)
        archiving = [_archive(settings, event_log)] if settings.slate_share or begun else []
        state = LiveState(event_log, settings.event_partition, TRENDING_HALF_LIFE, live.live_videos)
        await server.run(
            consume(server, settings, event_log, state, dataset),
            dataset.run(),
            state.run(),
            state.follow_catalog(),
            *archiving,
        )


async def _archived_before(event_log: JetStreamLog, partition: int) -> bool:
    """Return whether a partition's events were archived; False while the log is away."""
    with suppress(LogAwayError):
        return await event_log.end(STATE, f"{ARCHIVED}events.{partition}") > 0
    return False


async def _archive(settings: ConsumerSettings, event_log: JetStreamLog) -> None:
    """Archive the partition's slates and events until cancelled."""
    # While a body is sent, the timeout of the connection counts, for all of it.
    s3 = settings.s3.with_patience(connect_timeout=_UPLOAD_SECONDS, read_timeout=_UPLOAD_SECONDS)
    make = partial(
        Archiver,
        event_log,
        Bucket(s3),
        settings.event_partition,
        seconds=settings.archive_seconds,
        retention=settings.archive_retention,
    )
    events = make(EVENT_ROWS, slates=make(SLATE_ROWS))
    await asyncio.gather(make(SLATE_ROWS).run(), events.run())


async def consume(
    server: RpcServer,
    settings: ConsumerSettings,
    event_log: JetStreamLog,
    state: LiveState,
    dataset: ServedDataset,
) -> None:
    """Apply events to the features of the served data set, whichever that is, until cancelled."""
    await server.set_serving(True)
    await dataset.known.wait()
    while True:
        name, repo = dataset.name, settings.features / dataset.name
        seen = identity(repo)
        follower = Follower(
            event_log,
            repo,
            settings.event_partition,
            state,
            timeout=_STORE_SECONDS,
            redis=settings.redis,
        )
        following = asyncio.create_task(_follow(follower))
        try:
            # Others are served, or were built.
            while (dataset.name, identity(repo)) == (name, seen):
                if following.done():
                    following.result()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _follow(follower: Follower) -> None:
    """Follow; features that can't be brought up to date are left until there are others."""
    try:
        await follower.run()
    except VireoError as error:
        log.error("events can't be applied", reason=str(error))
