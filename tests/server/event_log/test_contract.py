"""What the log keeps to."""

from __future__ import annotations

import asyncio

import pytest

from tests.builders.reading import append, take
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, DEAD, EVENTS, MAX_MESSAGE_BYTES, STATE, Position


async def test_messages_of_a_partition_are_read_in_the_order_in_which_they_were_appended(
    log: JetStreamLog,
) -> None:
    begin = await log.end(EVENTS, "0")
    positions = []
    for number in range(50):
        positions.append(await log.append(EVENTS, "0", b"%d" % number))
        await log.append(EVENTS, "1", b"others'")
    read = await take(log, EVENTS, "0", begin, 50)
    assert [entry.data for entry in read] == [b"%d" % number for number in range(50)]
    assert [entry.sequence for entry in read] == positions == sorted(set(positions))
    assert {entry.key for entry in read} == {"0"}
    rest = await take(log, EVENTS, "0", positions[3], 46)
    assert [entry.sequence for entry in rest] == positions[4:], "it goes on after a position"


async def test_a_message_has_the_trace_context_that_it_was_appended_with(log: JetStreamLog) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    begin = await log.end(EVENTS, "2")
    await log.append(EVENTS, "2", b"a", "once", traceparent=parent)
    await log.append(EVENTS, "2", b"b")
    read = await take(log, EVENTS, "2", begin, 2)
    assert [entry.traceparent for entry in read] == [parent, ""]


async def test_the_end_is_the_last_position_or_0(log: JetStreamLog) -> None:
    position = await log.append(DEAD, "0", b"x")
    assert await log.end(DEAD, "0") == position
    assert await log.end(EVENTS, "3") == 0


async def test_an_empty_sequence_says_that_all_was_read(log: JetStreamLog) -> None:
    begin = await log.append(CATALOG, "a", b"x")
    assert await take(log, CATALOG, after=begin) == []
    await log.append(CATALOG, "a", b"y")
    assert [entry.data for entry in await take(log, CATALOG, after=begin)] == [b"y"]


async def test_a_message_is_read_while_its_reader_waits(log: JetStreamLog) -> None:
    begin = await log.end(EVENTS, "0")
    reading = log.read(EVENTS, "0", Position(begin))
    async with asyncio.timeout(30):
        assert not await anext(reading)  # all was read
        waiting = asyncio.ensure_future(anext(reading))
        await log.append(EVENTS, "0", b"now")
        entries = await waiting
        while not entries:
            entries = await anext(reading)
    assert [entry.data for entry in entries] == [b"now"]


async def test_appends_under_way_at_once_are_all_stored_and_come_before_an_empty_sequence(
    log: JetStreamLog,
) -> None:
    begin = await log.end(EVENTS, "1")
    sent = [b"%d" % number for number in range(1_200)]
    appends = (append(log, "1", each, f"at-once-{each!r}") for each in sent)
    positions = await asyncio.gather(*appends)
    read = await take(log, EVENTS, "1", begin)
    assert {entry.sequence: entry.data for entry in read} == dict(zip(positions, sent, strict=True))


async def test_a_message_as_large_as_can_be_is_stored_and_a_larger_one_refused_for_good(
    log: JetStreamLog,
) -> None:
    begin = await log.end(EVENTS, "2")
    await log.append(EVENTS, "2", bytes(MAX_MESSAGE_BYTES), dedup_id="large")
    (entry,) = await take(log, EVENTS, "2", begin, 1)
    assert len(entry.data) == MAX_MESSAGE_BYTES
    with pytest.raises(ValueError, match="1000001 bytes"):
        await log.append(EVENTS, "2", bytes(MAX_MESSAGE_BYTES + 1))


async def test_a_key_of_a_compacted_stream_is_read_alone(log: JetStreamLog) -> None:
    begin = await log.append(STATE, "trending.0", b"a")
    await log.append(STATE, "trending.1", b"b")
    await log.append(STATE, "trending.0", b"c")
    read = await take(log, STATE, "trending.0", begin, 1)
    assert [entry.data for entry in read] == [b"c"]
