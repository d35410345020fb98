"""The consumer's process with a real log, a real online store and S3."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.builders.archiving import archived, logged, slate
from tests.builders.datasets import random_interactions
from tests.builders.event_batches import (
    LIKED_BY_FRACTION,
    empty_repository,
    event,
    events_in_disorder,
    message,
    parts,
)
from tests.builders.nats import RunningNats, running_nats, settings_of
from tests.builders.process import start
from tests.builders.reading import append
from tests.builders.redis import RunningRedis
from vireo.ops.stack.nats import log_environment
from vireo.ops.stack.ports import free_port_base
from vireo.server.consumer.apply import folded
from vireo.server.consumer.archived_rows import KINDS
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import ARCHIVED, BEGIN, SLATES, STATE, Entry, Position
from vireo.server.features.online_store import open_rows
from vireo.server.features.viewer_rows import UnfitRowError, ViewerRow
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.channels import Change
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.v1 import event_pb2, log_pb2

VIEWERS = [f"w{number}" for number in range(40)]


@dataclass
class Site:
    """What a consumer needs, and the consumers."""

    folder: Path
    nats: RunningNats
    environment: dict[str, str]
    consumers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        """Start a consumer, which ends with the test."""
        log = self.folder / f"consumer-{len(self.consumers)}.log"
        flags = ("--port", str(free_port_base()))
        self.consumers.append(start("vireo.server.consumer", log, self.environment, *flags))
        return self.consumers[-1]

    @property
    def repo(self) -> Path:
        return self.folder / "features" / "tiny"


@pytest.fixture
def site(tmp_path: Path, s3: S3Settings, release_folder: Path) -> Iterator[Site]:
    releases = ReleaseStore(s3)
    releases.publish(release_folder)
    channel = tmp_path.name.replace("_", "-")[-40:].strip("-").lower()
    releases.change_channel(channel, Change("tiny-1"), releases.read_channel(channel))
    with running_nats(tmp_path / "nats") as nats:
        environment = {
            **s3.environment(),
            **log_environment(settings_of(nats)),
            "VIREO_HOME": str(tmp_path),
            "VIREO_CHANNEL": channel,
            "VIREO_FEATURES": str(tmp_path / "features"),
        }
        site = Site(tmp_path, nats, environment)
        yield site
        for process in site.consumers:
            process.kill()
            process.wait()


async def publish(log: JetStreamLog, events: Sequence[event_pb2.Event], size: int) -> int:
    """Append events to the log, some in a message, as gateways do; return the last position."""
    position = 0
    for some in parts(events, size):
        position = await append(log, "0", message(some), secrets.token_hex())
    return position


async def reached(log: JetStreamLog, position: int, seconds: float = 240) -> None:
    """Return once the consumer says that the rows have the events up to a position."""
    async with asyncio.timeout(seconds):
        async for entries in log.read(STATE, "progress.0"):
            for entry in entries:
                if log_pb2.ConsumerProgress.FromString(entry.data).position >= position:
                    return


def stored(repo: Path) -> list[ViewerRow | UnfitRowError]:
    with closing(open_rows(repo, 5)) as rows:
        return rows.read(VIEWERS)


def replayed(folder: Path, events: Sequence[event_pb2.Event]) -> list[ViewerRow | UnfitRowError]:
    """The rows after a clean replay."""
    rows = open_rows(empty_repository(folder), 5)
    rows.write(folded(rows, [Entry(1, "0", message(events))], LIKED_BY_FRACTION).changes)
    rows.close()
    return stored(folder)


async def test_kills_leave_the_rows_of_a_clean_replay(site: Site, redis: RunningRedis) -> None:
    empty_repository(site.repo, OnlineStoreSettings(online_store="redis"))
    site.environment["VIREO_REDIS_URL"] = redis.url
    events = events_in_disorder(random_interactions(), 1)
    log = JetStreamLog(settings_of(site.nats))
    first, second, third = events[:300], events[300:600], events[600:]
    position = await publish(log, first, 2)
    process = site.start()
    await reached(log, position // 3)
    process.kill()
    process.wait()
    position = await publish(log, second, 3)
    process = site.start()
    await reached(log, position)
    # Now everything else is killed while events come.
    publishing = asyncio.create_task(publish(log, third, 2))
    redis.save()
    redis.kill()  # it loses what came since
    redis.start()
    position = await publishing
    await reached(log, position)
    site.nats.kill()
    site.nats.start()
    again = await publish(log, first, 50)
    await reached(log, again)
    await log.close()
    assert stored(site.repo) == replayed(site.folder / "clean", events)


async def test_features_that_are_built_again_are_followed_from_their_own_position(
    site: Site,
) -> None:
    log = JetStreamLog(settings_of(site.nats))
    events = events_in_disorder(random_interactions(), 4)[:60]
    position = await publish(log, events[:30], 10)
    process = site.start()
    empty_repository(site.repo)
    await reached(log, position)
    other = empty_repository(site.folder / "other" / "tiny")
    rows = open_rows(other, 5)
    batch = folded(rows, [Entry(1, "0", message(events[:30]))], LIKED_BY_FRACTION)
    rows.commit(0, BEGIN, Position(position), batch.changes)
    rows.close()
    site.repo.rename(site.folder / "retired")
    other.rename(site.repo)
    await reached(log, await publish(log, events[30:], 10))
    process.terminate()
    assert process.wait(20) == 0
    await log.close()
    assert stored(site.repo) == replayed(site.folder / "clean", events)
    text = (site.folder / "consumer-0.log").read_text()
    assert text.count("following the log") == 2
    assert f"position={position}" in text or f'"position": "{position}"' in text


@pytest.mark.parametrize("share", ["1", "0"])
async def test_a_consumer_archives_if_slates_are_recorded(
    site: Site, s3: S3Settings, share: str
) -> None:
    empty_repository(site.repo)
    site.environment["VIREO_ARCHIVE_SECONDS"] = "0.2"
    site.environment["VIREO_SLATE_SHARE"] = share
    log, viewer = JetStreamLog(settings_of(site.nats)), secrets.token_hex(4)
    await log.append(SLATES, "0", logged(slate("r", viewer)))
    position = await publish(log, [event(viewer, "a")], 1)
    site.start()
    await reached(log, position)
    told = f"{ARCHIVED}events.0"
    if share == "0":
        assert await log.end(SLATES, "0")
        assert not await log.end(STATE, told)
    else:
        bucket, found = Bucket(s3), set[str]()
        async with asyncio.timeout(60):
            while found != {*KINDS} or not await log.end(STATE, told):
                for kind in KINDS:
                    if viewer in archived(bucket, kind)["viewer_id"].to_pylist():
                        found.add(kind)
    await log.close()
