"""Three servers that replicate the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from tests.builders.nats import RunningNats, running_cluster, settings_of
from tests.builders.waiting import until
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS, Entry, LogAwayError


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[RunningNats]]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


async def append(log: JetStreamLog, data: bytes, dedup_id: str) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                await log.append(EVENTS, "0", data, dedup_id)
                return
            except LogAwayError:
                await asyncio.sleep(0.1)


async def test_each_acknowledged_message_is_there_once_after_a_server_was_killed(
    cluster: Sequence[RunningNats],
) -> None:
    """Whichever leads the stream, and whichever has its readers."""
    log = JetStreamLog(settings_of(*cluster, event_replicas=3))
    acknowledged: set[bytes] = set()
    read: list[Entry] = []

    async def write(writer: int) -> None:
        for number in range(250):
            data = b"%d-%d" % (writer, number)
            await append(log, data, data.decode())
            acknowledged.add(data)

    async def follow() -> None:
        async for entries in log.read(EVENTS, "0"):
            read.extend(entries)

    await append(log, b"first", "first")
    info = await log.describe(EVENTS)
    assert len(info["cluster"]["replicas"]) == 2
    leader = info["cluster"]["leader"]
    reader = asyncio.create_task(follow())
    writers = [asyncio.create_task(write(number)) for number in range(4)]
    await until(lambda: len(acknowledged) >= 200)
    killed = next(each for each in cluster if each.configuration["server_name"] == leader)
    killed.kill()
    await asyncio.gather(*writers)  # two of three go on
    await until(lambda: {entry.data for entry in read} >= acknowledged)
    await asyncio.to_thread(killed.start)
    reader.cancel()
    data = [entry.data for entry in read]
    assert sorted(data) == sorted([b"first", *acknowledged])
    positions = [entry.sequence for entry in read]
    assert positions == sorted(set(positions))
    await log.close()
