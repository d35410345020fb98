"""What both clients record, in a server that writes to a real log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import pytest
import pytest_asyncio

from tests.builders.nats import RunningNats
from tests.builders.reading import take
from tests.builders.recording import recording
from tests.builders.shared_servers import log, nats
from tests.clients.python.conftest import Connect
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, EVENTS, REMOVED
from vireo.v1 import catalog_pb2, event_pb2
from vireo.v1.log_pb2 import CatalogChange, RecordedEvents
from vireo_client import (
    Event,
    EventKind,
    InvalidRequest,
    Unavailable,
    Video,
)

__all__ = ["log", "nats"]

Call: TypeAlias = Callable[..., Awaitable[int]]
"""Calls a method of either client by its name."""


@pytest_asyncio.fixture
async def end(log: JetStreamLog) -> int:
    return await log.end(EVENTS)


@pytest_asyncio.fixture
async def call(connect: Connect, log: JetStreamLog) -> AsyncIterator[Call]:
    async with recording(log) as recorder, connect(f"127.0.0.1:{recorder.server.port}") as client:
        yield client.call


async def recorded(log: JetStreamLog, end: int) -> list[event_pb2.Event]:
    entries = await take(log, EVENTS, after=end)
    return [event for each in entries for event in RecordedEvents.FromString(each.data).events]


async def test_each_kind_of_event_is_recorded_as_it_was_made(
    call: Call, log: JetStreamLog, end: int
) -> None:
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    shown = Event.impression(
        "v",
        "a",
        request_id="r",
        position=3,
        locale="de-CH",
        device="tv",
        time_zone="+02:00",
        event_id="e",
    )
    events = [
        shown,
        Event.play("v", "a", watched_seconds=1.5, time=hour_ago),
        Event.play("v", "b", watched_fraction=0.5),
        Event.finish("v", "a"),
        Event.like("v", "a"),
        Event.hide("v", "c"),
        Event.not_interested("v", "d"),
        Event.follow("v", "someone"),
    ]
    assert await call("record_events", events) == len(events)
    found = await recorded(log, end)
    assert [event_pb2.EventKind.Name(each.kind) for each in found] == [
        f"EVENT_KIND_{each.kind.name}" for each in events
    ]
    assert {each.kind for each in events} == set(EventKind)
    assert [each.event_id for each in found] == [each.event_id for each in events]
    first, second, *_, last = found
    assert (first.event_id, first.request_id, first.position) == ("e", "r", 3)
    assert (first.locale, first.device, first.time_zone) == ("de-CH", "tv", "+02:00")
    assert (second.watched_seconds, second.HasField("watched_fraction")) == (1.5, False)
    assert second.time.ToDatetime(UTC) == hour_ago
    assert (last.creator, last.video_id) == ("someone", "")


async def test_the_same_events_again_are_stored_once(
    call: Call, log: JetStreamLog, end: int
) -> None:
    events = [Event.like("v", "again")]
    for _ in range(2):
        await call("record_events", events)
    assert len(await recorded(log, end)) == 1


async def test_a_stream_records_every_batch(call: Call, log: JetStreamLog, end: int) -> None:
    batches = [[Event.play("v", f"{batch}-{each}") for each in range(3)] for batch in range(4)]
    assert await call("stream_events", batches) == 12
    assert [each.video_id for each in await recorded(log, end)] == [
        event.video_id for batch in batches for event in batch
    ]


async def test_a_stream_that_fails_says_how_many_events_were_recorded(call: Call) -> None:
    batches = [[Event.play("v", "a"), Event.play("v", "b")], [Event.play("", "c")]]
    with pytest.raises(InvalidRequest) as raised:
        await call("stream_events", batches)
    assert raised.value.recorded == 2
    assert [each.field for each in raised.value.violations] == ["events[0].viewer_id"]


async def test_what_the_callers_own_batches_raise_is_raised(call: Call) -> None:
    def batches(error: Exception) -> Iterable[list[Event]]:
        yield [Event.play("v", "a")]
        raise error

    with pytest.raises(LookupError, match="mine"):
        await call("stream_events", batches(LookupError("mine")))
    with pytest.raises(InvalidRequest):
        await call("stream_events", [[Event.play("v", "\ud800")]])


async def test_an_invalid_event_is_named(call: Call) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await call("record_events", [Event.play("v", "a"), Event.play("v", "b", position=501)])
    assert [each.field for each in raised.value.violations] == ["events[1].position"]
    with pytest.raises(InvalidRequest):  # no message can hold it
        await call("record_events", [Event.play("v", "a", position=2**40)])


def test_a_time_without_a_zone_is_no_event() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        Event.play("v", "a", time=datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="no time zone"):
        Video("a", published=datetime(2026, 1, 1))


async def test_the_catalogue_is_changed(call: Call, log: JetStreamLog) -> None:
    published = datetime(2026, 1, 2, tzinfo=UTC)
    videos = [
        Video("a", "Title", ["x", "y"], published, 61.5, "someone"),
        Video("b"),
    ]
    assert await call("upsert_videos", videos) == 2
    assert await call("remove_videos", ["b", "c"]) == 2
    found = {
        change.video.video_id: change
        for each in await take(log, CATALOG)
        if (change := CatalogChange.FromString(each.data))
    }
    assert {name: change.removed for name, change in found.items()} == {
        "a": False,
        "b": True,
        "c": True,
    }
    wanted = catalog_pb2.Video(
        video_id="a", title="Title", tags=["x", "y"], duration=61.5, creator="someone"
    )
    wanted.published.FromDatetime(published)
    assert found["a"].video == wanted
    assert await call("upsert_videos", [Video("c")], restore=True) == 1
    words = [CatalogChange.FromString(each.data) for each in await take(log, REMOVED)]
    assert {each.video.video_id: each.removed for each in words} == {"b": True, "c": False}


async def test_while_the_log_is_away_the_client_is_told_when_to_repeat(
    call: Call, nats: RunningNats
) -> None:
    event = Event.like("v", "kept")
    await call("record_events", [Event.like("v", "before")])
    nats.kill()
    try:
        with pytest.raises(Unavailable) as raised:
            await call("record_events", [event])
        assert raised.value.retry_after == timedelta(seconds=1)
        with pytest.raises(Unavailable) as streamed:
            await call("stream_events", [[event]])
        assert streamed.value.recorded == 0
    finally:
        nats.start()
