"""What callers of a gateway are charged with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc.aio
import pytest
from google.protobuf.message import Message

from tests.builders.recording import Recorder, batch, failure_of, play
from tests.builders.waiting import until
from vireo.server.gateway.release import GatewayRelease, digest_of
from vireo.server.gateway.rules import RulesFile
from vireo.server.gateway.service import request_cost
from vireo.server.recommend.filters.declared import Declared
from vireo.server.releases.layout import VIDEO_KEYS
from vireo.server.rpc.caller import CALLER
from vireo.v1 import catalog_pb2, event_pb2, filter_pb2
from vireo.v1 import recommendation_pb2 as pb

METADATA = ((CALLER, "page"),)


def used(recorder: Recorder, caller: str = "page") -> float:
    return recorder.server.guard.budget.used(caller)


async def recorded(call: Callable[[], Awaitable[object]]) -> None:
    """Call until the log has written: on a busy machine its disk may take longer than a call."""
    async with asyncio.timeout(120):
        while True:
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            else:
                return


async def test_events_and_videos_are_charged_by_their_number(recorder: Recorder) -> None:
    recorder.server.guard.budget._clock = lambda: 0.0  # use fades, and the log may take its time
    many = [play(str(number)) for number in range(1000)]
    await recorded(lambda: recorder.events.RecordEvents(batch(many), metadata=METADATA))
    assert used(recorder) > 0.02
    before = used(recorder)
    videos = [catalog_pb2.Video(video_id=str(number)) for number in range(500)]
    upsert = catalog_pb2.UpsertVideosRequest(videos=videos)
    await recorded(lambda: recorder.catalog.UpsertVideos(upsert, metadata=METADATA))
    assert used(recorder) > before + 0.02
    assert used(recorder, "another") == 0


async def test_an_invalid_batch_is_charged_too(recorder: Recorder) -> None:
    recorder.server.guard.budget._clock = lambda: 0.0
    invalid = batch([event_pb2.Event() for _ in range(1000)])
    failure = await failure_of(recorder.events.RecordEvents(invalid, metadata=METADATA))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert used(recorder) > 0.0005


async def test_a_stream_waits_for_its_turn_and_loses_nothing(recorder: Recorder) -> None:
    budget = recorder.server.guard.budget
    budget._charge("page", 10.0, rests=False)
    budget._rested_at = budget._clock() + 1e9
    budget.light("another")
    call = recorder.events.StreamEvents(metadata=METADATA)
    await call.write(event_pb2.StreamEventsRequest(events=[play("waits")]))
    await call.done_writing()
    await until(lambda: budget.waiting == 1)
    # The other one is silent from now on: the lane goes on.
    assert (await call).recorded == 1


def filtered(*values: str) -> pb.RecommendRequest:
    condition = filter_pb2.Condition(attribute="tag", any_of=values)
    return pb.RecommendRequest(viewer_id="v", filter=filter_pb2.Filter(conditions=[condition]))


def release_of(videos: int) -> GatewayRelease:
    file = SimpleNamespace(size=128 + 8 * videos)
    manifest: Any = SimpleNamespace(files={VIDEO_KEYS: file})
    return GatewayRelease(manifest, cast("Any", None), cast("Any", None), Declared())


def cost(release: GatewayRelease, request: Message, rules: Any = None) -> float:
    loader = SimpleNamespace(serving=SimpleNamespace(content=release))
    return request_cost(cast("Any", loader), rules, request)


def note(release: GatewayRelease, request: pb.RecommendRequest, rules: Any = None) -> None:
    """Note that pods evaluate a request's filter."""
    release.evaluated[digest_of(request.filter, rules)] = None


def test_a_filter_is_charged_by_terms_and_videos_until_slates_are_made_with_it() -> None:
    release = release_of(1_000_000)
    many = filtered(*(f"tag {number}" for number in range(64)))
    assert cost(release, many) == pytest.approx(0.32, rel=0.3)
    assert cost(release, many) > 0, "the call before may have been refused, or wait for its turn"
    note(release, many)
    assert cost(release, many) == 0
    assert cost(release, pb.ExplainVideoRequest(request=filtered("a"))) == pytest.approx(
        5e-3, rel=0.3
    )
    assert cost(release, pb.RecommendRequest(viewer_id="v")) == 0
    assert cost(release_of(1000), filtered("a", "b", "c")) == 0, "it is small"
    for number in range(100):
        note(release, filtered(str(number)))
    assert cost(release, many) > 0, "pods may have dropped it"


def test_a_filter_is_charged_beside_each_filter_of_the_site(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(
        """
        [[filters]]
        name = "swiss"
        regions = ["CH"]
        surfaces = ["home"]
        conditions = [{ attribute = "tag", none_of = ["a"] }]
        """
    )
    rules, release = RulesFile(file), release_of(1_000_000)
    asked = filtered("a", "b")
    note(release, asked)
    for region in ("", "DE", "fr"):
        asked.context.region = region
        assert cost(release, asked, rules) == 0
    asked.context.region = "ch"
    assert cost(release, asked, rules) > 0
    note(release, asked, rules.rules.active(up_next=False, region="CH"))
    assert cost(release, asked, rules) == 0
    similar = pb.SimilarVideosRequest(video_id="v", filter=asked.filter, context=asked.context)
    asked.surface = pb.SURFACE_UP_NEXT
    assert cost(release, asked, rules) == cost(release, similar, rules) == 0


def test_a_batch_is_charged_by_its_viewers() -> None:
    release = release_of(1_000_000)
    many = pb.BatchRecommendRequest(viewer_ids=map(str, range(10_000)))
    assert cost(release, many) == pytest.approx(0.1)
    many.filter.CopyFrom(filtered("a").filter)
    assert cost(release, many) > 0.1
    one = pb.BatchRecommendRequest(viewer_ids=["v"])
    assert 0 < cost(release, one) < 1e-4, "it is a light call"
