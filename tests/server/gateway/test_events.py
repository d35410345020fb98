"""What EventService puts into a real log, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.builders.nats import RunningNats, settings_of
from tests.builders.reading import take
from tests.builders.recording import Recorder, batch, failure_of, play, recording
from tests.builders.samples import Grown
from tests.builders.waiting import until
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS, partition_of
from vireo.server.gateway import events as module
from vireo.v1 import event_pb2 as pb
from vireo.v1.log_pb2 import RecordedEvents

FOLLOW = pb.EVENT_KIND_FOLLOW
OK, EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED
DAY = 86_400


@pytest.fixture
async def end(log: JetStreamLog) -> int:
    """The log's end before the test."""
    return await log.end(EVENTS)


def recorded(entries: list[Any]) -> list[pb.Event]:
    return [event for each in entries for event in RecordedEvents.FromString(each.data).events]


def ago(seconds: float) -> Timestamp:
    at = Timestamp()
    at.FromNanoseconds(time.time_ns() - round(seconds * 1e9))
    return at


async def test_a_batch_is_in_the_log_as_it_was_sent_when_the_call_returns(
    recorder: Recorder, log: JetStreamLog, end: int, grown: Grown
) -> None:
    sent = [
        play("a", time=ago(60), watched_fraction=0.25, request_id="r", position=3, locale="de-CH"),
        play("b", "other", kind=pb.EVENT_KIND_LIKE, time=ago(0)),
        pb.Event(event_id="c", viewer_id="v", kind=FOLLOW, creator="someone", time=ago(DAY)),
    ]
    answer = await recorder.events.RecordEvents(batch(sent))
    assert answer.recorded == 3
    [entry] = await take(log, EVENTS, after=end)
    assert entry.key == "0"
    assert recorded([entry]) == sent
    received = RecordedEvents.FromString(entry.data).received_at
    assert abs(received.ToNanoseconds() - time.time_ns()) < 60e9
    assert grown("vireo_events_recorded_total", kind="play") == 1


async def test_an_event_without_a_time_happened_when_it_was_received(
    recorder: Recorder, log: JetStreamLog, end: int
) -> None:
    await recorder.events.RecordEvents(batch([play("no-time")]))
    [entry] = await take(log, EVENTS, after=end)
    message = RecordedEvents.FromString(entry.data)
    assert message.events[0].time == message.received_at


async def test_the_same_batch_again_is_stored_once_and_an_id_counts_once_for_each_viewer(
    recorder: Recorder, log: JetStreamLog, end: int, grown: Grown
) -> None:
    events = [play("1", "a", time=ago(5)), play("1", "b"), play("1", "a", time=ago(5))]
    for _ in range(3):
        assert (await recorder.events.RecordEvents(batch(events))).recorded == 3
    [entry] = await take(log, EVENTS, after=end)
    assert sorted(each.viewer_id for each in recorded([entry])) == ["a", "b"]
    assert grown("vireo_events_recorded_total", kind="play") == 6


async def test_events_go_to_the_partition_of_their_viewer(log: JetStreamLog, end: int) -> None:
    viewers = [f"viewer-{number}" for number in range(100)]
    async with recording(log, event_partitions=4) as recorder:
        await recorder.events.RecordEvents(batch([play(f"p-{each}", each) for each in viewers]))
    entries = await take(log, EVENTS, after=end)
    assert {each.key for each in entries} == {"0", "1", "2", "3"}
    for entry in entries:
        partitions = {partition_of(each.viewer_id, 4) for each in recorded([entry])}
        assert partitions == {int(entry.key)}
    assert {each.viewer_id for each in recorded(entries)} == set(viewers)


async def test_the_largest_batch_fits_into_a_log_that_takes_messages_of_a_mebibyte(
    recorder: Recorder, log: JetStreamLog, end: int
) -> None:
    wide = "w" * 128
    events = [
        play(f"{number:04d}{wide[4:]}", wide, wide, request_id=wide, creator=wide, locale="l" * 35)
        for number in range(1000)
    ]
    request = batch(events)
    assert 0.6 * (1 << 20) < request.ByteSize() < 1 << 20
    assert (await recorder.events.RecordEvents(request)).recorded == 1000
    entries = await take(log, EVENTS, after=end)
    assert len(recorded(entries)) == 1000
    assert max(len(each.data) for each in entries) < 600 << 10


INVALID: list[tuple[list[Any], list[str]]] = [
    ([], ["events"]),
    ([play(str(number)) for number in range(1001)], ["events"]),
    ([play(""), play("i" * 129)], ["events[0].event_id", "events[1].event_id"]),
    ([play("a"), play("b", "")], ["events[1].viewer_id"]),
    ([play("a", kind=0), play("b", kind=99)], ["events[0].kind", "events[1].kind"]),
    ([play("a", video_id="é" * 65)], ["events[0].video_id"]),
    ([play("a", kind=FOLLOW)], ["events[0].creator"]),
    (
        [play(f"{bad}", watched_seconds=bad) for bad in (-0.1, 86_401, float("nan"))],
        [f"events[{place}].watched_seconds" for place in range(3)],
    ),
    ([play("a", watched_fraction=1.1)], ["events[0].watched_fraction"]),
    ([play("a", kind=pb.EVENT_KIND_LIKE, watched_fraction=0.5)], ["events[0].watched_fraction"]),
    ([play("a", position=501)], ["events[0].position"]),
    ([play("a", time=Timestamp(seconds=int(time.time()), nanos=-1))], ["events[0].time"]),
    ([play("a", time=Timestamp(seconds=-(2**62)))], ["events[0].time"]),
    (
        [play(""), play("b", video_id=""), play("c", "", time=Timestamp(seconds=1))],
        ["events[0].event_id", "events[2].viewer_id", "events[1].video_id", "events[2].time"],
    ),
    (
        [play(str(number), video_id="") for number in range(50)],
        [f"events[{number}].video_id" for number in range(20)],
    ),
]


async def test_an_invalid_event_is_named_and_nothing_of_its_batch_is_recorded(
    recorder: Recorder, log: JetStreamLog, end: int
) -> None:
    for events, fields in INVALID:
        sent = [*events, play("fine")] if events else []
        failure = await failure_of(recorder.events.RecordEvents(batch(sent)))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(failure.fields) == fields
    assert await log.end(EVENTS) == end


@pytest.mark.parametrize(
    ("seconds", "reason"), [(-601 - DAY, "future"), (8 * DAY, "past"), (-590, ""), (6 * DAY, "")]
)
async def test_a_clock_that_is_off_is_refused_beyond_the_bounds_and_counted(
    recorder: Recorder, seconds: float, reason: str, grown: Grown
) -> None:
    request = batch([play(f"off {seconds}", time=ago(seconds)), play(f"on {seconds}")])
    call = recorder.events.RecordEvents(request)
    if not reason:
        assert (await call).recorded == 2
        return
    failure = await failure_of(call)
    assert (failure.code, failure.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        ("events[0].time",),
    )
    assert reason in failure.message
    assert grown("vireo_events_refused_total", reason=reason) == 1


async def test_more_than_a_mebibyte_is_refused_by_its_size(recorder: Recorder) -> None:
    raw: Any = recorder.channel.unary_unary("/vireo.v1.EventService/RecordEvents")
    failure = await failure_of(raw(b"\x0a\x03abc" * ((1 << 20) // 5 + 1)))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.retry_seconds is None
    assert failure.message.endswith("the maximum is 1,048,576")


async def test_without_a_log_the_operator_is_told_what_to_set(grown: Grown) -> None:
    async with recording(None) as recorder:
        failure = await failure_of(recorder.events.RecordEvents(batch([play("a")])))
    assert failure.code is grpc.StatusCode.UNIMPLEMENTED
    assert grown("vireo_events_refused_total", reason="away") == 0
    assert "VIREO_NATS_URL" in failure.message


async def code_of(call: Any) -> grpc.StatusCode:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call
    code: grpc.StatusCode = await call.code()
    assert code in (OK, EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    return code


async def stream(recorder: Recorder, *batches: list[Any]) -> Any:
    async def requests() -> AsyncIterator[pb.StreamEventsRequest]:
        for events in batches:
            yield pb.StreamEventsRequest(events=events)

    return await recorder.events.StreamEvents(requests())


async def test_a_stream_records_its_batches_in_order(
    recorder: Recorder, log: JetStreamLog, end: int
) -> None:
    answer = await stream(recorder, [play("s-1"), play("s-2")], [play("s-3")])
    assert answer.recorded == 3
    events = recorded(await take(log, EVENTS, after=end))
    assert [each.event_id for each in events] == ["s-1", "s-2", "s-3"]
    assert (await stream(recorder)).recorded == 0


async def test_a_stream_that_fails_says_how_much_of_it_is_recorded(
    recorder: Recorder, log: JetStreamLog, end: int
) -> None:
    failure = await failure_of(stream(recorder, [play("f-1"), play("f-2")], [play("")], [play("")]))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (failure.fields, failure.recorded) == (("events[0].event_id",), 2)
    large = [play("large", video_id="v" * (1 << 20))]
    failure = await failure_of(stream(recorder, [play("small")], large))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (failure.recorded, failure.retry_seconds) == (1, None)
    assert len(recorded(await take(log, EVENTS, after=end))) == 3


async def test_what_was_recorded_of_a_stream_that_its_caller_leaves_stays(
    recorder: Recorder, log: JetStreamLog, end: int
) -> None:
    call = recorder.events.StreamEvents()
    await call.write(pb.StreamEventsRequest(events=[play("left")]))
    await take(log, EVENTS, after=end, count=1)
    call.cancel()
    await until(lambda: not recorder.server.guard.under_way)
    assert len(recorded(await take(log, EVENTS, after=end))) == 1


async def test_a_caller_with_all_streams_gives_one_to_another_and_learns_what_is_recorded(
    log: JetStreamLog,
    monkeypatch: pytest.MonkeyPatch,
    grown: Grown,
) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 2)
    async with recording(log) as recorder:
        held = [recorder.events.StreamEvents(metadata=(("x-vireo-caller", "a"),)) for _ in range(2)]
        for number, call in enumerate(held):
            await call.write(pb.StreamEventsRequest(events=[play(f"full-{number}")]))
        await until(lambda: grown("vireo_events_recorded_total", kind="play") == 2)
        other = recorder.events.StreamEvents(metadata=(("x-vireo-caller", "b"),))
        await other.write(pb.StreamEventsRequest(events=[play("other")]))
        done, _ = await asyncio.wait(
            [asyncio.ensure_future(failure_of(call)) for call in held],
            return_when=asyncio.FIRST_COMPLETED,
        )
        [lost] = [each.result() for each in done]
        assert (lost.code, lost.recorded) == (grpc.StatusCode.UNAVAILABLE, 1)
        await other.done_writing()
        assert (await other).recorded == 1
        for call in held:
            call.cancel()


class SlowLog(JetStreamLog):
    """A log that takes nothing until it is told to."""

    def __init__(self, nats: RunningNats) -> None:
        super().__init__(settings_of(nats))
        self.takes = asyncio.Event()

    async def append(self, *given: Any, **more: Any) -> int:
        await self.takes.wait()
        return await super().append(*given, **more)


async def test_a_caller_whose_calls_wait_for_the_log_leaves_places_to_another(
    nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CALLS", 4)
    log = SlowLog(nats)

    def calls(recorder: Recorder, caller: str, count: int) -> list[asyncio.Future[grpc.StatusCode]]:
        known = (("x-vireo-caller", caller),)
        return [
            asyncio.ensure_future(
                code_of(
                    recorder.events.RecordEvents(
                        batch([play(f"{caller}-{number}")]), metadata=known, timeout=60
                    )
                )
            )
            for number in range(count)
        ]

    async with recording(log) as recorder:
        greedy = calls(recorder, "a", 100)
        await until(lambda: sum(each.done() for each in greedy) == 92)
        other = calls(recorder, "b", 4)
        await until(lambda: sum(each.done() for each in greedy) == 94)
        log.takes.set()
        assert Counter(await asyncio.gather(*other)) == {OK: 2, EXHAUSTED: 2}
        assert Counter(await asyncio.gather(*greedy)) == {OK: 6, EXHAUSTED: 94}
    await log.close()


async def test_a_server_that_shuts_down_ends_streams_with_what_they_have(
    log: JetStreamLog, grown: Grown
) -> None:
    async with recording(log) as recorder:
        call = recorder.events.StreamEvents()
        await call.write(pb.StreamEventsRequest(events=[play("drain")]))
        await until(lambda: grown("vireo_log_append_seconds_count") > 0)
        await until(lambda: recorder.server.guard.under_way == 1)
        draining = asyncio.ensure_future(recorder.server.drain())
        failure = await failure_of(call)
        await draining
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert "shuts down" in failure.message
    assert (failure.recorded, failure.retry_seconds) == (1, 0)


async def test_while_the_log_is_away_nothing_is_acknowledged_and_the_caller_may_repeat(
    nats: RunningNats, recorder: Recorder, log: JetStreamLog, grown: Grown
) -> None:
    await recorder.events.RecordEvents(batch([play("before")]))
    end = await log.end(EVENTS)
    nats.kill()
    failure = await failure_of(recorder.events.RecordEvents(batch([play("away")]), timeout=30))
    assert (failure.code, failure.retry_seconds) == (grpc.StatusCode.UNAVAILABLE, 1)
    assert grown("vireo_events_refused_total", reason="away") == 1
    failure = await failure_of(stream(recorder, [play("away")]))
    assert (failure.code, failure.recorded) == (grpc.StatusCode.UNAVAILABLE, 0)
    nats.start()
    while (await code_of(recorder.events.RecordEvents(batch([play("away")])))) is not OK:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert {each.event_id for each in recorded(await take(log, EVENTS, after=end))} == {"away"}
