"""What of the log's bytes a caller may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from tests.builders.clock import Clock
from tests.builders.nats import RunningNats, running_nats, settings_of
from tests.builders.reading import take
from tests.builders.recording import Failure, Recorder, batch, failure_of, play, recording
from tests.builders.samples import sample
from tests.builders.waiting import until
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, DEAD, EVENTS
from vireo.server.gateway import appender
from vireo.server.gateway.appender import RESERVED_FOR_HIDES, LogRoom
from vireo.server.rpc.caller import CALLER
from vireo.server.rpc.errors import RpcError
from vireo.v1 import catalog_pb2
from vireo.v1 import event_pb2 as pb

DAY = 86_400.0
MAX_BYTES = 4 << 20


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def room(clock: Clock) -> LogRoom:
    made = LogRoom(JetStreamLog(None), 30 * DAY, clock)  # type: ignore[arg-type]  # it isn't asked
    made.update_usage(0, 1_000_000)
    return made


def flood(room: LogRoom, caller: str, *, hides: bool = False) -> int:
    """Append until it is refused; return how many bytes were taken."""
    for number in range(10_000):
        try:
            room.charge(caller, [b"x" * 850], hides=hides)
        except RpcError:
            return 1000 * number
    raise AssertionError("nothing was refused")


def test_each_of_n_callers_that_flood_leaves_as_much_as_it_takes(room: LogRoom) -> None:
    usable = 1_000_000 * (1 - RESERVED_FOR_HIDES)
    assert flood(room, "a") == pytest.approx(usable / 2, abs=2_000)
    assert flood(room, "b") == pytest.approx(usable / 4, abs=2_000)
    assert flood(room, "a") == 0
    assert flood(room, "c") == pytest.approx(usable / 8, abs=2_000)


def test_the_last_part_is_for_hides_of_which_each_caller_has_a_share(room: LogRoom) -> None:
    room.update_usage(950_000, 1_000_000)
    assert flood(room, "a") == 0
    for caller in ("a", "b"):
        assert flood(room, caller, hides=True) == pytest.approx(6_250, abs=1_000)
        assert flood(room, caller, hides=True) == 0
    room.update_usage(1_000_000, 1_000_000)
    assert flood(room, "c", hides=True) == 0, "it is full"


def test_hides_do_not_close_the_log_to_plays_of_others(room: LogRoom, clock: Clock) -> None:
    for _ in range(8):
        flood(room, "a", hides=True)
        flood(room, "a")
        clock.now += 4 * DAY
    flood(room, "b", hides=True)
    assert room._used < 900_000
    room.charge("c", [b"x" * 850], hides=False)


def test_a_caller_may_go_on_as_its_events_age_and_the_log_is_emptied(
    room: LogRoom, clock: Clock
) -> None:
    first = flood(room, "a")
    clock.now += 30 * DAY / 8
    assert flood(room, "a") == pytest.approx(first / 4, abs=2_000)
    clock.now += 30 * DAY
    room.update_usage(0, 1_000_000)
    assert flood(room, "a") == pytest.approx(450_000, abs=5_000)


@pytest.mark.parametrize(("hides", "used", "least"), [(False, 0, 400_000), (True, 950_000, 5_000)])
def test_what_a_log_that_was_away_did_not_store_is_not_counted(
    room: LogRoom, hides: bool, used: int, least: int
) -> None:
    room.update_usage(used, 1_000_000)
    for _ in range(1_000):
        room.refund("a", room.charge("a", [b"x" * 850], hides=hides), hides=hides)
    assert flood(room, "a", hides=hides) > least


def test_a_steady_caller_that_is_alone_has_three_quarters(room: LogRoom, clock: Clock) -> None:
    day = 0.75 * 1_000_000 / 30
    for passed in range(60):
        room.update_usage(round(min(passed, 30) * day), 1_000_000)
        room.charge("a", [b"x" * round(day - 150)], hides=False)
        clock.now += DAY


def test_without_a_maximum_nobody_is_refused_and_few_callers_are_remembered(
    room: LogRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "MAX_CALLERS", 3)
    for number in range(10):
        room.charge(str(number), [b"x"], hides=False)
    assert len(room._callers) == 3
    room.update_usage(10**12, 0)
    room.charge("a", [b"x" * 10**6], hides=False)


@pytest.fixture
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNats]:
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def log(nats: RunningNats) -> AsyncIterator[JetStreamLog]:
    log = JetStreamLog(settings_of(nats, event_max_bytes=MAX_BYTES))
    yield log
    await log.close()


def of(caller: str) -> dict[str, Any]:
    return {"metadata": ((CALLER, caller),)}


async def fill(recorder: Recorder, caller: str, kind: Any = pb.EVENT_KIND_PLAY) -> Failure:
    """Record batches of 100 KB until one is refused."""
    wide = "w" * 120
    for number in range(100):
        events = [
            play(f"{caller}{number}.{each}", wide, wide, kind=kind, request_id=wide)
            for each in range(250)
        ]
        try:
            await recorder.events.RecordEvents(batch(events), **of(caller))
        except grpc.aio.AioRpcError:
            return await failure_of(recorder.events.RecordEvents(batch(events), **of(caller)))
    raise AssertionError("nothing was refused")


async def test_no_caller_fills_the_log_for_others_nor_for_hides(
    log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "_LOOK_SECONDS", 0.05)
    room = LogRoom(log, 30 * DAY)
    looking = asyncio.create_task(room.run())
    await until(lambda: room._max > 0)
    async with recording(log, room=room) as recorder:
        for caller in ("mallory", "eve"):
            failure = await fill(recorder, caller)
            assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert failure.retry_seconds == 60
            assert "VIREO_EVENT_MAX_BYTES" in failure.message
        await recorder.events.RecordEvents(batch([play("1", "alice")]), **of("alice"))
        hide = play("2", "mallory", kind=pb.EVENT_KIND_HIDE)
        await recorder.events.RecordEvents(batch([hide]), **of("mallory"))
        before = sample("vireo_events_refused_total", reason="full")
        mixed = batch([hide, play("3")])
        failure = await failure_of(recorder.events.RecordEvents(mixed, **of("mallory")))
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert sample("vireo_events_refused_total", reason="full") == before + 2
        used, most = await log.usage(EVENTS)
        assert most == MAX_BYTES
        assert 0.5 < used / most < 1 - RESERVED_FOR_HIDES
        await until(lambda: sample("vireo_log_used_ratio", stream="events") == used / most)
        assert sample("vireo_log_used_ratio", stream="dead") == 0
    looking.cancel()


async def test_unknown_fields_are_not_recorded(log: JetStreamLog) -> None:
    async with recording(log) as recorder:
        known = play("1", locale="de")
        ballast = b"\xfa\x3e" + b"\xc0\xb6\x3c" + b"x" * 990_016  # field 1007, 990,016 bytes
        event = pb.Event.FromString(known.SerializeToString() + ballast)
        assert event.ByteSize() > 990_000
        answer = await recorder.events.RecordEvents(batch([event]))
        assert answer.recorded == 1
        [entry] = await take(log, EVENTS)
        assert len(entry.data) < 200
        video = catalog_pb2.Video(video_id="v", title="Title")
        odd = catalog_pb2.Video.FromString(video.SerializeToString() + ballast)
        await recorder.catalog.UpsertVideos(catalog_pb2.UpsertVideosRequest(videos=[odd]))
        [entry] = await take(log, CATALOG)
        assert len(entry.data) < 200
    assert await log.usage(DEAD) == (0, 1 << 30)


async def test_the_largest_valid_video_and_event_fit_the_log(log: JetStreamLog) -> None:
    labels = [f"{number:03}" + "l" * 125 for number in range(64)]
    video = catalog_pb2.Video(
        video_id="v" * 128,
        title="t" * 1000,
        tags=labels,
        creator="c" * 128,
        attributes=[
            catalog_pb2.VideoAttribute(name=f"a{number:063}", labels=labels) for number in range(16)
        ],
    )
    wide = "w" * 128
    event = play(wide, wide, wide, request_id=wide, locale="l" * 35, device="d" * 64)
    event.time_zone, event.creator = "z" * 64, wide
    async with recording(log) as recorder:
        await recorder.catalog.UpsertVideos(catalog_pb2.UpsertVideosRequest(videos=[video]))
        await recorder.events.RecordEvents(batch([event]))
        huge = play("1", locale="l" * 1_000_000)
        failure = await failure_of(recorder.events.RecordEvents(batch([event, huge])))
    assert (failure.code, failure.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        ("events[1].locale",),
    )
