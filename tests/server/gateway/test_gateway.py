"""The gateway over real pods: whole slates, and slates without whatever fails."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from tests.builders.chain import NOWHERE, gateway
from tests.builders.recording import failure_of
from tests.builders.releases import build_release, video_ids
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.ranking.service import RANKING_POD
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.releases.manifest import Manifest
from vireo.v1 import candidate_pb2, candidate_pb2_grpc, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub


def ids(response: pb.RecommendResponse) -> list[str]:
    return [item.video_id for item in response.items]


async def test_a_known_viewer_gets_a_full_slate_without_watched_videos(
    whole: RecommendationServiceAsyncStub,
) -> None:
    response = await whole.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=37))
    assert set(ids(response)) == set(video_ids(40)) - set(WATCHED)
    assert not response.degradations
    assert response.release_id == "tiny-1"
    assert [item.position for item in response.items] == list(range(1, 38))
    scores = [item.score for item in response.items]
    assert scores == sorted(scores, reverse=True)
    assert all(item.HasField("task_scores") and item.sources for item in response.items)
    assert not response.HasField("explanation")


async def test_an_unknown_viewer_is_a_cold_start_and_no_degradation(
    whole: RecommendationServiceAsyncStub,
) -> None:
    response = await whole.Recommend(pb.RecommendRequest(viewer_id="nobody", explain=True))
    assert len(response.items) == 10
    assert not response.degradations
    assert response.explanation.history_length == 0


async def test_fewer_videos_come_only_when_the_catalogue_has_no_more(
    whole: RecommendationServiceAsyncStub,
) -> None:
    excluded = video_ids(40)[3:38]
    request = pb.RecommendRequest(viewer_id=VIEWER, excluded_video_ids=excluded)
    assert set(ids(await whole.Recommend(request))) == {"video-38", "video-39"}
    request.excluded_video_ids[:] = video_ids(40)
    nothing = await whole.Recommend(request)
    assert not nothing.items
    assert not nothing.degradations
    assert nothing.release_id == "tiny-1"


async def test_unknown_excluded_ids_are_ignored(whole: RecommendationServiceAsyncStub) -> None:
    plain = await whole.Recommend(pb.RecommendRequest(viewer_id=VIEWER))
    request = pb.RecommendRequest(viewer_id=VIEWER, excluded_video_ids=["nowhere"] * 1000)
    assert ids(await whole.Recommend(request)) == ids(plain)


async def test_on_home_the_playing_video_leads_to_nothing(
    whole: RecommendationServiceAsyncStub,
) -> None:
    request = pb.RecommendRequest(viewer_id=VIEWER, page_size=40)
    plain = (await whole.Recommend(request)).items
    request.seed_video_id = "video-20"
    playing = (await whole.Recommend(request)).items
    scores = {item.video_id: item.score for item in plain}
    del scores["video-20"]
    assert {item.video_id: item.score for item in playing} == scores


async def test_an_unknown_seed_video_is_an_error_only_for_up_next(
    whole: RecommendationServiceAsyncStub,
) -> None:
    request = pb.RecommendRequest(viewer_id=VIEWER, seed_video_id="nowhere")
    assert len((await whole.Recommend(request)).items) == 10
    request.surface = pb.SURFACE_UP_NEXT
    failure = await failure_of(whole.Recommend(request))
    assert failure.code is grpc.StatusCode.NOT_FOUND
    assert "'nowhere'" in failure.message


async def test_an_explanation_has_titles_times_and_sources(
    whole: RecommendationServiceAsyncStub,
) -> None:
    response = await whole.Recommend(pb.RecommendRequest(viewer_id=VIEWER, explain=True))
    assert all(item.title == f"Title of {item.video_id}" for item in response.items)
    explanation = response.explanation
    assert explanation.candidates == 37
    assert explanation.history_length == 3
    assert {report.source for report in explanation.sources} >= {
        viewer_pb2.Source.Value(f"SOURCE_{name}")
        for name in ("TWO_TOWER", "CO_WATCH", "POPULAR", "EASE", "FRESH")
    }
    assert explanation.features_age.seconds > 0
    for time in ("features_time", "retrieval_time", "ranking_time"):
        assert getattr(explanation, time).ToNanoseconds() > 0


async def test_a_request_may_bring_watches_of_its_own(
    whole: RecommendationServiceAsyncStub,
) -> None:
    own = ["video-20", "video-21", "nowhere"]
    profile = pb.RequestProfile(history=[pb.WatchedVideo(video_id=each) for each in own])
    request = pb.RecommendRequest(viewer_id=VIEWER, page_size=40, explain=True, profile=profile)
    added = await whole.Recommend(request)
    assert set(ids(added)) == set(video_ids(40)) - set(WATCHED) - set(own)
    assert added.explanation.history_length == 6
    request.profile.use = pb.PROFILE_USE_INSTEAD
    instead = await whole.Recommend(request)
    assert set(ids(instead)) == set(video_ids(40)) - set(own)
    assert instead.explanation.history_length == 3
    assert not instead.explanation.HasField("features_age")
    assert not instead.degradations
    del request.profile.history[:]
    request.viewer_id = "nobody"
    request.ClearField("profile")
    plain = await whole.Recommend(request)
    assert len(plain.items) == 40, "nothing of it was stored"


async def test_every_violation_is_listed_by_field(whole: RecommendationServiceAsyncStub) -> None:
    profile = pb.RequestProfile(history=[pb.WatchedVideo()], attributes=["x" * 257])
    profile.use = 9  # type: ignore[assignment]  # of a later build
    request = pb.RecommendRequest(
        viewer_id="",
        page_size=501,
        surface=pb.SURFACE_UP_NEXT,
        excluded_video_ids=["x", ""],
        profile=profile,
    )
    failure = await failure_of(whole.Recommend(request))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {*failure.fields} == {
        "viewer_id",
        "page_size",
        "seed_video_id",
        "excluded_video_ids[1]",
        "profile.history[0].video_id",
        "profile.attributes[0]",
        "profile.use",
    }
    long = pb.RequestProfile(history=[pb.WatchedVideo(video_id="v")] * 201, attributes=["a=b"] * 17)
    failure = await failure_of(whole.Recommend(pb.RecommendRequest(viewer_id="v", profile=long)))
    assert {*failure.fields} == {"profile.history", "profile.attributes"}


async def test_as_many_candidates_are_ranked_as_the_release_that_answers_states(
    release: Path, features: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(release, tmp_path / "canary")
    changes = {"release_id": "canary", "candidates": 12}
    Manifest.read(folder).model_copy(update=changes).write(folder)
    async with (
        serving(CANDIDATE_POD, folder) as (candidate, _),
        serving(RANKING_POD, folder) as (ranking, _),
    ):
        pods = (f"127.0.0.1:{candidate.port}", f"127.0.0.1:{ranking.port}")
        for size, setting, asked_for in ((1, None, 12), (20, None, 20), (1, 5, 5), (20, 5, 20)):
            async with gateway(release, features, *pods, candidates=setting) as stub:
                request = pb.RecommendRequest(viewer_id=VIEWER, page_size=size, explain=True)
                response = await stub.Recommend(request)
                assert response.release_id == "canary"
                assert not response.degradations
                assert response.explanation.candidates == asked_for


async def test_without_ranking_pods_the_slate_is_in_retrieval_order(
    release: Path, features: Path, candidate_target: str
) -> None:
    async with gateway(release, features, candidate_target, NOWHERE) as stub:
        response = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=37))
    assert list(response.degradations) == [viewer_pb2.DEGRADATION_RANKING_SKIPPED]
    assert set(ids(response)) == set(video_ids(40)) - set(WATCHED)
    scores = [item.score for item in response.items]
    assert scores == sorted(scores, reverse=True)
    assert all(item.sources and not item.HasField("task_scores") for item in response.items)
    assert response.release_id == "tiny-1"


async def test_without_candidate_pods_the_slate_is_the_popular_list(
    release: Path, features: Path, ranking_target: str
) -> None:
    async with gateway(release, features, NOWHERE, ranking_target) as stub:
        request = pb.RecommendRequest(
            viewer_id=VIEWER,
            page_size=4,
            excluded_video_ids=["video-4"],
            seed_video_id="video-5",
            explain=True,
        )
        response = await stub.Recommend(request)
    assert list(response.degradations) == [viewer_pb2.DEGRADATION_POPULAR_FALLBACK]
    # By popularity, without the watched, the excluded and the playing one.
    assert ids(response) == ["video-3", "video-6", "video-7", "video-8"]
    scores = [item.score for item in response.items]
    assert scores == sorted(scores, reverse=True)
    assert response.release_id == "tiny-1"
    assert response.explanation.candidates == 0


async def test_a_failed_source_is_declared(
    release: Path, features: Path, ranking_target: str
) -> None:
    missing: Any = None

    def without_ease(folder: Path) -> CandidatePipeline:
        return CandidatePipeline(replace(CANDIDATE_POD.build(folder).release, ease_rows=missing))

    async with (
        serving(replace(CANDIDATE_POD, build=without_ease), release) as (server, _),
        gateway(release, features, f"127.0.0.1:{server.port}", ranking_target) as stub,
    ):
        response = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, explain=True))
    assert list(response.degradations) == [viewer_pb2.DEGRADATION_SOURCE_MISSING]
    assert len(response.items) == 10
    failures = {report.source: report.failure for report in response.explanation.sources}
    assert failures.pop(viewer_pb2.SOURCE_EASE)
    assert not any(failures.values())


async def test_a_chain_of_two_releases_is_declared_and_has_no_nameless_videos(
    release: Path, features: Path, ranking_target: str, tmp_path: Path
) -> None:
    newer = build_release(tmp_path / "newer", release_id="tiny-2", videos=60)
    async with (
        serving(CANDIDATE_POD, newer) as (server, _),
        gateway(release, features, f"127.0.0.1:{server.port}", ranking_target) as stub,
    ):
        response = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=57))
    assert list(response.degradations) == [viewer_pb2.DEGRADATION_MIXED_RELEASES]
    assert response.release_id == "tiny-1"
    # The ranking pod doesn't know 20 of them; the candidate pod has named its first page.
    assert set(ids(response)) == set(video_ids(60)) - set(WATCHED)


@pytest.mark.parametrize("gateways_release_is_held", [True, False])
async def test_during_a_rollout_a_chain_keeps_to_one_release_the_gateways_if_pods_hold_it(
    release: Path, features: Path, tmp_path: Path, gateways_release_is_held: bool
) -> None:
    newer = build_release(tmp_path / "newer", release_id="tiny-2", videos=60)
    before = release if gateways_release_is_held else None
    async with (
        serving(CANDIDATE_POD, newer, previous=before) as (candidate, _),
        serving(RANKING_POD, release, previous=newer) as (ranking, _),
        gateway(
            release, features, f"127.0.0.1:{candidate.port}", f"127.0.0.1:{ranking.port}"
        ) as stub,
    ):
        response = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=57))
    assert not response.degradations
    videos = 40 if gateways_release_is_held else 60
    assert response.release_id == ("tiny-1" if gateways_release_is_held else "tiny-2")
    assert set(ids(response)) == set(video_ids(videos)) - set(WATCHED)


class Recorder(candidate_pb2_grpc.CandidateServiceServicer):
    """A candidate service that finds nothing, and keeps what it was asked."""

    def __init__(self, failure: str = "") -> None:
        self.failure = failure
        self.request = candidate_pb2.RetrieveCandidatesRequest()
        self.metadata: dict[str, Any] = {}

    async def RetrieveCandidates(  # noqa: N802
        self, request: candidate_pb2.RetrieveCandidatesRequest, context: Any
    ) -> candidate_pb2.RetrieveCandidatesResponse:
        self.request = request
        self.metadata = dict(context.invocation_metadata())
        report = pb.SourceReport(source=viewer_pb2.SOURCE_TWO_TOWER, failure=self.failure)
        return candidate_pb2.RetrieveCandidatesResponse(release_id="recorded", sources=[report])


@asynccontextmanager
async def recording(recorder: Recorder) -> AsyncIterator[str]:
    """Where the recorder answers."""
    server = grpc.aio.server()
    candidate_pb2_grpc.add_CandidateServiceServicer_to_server(recorder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_where_a_source_failed_and_the_others_found_nothing_the_popular_list_comes(
    release: Path, features: Path
) -> None:
    async with (
        recording(Recorder(failure="broken")) as candidate,
        gateway(release, features, candidate, NOWHERE) as stub,
    ):
        response = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER))
    assert len(response.items) == 10
    assert list(response.degradations) == [
        viewer_pb2.DEGRADATION_SOURCE_MISSING,
        viewer_pb2.DEGRADATION_POPULAR_FALLBACK,
    ]
    assert response.release_id == "tiny-1"


@pytest.mark.parametrize(("limit", "least", "most"), [(20.0, 8000, 10000), (0.06, 100, 100)])
async def test_one_try_of_an_inner_call_gets_half_of_its_time_and_100_ms_at_least(
    release: Path, features: Path, limit: float, least: int, most: int
) -> None:
    recorder = Recorder()
    async with (
        recording(recorder) as candidate,
        gateway(release, features, candidate, NOWHERE, retrieval_timeout=limit) as stub,
    ):
        async with asyncio.timeout(60):
            while not recorder.metadata:  # in so short a time a call may not arrive
                await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER))
    per_try_ms = int(recorder.metadata["x-envoy-upstream-rq-per-try-timeout-ms"])
    assert least <= per_try_ms <= most


async def test_the_inner_hop_gets_the_request_id_the_trace_and_the_viewers_row(
    release: Path, features: Path
) -> None:
    recorder = Recorder()
    trace = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=1",
    }
    async with (
        recording(recorder) as candidate,
        gateway(release, features, candidate, NOWHERE) as stub,
    ):
        call = stub.Recommend(
            pb.RecommendRequest(viewer_id=VIEWER),
            metadata=(("x-request-id", "mine"), *trace.items()),
        )
        response = await call
        assert dict(await call.trailing_metadata())["x-request-id"] == "mine"
    assert response.request_id == "mine"
    assert response.release_id == "recorded"
    assert recorder.metadata["x-request-id"] == "mine"
    assert {name: recorder.metadata[name] for name in trace} == trace
    viewer = recorder.request.viewer
    assert len(viewer.history_keys) == 3
    assert np.diff(viewer.history_times).tolist() == [3600, 3600]
    assert sorted(viewer.watched_keys) == sorted(viewer.history_keys)
    assert list(viewer.attributes) == ["occupation=artist"]
    assert (viewer.watch_count, viewer.like_count) == (3, 2)
    assert recorder.request.count == 300
    assert recorder.request.release_id == "tiny-1"
