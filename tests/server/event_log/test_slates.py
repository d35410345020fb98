"""The stream of slates: made when it is needed, refused when full, and emptied by consumers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders.commands import reaching, vireo
from tests.builders.nats import RunningNats, running_nats, settings_of
from tests.builders.reading import take
from vireo.server.event_log.jetstream import MISSED, JetStreamLog
from vireo.server.event_log.log import BEGIN, EVENTS, SLATES, LogAwayError, Position

MIB = 1 << 20


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningNats]:
    with running_nats(tmp_path) as made:
        yield made


@pytest.fixture
async def log(server: RunningNats) -> AsyncIterator[JetStreamLog]:
    opened = JetStreamLog(settings_of(server, slate_max_bytes=MIB))
    yield opened
    await opened.close()


async def streams(log: JetStreamLog) -> set[str]:
    assert log._connection is not None
    found = await log._connection.ask("$JS.API.STREAM.NAMES")
    return {name.removeprefix("vireo_") for name in found["streams"]}


async def test_only_who_appends_or_reads_makes_it(log: JetStreamLog) -> None:
    await log.append(EVENTS, "0", b"x")
    assert await log.end(SLATES) == await log.end(SLATES, "0") == 0
    assert (await log.resume(SLATES, Position(3))).after == 0
    assert "slates" not in await streams(log)
    assert await log.append(SLATES, "0", b"x") == 1
    assert "slates" in await streams(log)
    await log._connection.ask("$JS.API.STREAM.DELETE.vireo_slates")  # type: ignore[union-attr]
    assert await take(log, SLATES, "0") == []
    assert "slates" in await streams(log)


async def test_a_full_one_refuses_new_slates_and_keeps_the_others(log: JetStreamLog) -> None:
    for number in range(4):
        await log.append(SLATES, "0", b"%d" % number + bytes(200_000))
    with pytest.raises(LogAwayError, match="maximum bytes exceeded"):
        await log.append(SLATES, "0", bytes(300_000))
    kept = await take(log, SLATES, "0")
    assert [entry.data[:1] for entry in kept] == [b"0", b"1", b"2", b"3"]
    await log.purge(SLATES, "0", kept[1].position)
    await log.append(SLATES, "0", bytes(300_000))


async def test_what_was_deleted_up_to_a_position_is_not_missed(log: JetStreamLog) -> None:
    for number in range(3):
        for key in ("0", "1"):
            await log.append(SLATES, key, b"%d" % number)
    own, other = await take(log, SLATES, "0"), await take(log, SLATES, "1")
    missed = MISSED._value.get()
    for key, position in (("0", own[1].position), ("1", other[1].position)):
        await log.purge(SLATES, key, position)
        for read in (BEGIN, own[0].position, own[1].position):
            assert [entry.data for entry in await take(log, SLATES, "0", read)] == [b"2"]
            start = await log.resume(SLATES, read, "0")
            assert (start.after, len(start.missing)) == (read.sequence, 0)
    assert [entry.data for entry in await take(log, SLATES, "1")] == [b"2"]
    of_another = replace(own[0].position, log="another")
    assert len((await log.resume(SLATES, of_another)).missing) == 0
    assert [entry.data for entry in await take(log, SLATES, "0", of_another)] == [b"2"]
    assert MISSED._value.get() == missed


async def test_consumers_give_one_that_is_there_the_limits_of_their_settings(
    server: RunningNats, log: JetStreamLog
) -> None:
    await log.append(SLATES, "0", bytes(900_000))
    for size in (2 * MIB, 3 * MIB):
        consumer = JetStreamLog(settings_of(server, slate_max_bytes=size), limits="set")
        await consumer.end(EVENTS)
        assert (await consumer.describe(SLATES))["config"]["max_bytes"] == size
        await consumer.close()
    await log.append(SLATES, "0", bytes(900_000))
    less = JetStreamLog(settings_of(server, slate_max_bytes=MIB), limits="set")
    described = await less.describe(SLATES)  # no more come until there is room
    assert (described["config"]["max_bytes"], described["state"]["messages"]) == (MIB, 2)
    await less.close()


async def test_limits_are_shown_of_those_streams_that_are_there(
    server: RunningNats, log: JetStreamLog
) -> None:
    for there in (False, True):
        done = await asyncio.to_thread(vireo, "events", "limits", **reaching(server))
        assert done.exit_code == 0, done.exception
        assert ("vireo_slates: 1 messages" in done.stdout) == there
        await log.append(SLATES, "0", b"x")
