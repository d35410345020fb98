"""Explanations of a video, as both clients get them."""

from __future__ import annotations

import pytest

from tests.builders.gateway import FakeGateway
from tests.clients.python.conftest import Connect
from vireo.v1 import recommendation_pb2 as pb
from vireo_client import (
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


async def test_an_explanation_has_every_field(connect: Connect, gateway: FakeGateway) -> None:
    async with connect(gateway.address) as client:
        told = await client.call(
            "explain_video",
            "w",
            "1",
            page_size=7,
            surface=Surface.UP_NEXT,
            seed_video_id="v",
            filter=Filter([Condition("tag", any_of=["a"])]),
            region="CH",
        )
        with pytest.raises(InvalidRequest):
            await client.call("explain_video", "w", "1", page_size=1 << 40)
    [asked] = gateway.explained
    assert told == EXPECTED
    assert asked.video_id == "w"
    assert asked.request.viewer_id == "1"
    assert asked.request.page_size == 7
    assert asked.request.surface == pb.SURFACE_UP_NEXT
    assert asked.request.seed_video_id == "v"
    assert asked.request.context == pb.RequestContext(region="CH")
    assert asked.request.filter.conditions[0].attribute == "tag"
