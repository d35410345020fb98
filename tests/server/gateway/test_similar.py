"""Videos like one, for no viewer in particular; and a session, which moves a viewer's slate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from tests.builders.chain import POPULAR, Chain
from tests.builders.relay import Relay, relaying
from tests.builders.releases import video_ids
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.server.features.keys import video_key
from vireo.v1 import recommendation_pb2 as pb

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub


async def test_similar_videos_are_those_of_up_next_without_a_viewer(
    whole: RecommendationServiceAsyncStub,
) -> None:
    asked = pb.SimilarVideosRequest(video_id="video-20", page_size=40)
    similar = await whole.SimilarVideos(asked)
    following = await whole.Recommend(
        pb.RecommendRequest(
            viewer_id="nobody", page_size=40, surface=pb.SURFACE_UP_NEXT, seed_video_id="video-20"
        )
    )
    assert similar.items == following.items
    assert similar.release_id == "tiny-1"
    assert similar.request_id
    assert not similar.degradations
    assert {item.video_id for item in similar.items} == set(video_ids(40)) - {"video-20"}


async def test_similar_videos_are_ten_without_the_excluded_ones(
    whole: RecommendationServiceAsyncStub,
) -> None:
    first = await whole.SimilarVideos(pb.SimilarVideosRequest(video_id="video-20"))
    names = [item.video_id for item in first.items]
    assert len(names) == 10
    others = pb.SimilarVideosRequest(video_id="video-20", excluded_video_ids=names)
    second = await whole.SimilarVideos(others)
    assert len(second.items) == 10
    assert not {item.video_id for item in second.items} & {*names, "video-20"}


async def test_an_unknown_video_has_no_similar_ones(whole: RecommendationServiceAsyncStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await whole.SimilarVideos(pb.SimilarVideosRequest(video_id="nowhere"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert str(raised.value.details()).startswith("video_id: 'nowhere'")


async def test_similar_videos_need_no_feature_store_and_degrade_to_the_popular_list(
    chain: Chain,
) -> None:
    async with chain.gateway(away="candidate") as stub:
        similar = await stub.SimilarVideos(pb.SimilarVideosRequest(video_id="video-20"))
    assert list(similar.degradations) == POPULAR
    assert [item.video_id for item in similar.items] == video_ids(40)[:10]


async def test_a_session_reaches_retrieval_as_keys_and_weights_by_action(
    chain: Chain,
) -> None:
    relay = Relay(chain.candidate)
    session = [
        pb.SessionVideo(video_id="a"),
        pb.SessionVideo(video_id="b", action=pb.SESSION_ACTION_OPENED),
        pb.SessionVideo(video_id="c", action=pb.SESSION_ACTION_SEARCHED),
        pb.SessionVideo(video_id="video-7", action=pb.SESSION_ACTION_HOVERED),
    ]
    async with (
        relaying(relay) as candidate,
        chain.gateway(candidate=candidate) as stub,
    ):
        slate = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, session=session))
    assert not slate.degradations
    assert len(slate.items) == 10
    [asked] = relay.requests
    assert list(asked.session_keys) == [*map(video_key, ("a", "b", "c", "video-7"))]
    assert list(asked.session_weights) == [1, 1, 0.5, 0.25]
    assert set(asked.viewer.watched_keys) == {*map(video_key, WATCHED)}, "it isn't stored"
