"""Positions, against a real log that loses its tail, is replaced, or keeps messages no longer."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from tests.builders.nats import RunningNats, running_nats, settings_of
from tests.builders.reading import append, take
from tests.builders.waiting import until
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import MISSED, JetStreamLog
from vireo.server.event_log.log import BEGIN, CATALOG, EVENTS, Position, Stream


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[RunningNats]:
    with running_nats(tmp_path / "nats") as server:
        yield server


async def append_all(log: JetStreamLog, stream: Stream, *sent: bytes, key: str = "0") -> None:
    for each in sent:
        await log.append(stream, key, each)


async def last(log: JetStreamLog, stream: Stream = EVENTS, key: str = "0") -> Position:
    """The position after all that is there."""
    return (await take(log, stream, key))[-1].position


async def ask(log: JetStreamLog, subject: str, data: bytes = b"") -> None:
    assert log._connection is not None
    await log._connection.ask(f"$JS.API.STREAM.{subject}.vireo_events", data)


def test_a_position_is_text_and_read_again() -> None:
    whole = Position(12, "2026-01-01T00:00:00.000000001Z", 255)
    assert str(whole) == "12@2026-01-01T00:00:00.000000001Z#00000000000000ff"
    for each in (whole, BEGIN, Position(7), Position(7, "log")):
        assert Position.parse(str(each)) == each


@pytest.mark.parametrize("text", ["", "x", "-1", "1@", "1#ff", "1@a b", "1.5"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="isn't a position"):
        Position.parse(text)


async def test_a_log_that_lost_its_tail_and_grew_again_is_read_from_its_begin(
    nats: RunningNats, log: JetStreamLog, tmp_path: Path
) -> None:
    """After a power cut, or with a folder that was restored, it is the same stream."""
    await append_all(log, EVENTS, b"a")
    nats.kill()
    shutil.copytree(nats.folder / "data", tmp_path / "restored" / "data")
    await asyncio.to_thread(nats.start)
    await append(log, "0", b"lost", "lost")
    read = list[bytes]()

    async def follow() -> None:
        async for entries in log.read(EVENTS, "0"):
            read.extend(each.data for each in entries)

    follower = asyncio.create_task(follow())
    await until(lambda: read == [b"a", b"lost"])
    position = await last(log)
    nats.kill()
    nats.forget()
    with running_nats(tmp_path / "restored") as restored:
        there = JetStreamLog(settings_of(restored))
        await append_all(there, EVENTS, b"b", b"c")
        await there.close()
        restored.kill()
        shutil.copytree(tmp_path / "restored" / "data", nats.folder / "data")
    await asyncio.to_thread(nats.start)
    await until(lambda: read[2:] == [b"a", b"b", b"c"])
    follower.cancel()
    assert (await last(log)).log == position.log
    start = await log.resume(EVENTS, position)
    assert (start.after, len(start.missing)) == (0, 0)


async def test_a_message_that_a_compacted_stream_replaced_is_no_mismatch_to_who_read_those_before(
    nats: RunningNats, log: JetStreamLog
) -> None:
    for key in ("a", "b", "c"):
        await append_all(log, CATALOG, b"1", key=key)
    read = list[int]()

    async def follow() -> None:
        async for entries in log.read(CATALOG):
            read.extend(each.sequence for each in entries)

    other = JetStreamLog(settings_of(nats))
    follower = asyncio.create_task(follow())
    await until(lambda: read == [1, 2, 3])
    position = await last(other, CATALOG, "c")  # which also connects the other one
    assert log._connection is not None
    await log._connection.close()
    await append_all(other, CATALOG, b"2", key="c")
    await until(lambda: 4 in read)
    follower.cancel()
    assert read == [1, 2, 3, 4]
    start = await other.resume(CATALOG, position)
    assert (start.after, start.replaced, len(start.missing)) == (0, 3, 0)
    await other.close()


async def test_what_is_kept_no_longer_is_missing_and_read_over(log: JetStreamLog) -> None:
    await append_all(log, EVENTS, b"a", b"b", b"c", b"d")
    first = (await take(log, EVENTS, "0"))[0].position
    await ask(log, "PURGE", b'{"seq": 2}')
    start = await log.resume(EVENTS, first)
    assert (start.after, start.missing) == (1, range(2, 2)), "nothing unread is gone"
    await ask(log, "PURGE", b'{"seq": 4}')
    start = await log.resume(EVENTS, first)
    assert (start.after, start.missing) == (1, range(2, 4))
    assert start.kept_since.startswith("20")
    with structlog.testing.capture_logs() as logs:
        missed = MISSED._value.get()
        assert [each.data for each in await take(log, EVENTS, "0", first)] == [b"d"]
        assert MISSED._value.get() - missed == 2
    [gap] = [each for each in logs if each["log_level"] == "error"]
    assert (gap["first"], gap["last"]) == (2, 3)


async def test_what_another_log_or_one_that_lost_its_tail_keeps_no_longer_is_missing(
    log: JetStreamLog,
) -> None:
    """Its begin is read, which isn't the first message that was in it."""
    await append_all(log, EVENTS, b"a", b"b", b"c", b"d")
    ours = await last(log)
    await ask(log, "PURGE", b'{"seq": 4}')
    for position in (
        replace(ours, log="another"),
        replace(ours, sequence=300),
        replace(ours, fingerprint=1),
    ):
        start = await log.resume(EVENTS, position)
        assert (start.after, start.missing) == (0, range(1, 4))
        missed = MISSED._value.get()
        assert [each.data for each in await take(log, EVENTS, "0", position)] == [b"d"]
        assert MISSED._value.get() - missed == 3
    missed = MISSED._value.get()
    assert [each.data for each in await take(log, EVENTS, "0")] == [b"d"]
    assert MISSED._value.get() == missed, "whoever begins misses nothing"
    await append_all(log, CATALOG, b"1", b"2", key="a")
    start = await log.resume(CATALOG, replace(ours, log="another"))
    assert (start.after, len(start.missing)) == (0, 0)


async def test_a_key_that_is_idle_misses_nothing_when_others_messages_go(
    log: JetStreamLog,
) -> None:
    await append_all(log, EVENTS, b"ours")
    await append_all(log, EVENTS, b"theirs", b"theirs", key="1")
    reading = log.read(EVENTS, "0")
    assert [each.data for each in await anext(reading)] == [b"ours"]
    idle = await anext(reading)
    assert (list(idle), idle.position.sequence) == ([], 3)
    await ask(log, "PURGE", b'{"seq": 4}')
    await append_all(log, EVENTS, b"ours again")
    start = await log.resume(EVENTS, idle.position)
    assert (start.after, len(start.missing)) == (3, 0)


async def test_the_number_of_partitions_is_fixed_with_the_log(
    nats: RunningNats, log: JetStreamLog
) -> None:
    await append_all(log, EVENTS, b"a")
    other = JetStreamLog(settings_of(nats, event_partitions=4))
    for refused in (other.append(EVENTS, "3", b"b"), other.end(EVENTS), take(other, CATALOG)):
        with pytest.raises(VireoError, match=r"VIREO_EVENT_PARTITIONS=4, .* have 1 partitions"):
            await refused
    await other.close()
    again = JetStreamLog(settings_of(nats))
    assert await again.end(EVENTS) == 1
    await again.close()
