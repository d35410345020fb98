"""The slate pod: what separate pods answer, from one process."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.builders.chain import (
    NOWHERE,
    POPULAR,
    SKIPPED,
    Chain,
    GatewayStub,
    candidate_target,
    chain,
    features,
    gateway_settings,
    names,
    ranking_target,
    release,
)
from tests.builders.filters import condition, message
from tests.builders.inference import golden, infer_request
from tests.builders.refusals import failure_of
from tests.builders.releases import build_release
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER
from vireo.inference import open_inference_pb2_grpc
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.ranking.service import RANKING_POD
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.releases import layout
from vireo.server.slate.service import SlateRelease, SlateSettings, slate_pod
from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

__all__ = ["candidate_target", "chain", "features", "ranking_target", "release"]

NOON = pb.RequestContext(time=Timestamp(seconds=1_760_000_000))
"""Else slates could differ by the second."""
GERMAN = message(condition("language", any_of=["de"]))
UNKNOWN = message(condition("nowhere", any_of=["x"]))


def recommend(**fields: Any) -> pb.RecommendRequest:
    return pb.RecommendRequest(**{"viewer_id": VIEWER, "context": NOON, **fields})


def pod_of(
    features: Path, built: Callable[[SlateRelease], SlateRelease] | None = None, **changes: Any
) -> Pod[SlateRelease]:
    """A slate pod of which no part may call another process."""
    settings = gateway_settings(features, NOWHERE, NOWHERE, **changes)
    pod = slate_pod(SlateSettings(**settings.model_dump()))
    if built is None:
        return pod
    return replace(pod, build=lambda folder: built(pod.build(folder)))


@asynccontextmanager
async def together(
    chain: Chain, built: Callable[[SlateRelease], SlateRelease] | None = None, **changes: Any
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a slate pod that serves the chain's release."""
    async with serving(pod_of(chain.features, built, **changes), chain.release) as (_, channel):
        yield channel


async def answer_of(call: Any) -> Any:
    """What a call answers, but for its id and times; or its status."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    answer.ClearField("request_id")
    if "features_age" in answer.DESCRIPTOR.fields_by_name:
        answer.ClearField("features_age")
    if getattr(answer, "next_page_token", ""):
        answer.next_page_token = "it has the second"
    if answer.DESCRIPTOR.fields_by_name.get("explanation") and answer.HasField("explanation"):
        for name in ("features_time", "retrieval_time", "ranking_time", "features_age"):
            getattr(answer.explanation, name).CopyFrom(Duration())
    return answer


async def test_slates_and_refusals_are_those_of_separate_pods(chain: Chain) -> None:
    def asked(stub: GatewayStub) -> list[Any]:
        up_next = {"surface": pb.SURFACE_UP_NEXT, "page_size": 5}
        return [
            stub.Recommend(recommend(page_size=37, explain=True)),
            stub.Recommend(recommend(viewer_id="nobody")),
            stub.Recommend(recommend(seed_video_id="video-7", **up_next)),
            stub.Recommend(recommend(filter=GERMAN)),
            stub.SimilarVideos(pb.SimilarVideosRequest(video_id="video-9", context=NOON)),
            stub.ExplainVideo(pb.ExplainVideoRequest(request=recommend(), video_id="video-30")),
            stub.Recommend(recommend(seed_video_id="nowhere", **up_next)),
            stub.Recommend(recommend(filter=UNKNOWN)),
            stub.Recommend(recommend(page_size=-1)),
        ]

    async with chain.gateway() as separate, together(chain) as channel:
        expected = [await answer_of(each) for each in asked(separate)]
        got = [await answer_of(each) for each in asked(RecommendationServiceStub(channel))]
    assert got == expected
    codes = [each[0].name for each in got if isinstance(each, tuple)]
    assert codes == ["NOT_FOUND", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]
    assert all(each.items for each in got[:5])


async def test_a_failed_source_and_a_failed_ranker_are_declared(chain: Chain) -> None:
    missing: Any = None

    def without_ease(whole: SlateRelease) -> SlateRelease:
        source = replace(whole.candidate.release, ease_rows=missing)
        return replace(whole, candidate=CandidatePipeline(source))

    def with_nan(whole: SlateRelease) -> SlateRelease:
        release = whole.candidate.release
        source = replace(release, vectors=release.vectors * np.float32("nan"))
        return replace(whole, candidate=CandidatePipeline(source))

    def without_ranker(whole: SlateRelease) -> SlateRelease:
        return replace(whole, ranking=missing)

    def without_both(whole: SlateRelease) -> SlateRelease:
        return replace(whole, ranking=missing, candidate=missing)

    for broken, declared in (
        (without_ease, [viewer_pb2.DEGRADATION_SOURCE_MISSING]),
        (with_nan, [viewer_pb2.DEGRADATION_SOURCE_MISSING]),
        (without_ranker, SKIPPED),
        (without_both, POPULAR),
    ):
        async with together(chain, broken) as channel:
            slate = await RecommendationServiceStub(channel).Recommend(recommend())
        assert list(slate.degradations) == declared
        assert len(names(slate)) == 10
        assert all(math.isfinite(item.score) for item in slate.items)


async def test_a_ranker_that_comes_too_late_is_left_out(chain: Chain) -> None:
    def slow(whole: SlateRelease) -> SlateRelease:
        class Slow:
            release = whole.ranking.release

            def rank(self, query: Any, caller: Any) -> Any:
                time.sleep(0.3)  # as a model holds the event loop
                return whole.ranking.rank(query, caller)

        late: Any = Slow()
        return replace(whole, ranking=late)

    async with together(chain, slow, ranking_timeout=0.2) as channel:
        stub = RecommendationServiceStub(channel)
        slates = await asyncio.gather(*(stub.Recommend(recommend()) for _ in range(3)))
    assert [list(each.degradations) for each in slates] == [SKIPPED] * 3


async def test_inner_services_and_both_models_are_reachable(chain: Chain) -> None:
    viewer = viewer_pb2.ViewerFeatures()
    ask = candidate_pb2.RetrieveCandidatesRequest(viewer=viewer, count=20, page_size=5)
    async with (
        together(chain) as channel,
        serving(CANDIDATE_POD, chain.release) as (_, candidate),
        serving(RANKING_POD, chain.release) as (_, ranking),
    ):
        here, there = (CandidateServiceStub(each) for each in (channel, candidate))
        found = await here.RetrieveCandidates(ask)
        assert found == await there.RetrieveCandidates(ask)
        rank = ranking_pb2.RankCandidatesRequest(
            viewer=viewer,
            keys=found.keys,
            scores=found.scores,
            source_masks=found.source_masks,
            page_size=5,
        )
        inner, outer = (RankingServiceStub(each) for each in (channel, ranking))
        assert await inner.RankCandidates(rank) == await outer.RankCandidates(rank)
        infer = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model, path in (
            ("viewer_tower", layout.GOLDEN_VIEWER_TOWER),
            ("ranker", layout.GOLDEN_RANKER),
        ):
            inputs, _ = golden(chain.release, path)
            response = await infer.ModelInfer(infer_request(model, inputs, raw=True))
            assert response.model_name == model
        refused = await failure_of(infer.ModelInfer(infer_request("tower", {}, raw=True)))
    assert refused.code() is grpc.StatusCode.NOT_FOUND


async def test_all_services_swap_at_once_and_answer_pinned_calls_from_the_release_before(
    chain: Chain, tmp_path: Path
) -> None:
    newer = build_release(tmp_path / "newer", release_id="tiny-2", videos=60)
    pod = pod_of(chain.features)
    ask = candidate_pb2.RetrieveCandidatesRequest(
        viewer=viewer_pb2.ViewerFeatures(), count=20, page_size=5, release_id="tiny-1"
    )
    async with serving(pod, newer, previous=chain.release) as (_, channel):
        slate = await RecommendationServiceStub(channel).Recommend(recommend())
        pinned = await CandidateServiceStub(channel).RetrieveCandidates(ask)
    assert slate.release_id == "tiny-2"
    assert not slate.degradations
    assert pinned.release_id == "tiny-1"
