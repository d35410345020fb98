"""Filters, page tokens and similar videos over REST."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.builders.edge import Edge, running_edge
from tests.envoy.test_edge import ask
from vireo.server.gateway.page_token import MAX_SHOWN, PageTokens
from vireo.v1 import filter_pb2
from vireo.v1 import recommendation_pb2 as pb

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

FILTER = filter_pb2.Filter(
    conditions=[filter_pb2.Condition(attribute="duration", max=600.5)],
    none=[filter_pb2.Filter(conditions=[filter_pb2.Condition(attribute="tag", any_of=["a", "b"])])],
)
AS_JSON = {
    "conditions": [{"attribute": "duration", "max": 600.5}],
    "none": [{"conditions": [{"attribute": "tag", "any_of": ["a", "b"]}]}],
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("edge"), gateway_count=1) as edge:
        yield edge


def longest_token() -> str:
    shown = map(str, range(MAX_SHOWN))
    return PageTokens({"k": b"k" * 16}).issue(pb.RecommendRequest(viewer_id="1"), b"", shown)


async def test_a_body_has_a_filter_and_a_session(edge: Edge) -> None:
    session = [{"videoId": "s", "action": "SESSION_ACTION_HOVERED"}]
    body = {"viewer_id": "1", "filter": AS_JSON, "session": session}
    answer = await ask(edge, "/v1/recommendations", json.dumps(body))
    assert answer.json["items"] == [{"videoId": "v", "position": 1}]
    assert edge.last_request == pb.RecommendRequest(
        viewer_id="1",
        filter=FILTER,
        session=[pb.SessionVideo(video_id="s", action=pb.SESSION_ACTION_HOVERED)],
    )


async def test_the_longest_token_fits_into_a_path_and_into_a_body(edge: Edge) -> None:
    token = longest_token()
    by_path = await ask(edge, f"/v1/viewers/1/recommendations?page_token={token}")
    assert by_path.status == 200
    assert edge.last_request == pb.RecommendRequest(viewer_id="1", page_token=token)
    body = json.dumps({"viewer_id": "1", "pageToken": token})
    assert (await ask(edge, "/v1/recommendations", body)).status == 200
    assert edge.last_request == pb.RecommendRequest(viewer_id="1", page_token=token)


async def test_similar_videos_are_asked_for_by_path_and_by_body(edge: Edge) -> None:
    [gateway] = edge.gateways
    answer = await ask(edge, "/v1/videos/a%2Fb/similar?page_size=3&excluded_video_ids=x")
    assert answer.json["items"] == [{"videoId": "v", "position": 1}]
    asked = pb.SimilarVideosRequest(video_id="a/b", page_size=3, excluded_video_ids=["x"])
    assert gateway.similar == asked
    body = json.dumps({"video_id": "a/b", "filter": AS_JSON})
    answer = await ask(edge, "/v1/videos:similar", body)
    assert answer.json["items"] == [{"videoId": "v", "position": 1}]
    assert gateway.similar == pb.SimilarVideosRequest(video_id="a/b", filter=FILTER)


async def test_a_video_is_explained_by_rest(edge: Edge) -> None:
    [gateway] = edge.gateways
    body = json.dumps({"video_id": "w", "request": {"viewerId": "1", "filter": AS_JSON}})
    answer = (await ask(edge, "/v1/videos:explain", body)).json
    assert answer["lostAt"] == "LOST_AT_RETRIEVAL"
    assert answer["sourceRanks"] == [{"source": "SOURCE_TWO_TOWER", "rank": 812, "proposed": 450}]
    slate = pb.RecommendRequest(viewer_id="1", filter=FILTER)
    assert gateway.explained == pb.ExplainVideoRequest(request=slate, video_id="w")
