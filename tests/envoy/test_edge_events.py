"""How events and changes of the catalogue get through the edge into a real log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.builders.edge import Edge, counter, running_edge
from tests.builders.http2 import grpc_frame, http2
from tests.builders.nats import RunningNats, settings_of
from tests.builders.reading import take
from tests.builders.recording import batch, failure_of, play
from tests.builders.shared_servers import nats
from tests.builders.waiting import until
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, EVENTS
from vireo.server.gateway.events import MAX_STREAMS
from vireo.v1 import event_pb2 as pb
from vireo.v1.catalog_pb2 import RemoveVideosRequest
from vireo.v1.catalog_pb2_grpc import CatalogServiceStub
from vireo.v1.event_pb2_grpc import EventServiceStub
from vireo.v1.log_pb2 import CatalogChange, RecordedEvents
from vireo.v1.recommendation_pb2 import RecommendRequest
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

__all__ = ["nats"]

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@dataclass(frozen=True)
class Recording:
    """An edge before two gateways that record."""

    edge: Edge
    nats: RunningNats
    log: JetStreamLog
    channel: grpc.aio.Channel

    @property
    def events(self) -> Any:
        return EventServiceStub(self.channel)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def recording(
    nats: RunningNats, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Recording]:
    log = JetStreamLog(settings_of(nats))
    async with (
        running_edge(tmp_path_factory.mktemp("edge"), 2, log=log) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        yield Recording(edge, nats, log, channel)
    await log.close()


async def recorded(recording: Recording, end: int) -> list[pb.Event]:
    entries = await take(recording.log, EVENTS, after=end)
    return [event for each in entries for event in RecordedEvents.FromString(each.data).events]


async def test_a_page_records_by_rest_from_an_allowed_origin(recording: Recording) -> None:
    end = await recording.log.end(EVENTS)
    answer = await recording.edge.rest(
        "/v1/events",
        {
            "events": [
                {
                    "eventId": "rest-1",
                    "viewerId": "a/b é",
                    "kind": "EVENT_KIND_PLAY",
                    "videoId": "v",
                    "watchedSeconds": 12.5,
                },
                {"event_id": "rest-2", "viewer_id": "w", "kind": 5, "video_id": "v"},
            ]
        },
        headers={"origin": "http://localhost:3000"},
    )
    assert (answer.status, answer.json) == (200, {"recorded": 2})
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    events = await recorded(recording, end)
    assert [(each.viewer_id, each.watched_seconds, each.kind) for each in events] == [
        ("a/b é", 12.5, pb.EVENT_KIND_PLAY),
        ("w", 0, pb.EVENT_KIND_HIDE),
    ]


async def test_rest_names_what_is_wrong(recording: Recording) -> None:
    for path, body, field in (
        ("/v1/events", {"events": [{"eventId": "a"}]}, "events[0].viewer_id"),
        ("/v1/events", {"events": [{"kind": "PLAY"}]}, "events[0].kind"),
        ("/v1/videos", {"videos": [{"videoId": "a"}, {"videoId": "a"}]}, "videos[1].video_id"),
        ("/v1/videos:remove", {"videoIds": [""]}, "video_ids[0]"),
    ):
        answer = await recording.edge.rest(path, body)
        assert (answer.status, answer.json["code"]) == (400, 3)
        assert field in answer.fields


async def test_a_body_over_a_mebibyte_is_too_large(recording: Recording) -> None:
    answer = await recording.edge.rest("/v1/events", b"x" * ((1 << 20) + 1))
    assert (answer.status, answer.json["code"]) == (413, 8)
    assert answer.json["message"] == "the request exceeds 1 MiB"
    call: Any = recording.channel.unary_unary("/vireo.v1.EventService/RecordEvents")
    failure = await failure_of(call(b"x" * ((1 << 20) + 1)))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.retry_seconds is None


async def test_a_stream_with_a_message_over_two_mebibytes_says_what_is_recorded(
    recording: Recording,
) -> None:
    async def batches() -> AsyncIterator[pb.StreamEventsRequest]:
        yield pb.StreamEventsRequest(events=[play("small")])
        yield pb.StreamEventsRequest(events=[play("large", video_id="v" * (2 << 20))])

    failure = await failure_of(recording.events.StreamEvents(batches()))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (failure.recorded, failure.retry_seconds) == (1, None)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_a_stream_whose_message_is_corrupt_says_what_was_recorded_before(
    recording: Recording, encoding: str
) -> None:
    first = pb.StreamEventsRequest(events=[play(f"before {encoding}")]).SerializeToString()
    body = grpc_frame(first) + b"\1\0\0\0\3abc"
    async with http2(recording.edge.address) as connection, asyncio.timeout(30):
        headers = {"grpc-encoding": encoding}
        stream = connection.open("/vireo.v1.EventService/StreamEvents", body, headers)
        await stream.ended.wait()
    assert stream.code is grpc.StatusCode.INVALID_ARGUMENT
    assert stream.headers["grpc-message"].startswith("after 1 recorded events of the stream: ")


async def test_the_catalogue_is_changed_by_rest_and_grpc(recording: Recording) -> None:
    new = {"videoId": "new", "title": "T", "tags": ["x"], "published": "2026-01-02T03:04:05Z"}
    answer = await recording.edge.rest("/v1/videos", {"videos": [new]})
    assert (answer.status, answer.json) == (200, {"upserted": 1})
    answer = await recording.edge.rest("/v1/videos:remove", {"videoIds": ["old", "older"]})
    assert (answer.status, answer.json) == (200, {"removed": 2})
    stub: Any = CatalogServiceStub(recording.channel)
    request = RemoveVideosRequest(video_ids=["by gRPC"])
    assert (await stub.RemoveVideos(request)).removed == 1
    changes = {
        change.video.video_id: change.removed
        for each in await take(recording.log, CATALOG)
        if (change := CatalogChange.FromString(each.data))
    }
    assert changes == {"new": False, "old": True, "older": True, "by gRPC": True}


async def test_a_stream_goes_to_one_gateway_and_is_answered_when_it_ends(
    recording: Recording,
) -> None:
    end = await recording.log.end(EVENTS)
    call = recording.events.StreamEvents()
    for number in range(5):
        await call.write(pb.StreamEventsRequest(events=[play(f"stream-{number}")]))
        # It isn't buffered on the way: each batch is in the log before the stream ends.
        await take(recording.log, EVENTS, after=end, count=number + 1)
    await call.done_writing()
    assert (await call).recorded == 5


async def test_a_thousand_streams_leave_slates_alone(recording: Recording) -> None:
    held = [recording.events.StreamEvents() for _ in range(1000)]
    codes = asyncio.gather(*(call.code() for call in held))
    async with grpc.aio.insecure_channel(recording.edge.address) as channel:
        slates: Any = RecommendationServiceStub(channel)
        for _ in range(20):
            assert (await slates.Recommend(RecommendRequest(viewer_id="1"), timeout=30)).items
    # Each of the two gateways has as many as it may; the others were refused.
    await until(lambda: sum(call.done() for call in held) >= 1000 - 2 * MAX_STREAMS)
    for call in held:
        call.cancel()
    refused, cancelled = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED
    assert set(await codes) == {refused, cancelled}
    await until(lambda: all(call.done() for call in held))


async def test_while_the_log_is_away_events_are_refused_and_slates_go_on(
    recording: Recording,
) -> None:
    await recording.events.RecordEvents(batch([play("here")]))
    ejected = await counter(recording.edge, "gateway", "outlier_detection.ejections_enforced_total")
    recording.nats.hang()
    slates: Any = RecommendationServiceStub(recording.channel)
    calls = [
        asyncio.ensure_future(failure_of(recording.events.RecordEvents(batch([play(f"{each}")]))))
        for each in range(8)
    ]
    for _ in range(20):
        assert (await slates.Recommend(RecommendRequest(viewer_id="1"), timeout=30)).items
    for failure in await asyncio.gather(*calls):
        assert (failure.code, failure.retry_seconds) == (grpc.StatusCode.UNAVAILABLE, 1)
    recording.nats.go_on()
    name = "outlier_detection.ejections_enforced_total"
    assert await counter(recording.edge, "gateway", name) == ejected


async def test_no_other_gateway_is_tried_for_a_write_however_its_path_is_written(
    recording: Recording,
) -> None:
    event = {"eventId": "slow", "viewerId": "v", "kind": 2, "videoId": "v"}
    writes = [
        *((path, {"events": [event]}) for path in ("/v1/events", "/v1/events/", "/v1/events//")),
        *((path, {"videos": [{"videoId": "v"}]}) for path in ("/v1/videos/", "/v1/videos//")),
        ("/v1/videos:remove", {"videoIds": ["v"]}),
    ]
    tries = await counter(recording.edge, "gateway", "upstream_rq_total")
    recording.nats.hang()
    # Longer than a try of a slate may take before another gateway is asked.
    hurry = {"grpc-timeout": "1200m"}
    answers = await asyncio.gather(
        *(recording.edge.rest(path, body, headers=hurry) for path, body in writes)
    )
    recording.nats.go_on()
    assert {answer.status for answer in answers} == {504}
    assert await counter(recording.edge, "gateway", "upstream_rq_total") == tries + len(writes)
