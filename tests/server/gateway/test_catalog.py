"""What CatalogService puts into a real log, and what it refuses."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from tests.builders.catalogue import restored
from tests.builders.nats import RunningNats
from tests.builders.reading import take
from tests.builders.recording import Recorder, failure_of, recording
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, REMOVED
from vireo.server.features.keys import video_key
from vireo.server.gateway.catalog import catalog_key
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.v1 import catalog_pb2 as pb
from vireo.v1.log_pb2 import CatalogChange


async def changes(log: JetStreamLog) -> dict[str, CatalogChange]:
    """The last change of each video, by its id."""
    found = {}
    for entry in await take(log, CATALOG):
        change = CatalogChange.FromString(entry.data)
        assert entry.key == catalog_key(change.video.video_id)
        assert int(entry.key, 16) == video_key(change.video.video_id) % (1 << 64)
        assert len(entry.key) == 16
        assert change.HasField("received_at")
        found[change.video.video_id] = change
    return found


def labels(name: str, *values: str) -> pb.VideoAttribute:
    return pb.VideoAttribute(name=name, labels=values)


def number(name: str, value: float = 1) -> pb.VideoAttribute:
    return pb.VideoAttribute(name=name, number=value)


async def test_the_last_change_of_each_video_is_in_the_log_when_the_call_returns(
    recorder: Recorder, log: JetStreamLog
) -> None:
    videos = [
        pb.Video(
            video_id="new",
            title="A title",
            tags=["a", "b"],
            published=Timestamp(seconds=1_700_000_000),
            duration=61.5,
            creator="someone",
            attributes=[labels("language", "de", "fr"), number("age", 0)],
        ),
        pb.Video(video_id="é / ."),
        pb.Video(video_id="later removed"),
    ]
    answer = await recorder.catalog.UpsertVideos(pb.UpsertVideosRequest(videos=videos))
    assert answer.upserted == 3
    ids = ["later removed", "never known"]
    removed = await recorder.catalog.RemoveVideos(pb.RemoveVideosRequest(video_ids=ids))
    assert removed.removed == 2
    found = await changes(log)
    assert {each.video_id: each for each in videos[:2]} == {
        name: change.video for name, change in found.items() if not change.removed
    }
    assert {name for name, change in found.items() if change.removed} == set(ids)
    assert {name for name, is_removed in (await removals(log)).items() if is_removed} >= set(ids)
    assert found["never known"].video == pb.Video(video_id="never known")


async def removals(log: JetStreamLog) -> dict[str, bool]:
    """Whether each video that was removed still is, by its id."""
    words = map(CatalogChange.FromString, [entry.data for entry in await take(log, REMOVED)])
    return {each.video.video_id: each.removed for each in words}


async def test_an_upsert_undoes_a_removal_only_if_it_says_so(log: JetStreamLog) -> None:
    takedowns = Takedowns()
    async with recording(log, takedowns=takedowns) as recorder:
        await recorder.catalog.RemoveVideos(pb.RemoveVideosRequest(video_ids=["bad", "worse"]))
        takedowns.take(await take(log, REMOVED))
        videos = [pb.Video(video_id="bad", title="of it"), pb.Video(video_id="good")]
        answer = await recorder.catalog.UpsertVideos(pb.UpsertVideosRequest(videos=videos))
        assert (answer.upserted, answer.still_removed) == (2, 1)
        assert (await removals(log))["bad"]
        assert (await changes(log))["bad"].video == videos[0]

        request = pb.UpsertVideosRequest(videos=videos, restore=True)
        answer = await recorder.catalog.UpsertVideos(request)
        assert (answer.upserted, answer.still_removed) == (2, 0)
    found = await removals(log)
    assert not found["bad"]
    assert found["worse"]
    takedowns.take(await take(log, REMOVED))
    assert takedowns.among([video_key("bad"), video_key("worse")]) == {video_key("worse")}


async def test_a_change_counts_though_the_clock_of_its_gateway_is_behind(log: JetStreamLog) -> None:
    key, takedowns = video_key("ahead"), Takedowns()
    takedowns.take([restored(1, "ahead", at=round(time.time()) + 1000)])
    async with recording(log, takedowns=takedowns) as recorder:
        await recorder.catalog.RemoveVideos(pb.RemoveVideosRequest(video_ids=["ahead"]))
        takedowns.take(await take(log, REMOVED))
        assert key in takedowns
        again = pb.UpsertVideosRequest(videos=[pb.Video(video_id="ahead")], restore=True)
        await recorder.catalog.UpsertVideos(again)
        takedowns.take(await take(log, REMOVED))
        assert key not in takedowns


async def upserted(recorder: Recorder, request: pb.UpsertVideosRequest) -> bool:
    """Upsert videos; return False if the log did not answer in time."""
    try:
        await recorder.catalog.UpsertVideos(request)
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return False
        raise
    return True


async def test_a_thousand_videos_are_taken_at_once(recorder: Recorder, log: JetStreamLog) -> None:
    end = await log.end(CATALOG)
    videos = [pb.Video(video_id=f"many-{number}") for number in range(1000)]
    request = pb.UpsertVideosRequest(videos=videos)
    async with asyncio.timeout(60):
        while not await upserted(recorder, request):  # a busy machine's log may answer too late
            pass
    assert len({entry.key for entry in await take(log, CATALOG, after=end)}) == 1000


def video(video_id: str = "v", **fields: Any) -> pb.Video:
    return pb.Video(video_id=video_id, **fields)


INVALID: list[tuple[list[pb.Video], list[str]]] = [
    ([], ["videos"]),
    ([video(str(number)) for number in range(1001)], ["videos"]),
    ([video(), video("")], ["videos[1].video_id"]),
    ([video("a"), video("b"), video("a"), video("a")], ["videos[2].video_id", "videos[3].v"]),
    ([video("i" * 129)], ["videos[0].video_id"]),
    ([video(title="t" * 1001)], ["videos[0].title"]),
    ([video(tags=["t"] * 65)], ["videos[0].tags"]),
    ([video(tags=[""])], ["videos[0].tags[0]"]),
    ([video(duration=-1)], ["videos[0].duration"]),
    ([video(published=Timestamp(seconds=2**60))], ["videos[0].published"]),
    ([video(published=Timestamp(nanos=2**30))], ["videos[0].published"]),
    ([video(attributes=[number("a")] * 17)], ["videos[0].attributes"]),
    ([video(attributes=[labels("", "x")])], ["videos[0].attributes[0].name"]),
    ([video(attributes=[labels("a" * 65, "x")])], ["videos[0].attributes[0].name"]),
    ([video(attributes=[labels("a", "")])], ["videos[0].attributes[0].labels[0]"]),
    ([video(attributes=[labels("a", "é" * 65)])], ["videos[0].attributes[0].labels[0]"]),
    ([video(attributes=[labels("a", *"x" * 65)])], ["videos[0].attributes[0].labels"]),
    ([video(attributes=[number("a", float("inf"))])], ["videos[0].attributes[0].number"]),
    (
        [video("a"), video("b", attributes=[labels("a", "x"), number("b"), number("a")])],
        ["videos[1].attributes[2].name"],
    ),
    (
        [video(attributes=[labels("tag", "x"), number("duration"), labels("A=b", "x")])],
        [f"videos[0].attributes[{place}].name" for place in range(3)],
    ),
    (
        [
            video(
                attributes=[
                    pb.VideoAttribute(name="a"),
                    pb.VideoAttribute(name="b", labels=["x"], number=0),
                    number("c", 0),
                ]
            )
        ],
        ["videos[0].attributes[0]", "videos[0].attributes[1]"],
    ),
]


async def test_what_is_invalid_is_named_and_nothing_is_changed(
    recorder: Recorder, log: JetStreamLog
) -> None:
    end = await log.end(CATALOG)
    requests: list[tuple[Any, Any, list[str]]] = [
        (recorder.catalog.UpsertVideos, pb.UpsertVideosRequest(videos=videos), fields)
        for videos, fields in INVALID
    ]
    requests += [
        (recorder.catalog.RemoveVideos, pb.RemoveVideosRequest(video_ids=ids), [field])
        for ids, field in (([], "video_ids"), (["a", ""], "video_ids[1]"), ("aa", "video_ids[1]"))
    ]
    for method, request, fields in requests:
        failure = await failure_of(method(request))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert all(map(str.startswith, failure.fields, fields)), failure
        assert len(failure.fields) == len(fields)
    assert await log.end(CATALOG) == end


async def test_while_the_log_is_away_the_caller_may_repeat(
    nats: RunningNats, recorder: Recorder, log: JetStreamLog
) -> None:
    await recorder.catalog.RemoveVideos(pb.RemoveVideosRequest(video_ids=["a"]))
    nats.kill()
    request = pb.UpsertVideosRequest(videos=[video(str(number)) for number in range(300)])
    failure = await failure_of(recorder.catalog.UpsertVideos(request, timeout=30))
    assert (failure.code, failure.retry_seconds) == (grpc.StatusCode.UNAVAILABLE, 1)
    nats.start()
