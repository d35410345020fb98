"""Explanations of a video, as both clients get them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.builders.gateway import FakeGateway, fake_gateway
from vireo.v1 import recommendation_pb2 as pb
from vireo_client import (
    AsyncClient,
    Client,
    Condition,
    Filter,
    InvalidRequest,
    LostAt,
    Source,
    SourceRank,
    Surface,
    TaskScores,
    VideoExplanation,
)

EXPECTED = VideoExplanation(
    lost_at=LostAt.RETRIEVAL,
    reason="No source proposed it: two_tower ranked it 812th and proposed 450.",
    position=0,
    sources=(),
    source_ranks=(SourceRank(Source.TWO_TOWER, 812, 450),),
    retrieval_rank=0,
    candidates=450,
    retrieval_scores={"two_tower": 0.5},
    score=0.25,
    score_factor=1,
    task_scores=TaskScores(0.25, 0.5),
    task_weights={"watch": 1},
    ranking_features={"content_match": 0.125},
    features_age=None,
    request_id="id",
    release_id="r",
    degradations=(),
)


async def explain(gateway: FakeGateway, *, blocking: bool, **arguments: Any) -> VideoExplanation:
    if not blocking:
        async with AsyncClient(gateway.address, timeout=60) as client:
            return await client.explain_video("w", "1", **arguments)

    def call() -> VideoExplanation:
        with Client(gateway.address, timeout=60) as client:
            return client.explain_video("w", "1", **arguments)

    return await asyncio.to_thread(call)


@pytest.mark.parametrize("blocking", [False, True])
async def test_an_explanation_has_every_field(blocking: bool) -> None:
    async with fake_gateway() as gateway:
        told = await explain(
            gateway,
            blocking=blocking,
            page_size=7,
            surface=Surface.UP_NEXT,
            seed_video_id="v",
            filter=Filter([Condition("tag", any_of=["a"])]),
            region="CH",
        )
        with pytest.raises(InvalidRequest):
            await explain(gateway, blocking=blocking, page_size=1 << 40)
        [asked] = gateway.explained
    assert told == EXPECTED
    assert asked.video_id == "w"
    assert asked.request.viewer_id == "1"
    assert asked.request.page_size == 7
    assert asked.request.surface == pb.SURFACE_UP_NEXT
    assert asked.request.seed_video_id == "v"
    assert asked.request.context == pb.RequestContext(region="CH")
    assert asked.request.filter.conditions[0].attribute == "tag"
