"""Snapshots of streams, from a durable server and from a cluster."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.builders.nats import RunningNats, running_cluster, running_nats, settings_of
from tests.builders.reading import append, take
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, EVENTS, LogAwayError


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Sequence[RunningNats]]:
    if kind == "durable":
        with running_nats(folder, sync_interval="always") as server:
            yield [server]
    else:
        with running_cluster(folder) as servers:
            yield servers


@pytest.mark.parametrize("kind", ["durable", "cluster"])
async def test_a_stream_that_is_restored_is_the_one_that_was_saved(
    kind: str, tmp_path: Path
) -> None:
    """With its sequences and times, and as the log that positions name: also once it went on."""
    with running(kind, tmp_path) as servers:
        log = JetStreamLog(settings_of(*servers, event_replicas=len(servers)))
        for number in range(40):  # over a chunk of a snapshot, and incompressible
            await append(log, "0", number.to_bytes(4) * 5_000, f"{number}")
        for key in ("a", "b", "a"):
            await log.append(CATALOG, key, key.encode())
        saved = {stream: io.BytesIO() for stream in (EVENTS, CATALOG)}
        for stream, file in saved.items():
            await log.save(stream, file)
        before = {stream: await take(log, stream) for stream in saved}
        first = (await log.describe(EVENTS))["state"]["first_ts"]
        await append(log, "0", b"lost", "lost")
        [*_, lost] = await take(log, EVENTS)
        for stream, file in saved.items():
            for _ in range(2):  # a restore may be repeated
                file.seek(0)
                await log.restore(stream, file)
            count = len(before[stream])  # a reader may have a server that still copies it
            assert await take(log, stream, count=count) == before[stream]
            position = before[stream][-1].position
            assert (await log.resume(stream, position)).after == position.sequence
        assert (await log.describe(EVENTS))["state"]["first_ts"] == first
        await append(log, "0", b"another", "another")
        assert (await log.resume(EVENTS, lost.position)).after == 0, "it was another message"
        await log.close()


async def test_a_restore_with_a_shorter_retention_loses_nothing(tmp_path: Path) -> None:
    """As by someone whose shell lacks the stack's settings; consumers refuse that later."""
    with running_nats(tmp_path) as server:
        log = JetStreamLog(settings_of(server, event_retention=90 * 86_400.0))
        await log.append(EVENTS, "0", b"event")
        saved, kept = io.BytesIO(), (await log.describe(EVENTS))["config"]["max_age"]
        await log.save(EVENTS, saved)
        saved.seek(0)
        await JetStreamLog(settings_of(server, event_retention=0.2)).restore(EVENTS, saved)
        assert (await log.describe(EVENTS))["config"]["max_age"] == kept
        assert len(await take(log, EVENTS)) == 1
        await log.close()


async def test_what_cannot_be_restored_is_refused_with_the_reason(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        log = JetStreamLog(settings_of(server))
        await log.append(EVENTS, "0", b"event")
        saved = io.BytesIO()
        await log.save(EVENTS, saved)
        more = JetStreamLog(settings_of(server, event_partitions=2), read_only=True)
        saved.seek(0)
        with pytest.raises(VireoError, match=r"VIREO_EVENT_PARTITIONS=2, .* have 1"):
            await more.restore(EVENTS, saved)
        assert len(await take(log, EVENTS)) == 1, "nothing was deleted"
        large = saved.getvalue().replace(b'"max_bytes": ', b'"max_bytes": 1000000', 1)
        with pytest.raises(LogAwayError, match=r"insufficient storage.*VIREO_EVENT_MAX_BYTES"):
            await log.restore(EVENTS, io.BytesIO(large))
        broken = io.BytesIO(saved.getvalue()[:-20])
        with pytest.raises(LogAwayError, match="the log can't be restored: "):
            await log.restore(EVENTS, broken)
        await log.close()
        await more.close()
