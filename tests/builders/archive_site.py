"""A partition of a real log that is archived in a real S3 server, as fixtures."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from tests.builders.archiving import archived, logged, slate
from tests.builders.event_batches import event, message
from tests.builders.faulty_s3 import FaultyS3, faulty_s3
from tests.builders.nats import running_nats, settings_of
from vireo.server.consumer import archive as module
from vireo.server.consumer import archive_files
from vireo.server.consumer.archive import Archiver
from vireo.server.consumer.archived_rows import EVENT_ROWS, KINDS, SLATE_ROWS
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import (
    EVENTS,
    SLATES,
    STATE,
    LogAwayError,
    Stream,
)
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.s3 import S3Settings
from vireo.v1.log_pb2 import RecordedEvents

DAY = 86_400.0
PARTITIONS = count(1)


@dataclass
class Site:
    """A partition of its own of a log, and where it is archived."""

    log: JetStreamLog
    bucket: Bucket
    partition: int = 0
    sent: int = 0

    @property
    def key(self) -> str:
        return str(self.partition)

    async def record(self, count: int, viewer: str = "v") -> int:
        """Append some slates, and as many events; return the events' last sequence."""
        for number in range(self.sent, self.sent + count):
            await self.append(SLATES, logged(slate(f"r-{number}", viewer)))
            last = await self.append(EVENTS, message([event(viewer, f"{number}")]))
        self.sent += count
        return last

    async def append(self, stream: Stream, data: bytes) -> int:
        """Append a message as a gateway does: again until it is acknowledged."""
        once = secrets.token_hex(8)
        async with asyncio.timeout(60):
            while True:
                with suppress(LogAwayError):
                    return await self.log.append(stream, self.key, data, once)
                await asyncio.sleep(0.05)

    async def erase(self, *viewers: str) -> int:
        erased = RecordedEvents(erased=viewers)
        erased.received_at.GetCurrentTime()
        return await self.log.append(EVENTS, self.key, erased.SerializeToString())

    def archivers(self, bucket: Bucket | None = None, seconds: float = 0.05) -> list[Archiver]:
        made = self.log, bucket or self.bucket, self.partition
        make = partial(Archiver, *made, seconds=seconds, retention=DAY)
        return [make(SLATE_ROWS), make(EVENT_ROWS, slates=make(SLATE_ROWS))]

    @asynccontextmanager
    async def archiving(self, *archivers: Archiver) -> AsyncIterator[list[Archiver]]:
        """Archivers that run, stopped in the end."""
        found = [*archivers] or self.archivers()
        tasks = [asyncio.create_task(each.run()) for each in found]
        try:
            yield found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def archive(self) -> None:
        """Archive all that is there."""
        async with asyncio.timeout(30):
            for each in self.archivers():
                await each._restore()
                await each.archive_to_end()

    async def done(self, archivers: list[Archiver]) -> None:
        """Return once all that is there is archived, and the log knows it."""
        async with asyncio.timeout(30):
            for each in archivers:
                while each._collected or each._published.sequence < await self.log.end(  # noqa: ASYNC110
                    each._kind.stream, self.key
                ):
                    await asyncio.sleep(0.02)

    def requests(self) -> Counter[str]:
        return Counter(archived(self.bucket, "slates", self.partition)["request_id"].to_pylist())

    def videos(self) -> Counter[str]:
        return Counter(archived(self.bucket, "events", self.partition)["video_id"].to_pylist())

    def check(self) -> None:
        """Check that what was recorded is archived, each once."""
        numbers = range(self.sent)
        assert self.requests() == Counter(f"r-{number}" for number in numbers)
        assert self.videos() == Counter(f"{number}" for number in numbers)

    def viewers(self) -> dict[str, Counter[str]]:
        return {
            kind: Counter(archived(self.bucket, kind, self.partition)["viewer_id"].to_pylist())
            for kind in KINDS
        }

    async def forget(self) -> None:
        """Lose the positions."""
        await self.ask("PURGE", STATE)

    async def ask(self, what: str, stream: Stream) -> None:
        assert self.log._connection is not None
        await self.log._connection.ask(f"$JS.API.STREAM.{what}.vireo_{stream.name}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (module, archive_files):
        monkeypatch.setattr(each, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(module, "_MIN_PAUSE", 0.05)
    monkeypatch.setattr(module, "_MAX_PAUSE", 0.2)


@pytest.fixture(scope="module")
def bucket(s3: S3Settings) -> Bucket:
    made = Bucket(s3)
    made.make()
    return made


@pytest.fixture
def site(log: JetStreamLog, bucket: Bucket) -> Site:
    return Site(log, bucket, next(PARTITIONS))


@pytest.fixture
async def own(tmp_path: Path, bucket: Bucket) -> AsyncIterator[Site]:
    """A site whose log no other test has."""
    with running_nats(tmp_path / "nats") as server:
        log = JetStreamLog(settings_of(server))
        yield Site(log, bucket, next(PARTITIONS))
        await log.close()


@pytest.fixture
def proxy(s3: S3Settings) -> Iterator[FaultyS3]:
    with faulty_s3(s3.with_short_timeouts(), retries=0) as made:
        yield made
