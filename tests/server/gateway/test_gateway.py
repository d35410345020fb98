"""The gateway over real pods: whole slates, and slates without whatever fails."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from tests.builders.chain import POPULAR, SKIPPED, Chain, names, slate_declaring
from tests.builders.refusals import failure_of, violations_of
from tests.builders.relay import Relay, relaying
from tests.builders.releases import build_release, video_ids
from tests.builders.rpc import rpc_settings, serving
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.ops.stack.ports import free_port_base
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.ranking.service import RANKING_POD
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.releases.manifest import Manifest
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

UNSEEN = set(video_ids(40)) - set(WATCHED)


def request(**fields: Any) -> pb.RecommendRequest:
    return pb.RecommendRequest(**{"viewer_id": VIEWER, **fields})


async def test_a_known_viewer_gets_a_full_slate_without_watched_videos(
    whole: RecommendationServiceAsyncStub,
) -> None:
    response = await whole.Recommend(request(page_size=37))
    assert set(names(response)) == UNSEEN
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


async def test_excluded_videos_are_left_out_until_the_catalogue_has_no_more(
    whole: RecommendationServiceAsyncStub,
) -> None:
    plain = await whole.Recommend(request())
    unknown = await whole.Recommend(request(excluded_video_ids=["nowhere"] * 1000))
    assert names(unknown) == names(plain)
    few = await whole.Recommend(request(excluded_video_ids=video_ids(40)[3:38]))
    assert set(names(few)) == {"video-38", "video-39"}
    nothing = await whole.Recommend(request(excluded_video_ids=video_ids(40)))
    assert not nothing.items
    assert not nothing.degradations
    assert nothing.release_id == "tiny-1"


async def test_the_playing_video_is_never_returned_and_on_home_it_leads_to_nothing(
    whole: RecommendationServiceAsyncStub,
) -> None:
    plain = await whole.Recommend(request(page_size=40))
    for surface in (pb.SURFACE_HOME, pb.SURFACE_UP_NEXT):
        playing = names(plain)[0]
        asked = request(page_size=40, surface=surface, seed_video_id=playing)
        assert playing not in names(await whole.Recommend(asked))
    # In no source another video moves up for this one, by which its own score would change.
    home = await whole.Recommend(request(page_size=40, seed_video_id="video-20"))
    scores = {item.video_id: item.score for item in plain.items}
    del scores["video-20"]
    assert {item.video_id: item.score for item in home.items} == scores


async def test_an_unknown_seed_video_is_an_error_only_for_up_next(
    whole: RecommendationServiceAsyncStub,
) -> None:
    assert len((await whole.Recommend(request(seed_video_id="nowhere"))).items) == 10
    up_next = request(seed_video_id="nowhere", surface=pb.SURFACE_UP_NEXT)
    error = await failure_of(whole.Recommend(up_next))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert str(error.details()).startswith("seed_video_id: 'nowhere'")


async def test_an_explanation_has_titles_times_and_sources(
    whole: RecommendationServiceAsyncStub,
) -> None:
    response = await whole.Recommend(request(explain=True))
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
    asked = request(page_size=40, explain=True, profile=profile)
    added = await whole.Recommend(asked)
    assert set(names(added)) == UNSEEN - set(own)
    assert added.explanation.history_length == 6
    asked.profile.use = pb.PROFILE_USE_INSTEAD
    instead = await whole.Recommend(asked)
    assert set(names(instead)) == set(video_ids(40)) - set(own)
    assert instead.explanation.history_length == 3
    assert not instead.explanation.HasField("features_age")
    assert not instead.degradations
    plain = await whole.Recommend(request(page_size=40))
    assert set(names(plain)) == UNSEEN, "nothing of it was stored"


ODD: Any = 9
"""A number that the enum doesn't have."""


@pytest.mark.parametrize(
    ("fields", "violated"),
    [
        (
            {"viewer_id": "", "page_size": 501, "excluded_video_ids": ["x", ""]},
            {"viewer_id", "page_size", "excluded_video_ids[1]"},
        ),
        ({"surface": pb.SURFACE_UP_NEXT}, {"seed_video_id"}),
        (
            {"profile": {"history": [{}], "attributes": ["x" * 257], "use": ODD}},
            {"profile.history[0].video_id", "profile.attributes[0]", "profile.use"},
        ),
        (
            {"profile": {"history": [{"video_id": "v"}] * 201, "attributes": ["a=b"] * 17}},
            {"profile.history", "profile.attributes"},
        ),
    ],
)
async def test_every_violation_is_listed_by_field(
    whole: RecommendationServiceAsyncStub, fields: dict[str, Any], violated: set[str]
) -> None:
    error = await failure_of(whole.Recommend(request(**fields)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert violations_of(error).keys() == violated


async def test_a_page_larger_than_the_candidate_count_is_filled(chain: Chain) -> None:
    async with chain.gateway(candidates=5) as stub:
        assert len((await stub.Recommend(request(page_size=20))).items) == 20
        response = await stub.Recommend(request(page_size=1, explain=True))
        assert response.explanation.candidates == 5


async def test_as_many_candidates_are_ranked_as_the_release_that_answers_states(
    chain: Chain, tmp_path: Path
) -> None:
    folder = shutil.copytree(chain.release, tmp_path / "canary")
    changes = {"release_id": "canary", "candidates": 12}
    Manifest.read(folder).model_copy(update=changes).write(folder)
    async with (
        serving(CANDIDATE_POD, folder) as (candidate, _),
        serving(RANKING_POD, folder) as (ranking, _),
    ):
        pods = (f"127.0.0.1:{candidate.port}", f"127.0.0.1:{ranking.port}")
        for size, setting, asked_for in ((1, None, 12), (20, None, 20), (1, 5, 5)):
            async with chain.gateway(*pods, candidates=setting) as stub:
                response = await stub.Recommend(request(page_size=size, explain=True))
                assert response.release_id == "canary"
                assert not response.degradations
                assert response.explanation.candidates == asked_for


async def test_without_ranking_pods_the_slate_is_in_retrieval_order(chain: Chain) -> None:
    async with chain.gateway(away="ranking") as stub:
        response = await stub.Recommend(request(page_size=37))
    assert list(response.degradations) == SKIPPED
    assert set(names(response)) == UNSEEN
    scores = [item.score for item in response.items]
    assert scores == sorted(scores, reverse=True)
    assert all(item.sources and not item.HasField("task_scores") for item in response.items)
    assert response.release_id == "tiny-1"


async def test_without_candidate_pods_the_slate_is_the_popular_list(chain: Chain) -> None:
    asked = request(
        page_size=4, excluded_video_ids=["video-4"], seed_video_id="video-5", explain=True
    )
    async with chain.gateway(away="candidate") as stub:
        response = await stub.Recommend(asked)
    assert list(response.degradations) == POPULAR
    # By popularity, without the watched, the excluded and the playing one.
    assert names(response) == ["video-3", "video-6", "video-7", "video-8"]
    scores = [item.score for item in response.items]
    assert scores == sorted(scores, reverse=True)
    assert response.release_id == "tiny-1"
    assert response.explanation.candidates == 0


async def test_a_failed_source_is_declared(chain: Chain) -> None:
    missing: Any = None

    def without_ease(folder: Path) -> CandidatePipeline:
        return CandidatePipeline(replace(CANDIDATE_POD.build(folder).release, ease_rows=missing))

    async with (
        serving(replace(CANDIDATE_POD, build=without_ease), chain.release) as (server, _),
        chain.gateway(f"127.0.0.1:{server.port}") as stub,
    ):
        response = await stub.Recommend(request(explain=True))
    assert list(response.degradations) == [viewer_pb2.DEGRADATION_SOURCE_MISSING]
    assert len(response.items) == 10
    failures = {report.source: report.failure for report in response.explanation.sources}
    assert failures.pop(viewer_pb2.SOURCE_EASE)
    assert not any(failures.values())


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("newer")
    return build_release(folder, release_id="tiny-2", videos=60)


async def test_a_chain_of_two_releases_is_declared_and_has_no_nameless_videos(
    chain: Chain, newer: Path
) -> None:
    async with (
        serving(CANDIDATE_POD, newer) as (server, _),
        chain.gateway(f"127.0.0.1:{server.port}") as stub,
    ):
        response = await stub.Recommend(request(page_size=57))
    assert list(response.degradations) == [viewer_pb2.DEGRADATION_MIXED_RELEASES]
    assert response.release_id == "tiny-1"
    # The ranking pod doesn't know 20 of them; the candidate pod has named its first page.
    assert set(names(response)) == set(video_ids(60)) - set(WATCHED)


@pytest.mark.parametrize("both", [True, False])
async def test_during_a_rollout_a_chain_keeps_to_one_release_while_pods_hold_it(
    chain: Chain, newer: Path, both: bool
) -> None:
    """That of the gateway, and if the candidate pod has dropped it that of the candidates."""
    first, second = (newer, chain.release) if both else (chain.release, newer)
    async with (
        serving(CANDIDATE_POD, newer, previous=chain.release if both else None) as (candidate, _),
        serving(RANKING_POD, first, previous=second) as (ranking, _),
        chain.gateway(f"127.0.0.1:{candidate.port}", f"127.0.0.1:{ranking.port}") as stub,
    ):
        response = await stub.Recommend(request(page_size=57))
    assert not response.degradations
    assert response.release_id == ("tiny-1" if both else "tiny-2")
    assert set(names(response)) == set(video_ids(40 if both else 60)) - set(WATCHED)


def finding_nothing(failure: str = "") -> Any:
    """Change a pod's response to one without candidates, with a source that may have failed."""

    def change(answer: Any) -> None:
        answer.Clear()
        answer.release_id = "recorded"
        answer.sources.add(source=viewer_pb2.SOURCE_TWO_TOWER, failure=failure)

    return change


async def test_if_a_source_failed_and_the_others_found_nothing_the_popular_list_comes(
    chain: Chain,
) -> None:
    relay = Relay(chain.candidate, change=finding_nothing("broken"))
    async with relaying(relay) as candidate, chain.gateway(candidate) as stub:
        response = await stub.Recommend(request())
    assert len(response.items) == 10
    assert list(response.degradations) == [
        viewer_pb2.DEGRADATION_SOURCE_MISSING,
        viewer_pb2.DEGRADATION_POPULAR_FALLBACK,
    ]
    assert response.release_id == "tiny-1"


@pytest.mark.parametrize(("limit", "least", "most"), [(20.0, 8000, 10000), (0.06, 100, 100)])
async def test_one_try_of_an_inner_call_gets_half_of_its_time_and_100_ms_at_least(
    chain: Chain, limit: float, least: int, most: int
) -> None:
    relay = Relay(chain.candidate)
    async with (
        relaying(relay) as candidate,
        chain.gateway(candidate, retrieval_timeout=limit) as stub,
        asyncio.timeout(60),
    ):
        while not relay.metadata:  # in so short a time a call may not arrive
            await stub.Recommend(request())
    assert least <= int(relay.metadata[0]["x-envoy-upstream-rq-per-try-timeout-ms"]) <= most


async def test_the_inner_hop_gets_the_request_id_the_trace_and_the_viewers_row(
    chain: Chain,
) -> None:
    relay = Relay(chain.candidate, change=finding_nothing())
    sent = {
        "x-request-id": "mine",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=1",
    }
    async with relaying(relay) as candidate, chain.gateway(candidate) as stub:
        call = stub.Recommend(request(), metadata=tuple(sent.items()))
        response = await call
        assert dict(await call.trailing_metadata())["x-request-id"] == "mine"
    assert response.request_id == "mine"
    assert response.release_id == "recorded"
    assert relay.metadata[0].items() >= sent.items()
    [asked] = relay.requests
    viewer = asked.viewer
    assert len(viewer.history_keys) == 3
    assert np.diff(viewer.history_times).tolist() == [3600, 3600]
    assert sorted(viewer.watched_keys) == sorted(viewer.history_keys)
    assert list(viewer.attributes) == ["occupation=artist"]
    assert (viewer.watch_count, viewer.like_count) == (3, 2)
    assert asked.count == 300
    assert asked.release_id == "tiny-1"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "declared"), [(CANDIDATE_POD, POPULAR), (RANKING_POD, SKIPPED)])
async def test_pods_that_are_back_are_used_again(
    chain: Chain,
    kind: Pod[Any],
    declared: list[int],
) -> None:
    port, asked = free_port_base(), request()
    async with chain.gateway(**{kind.kind: f"127.0.0.1:{port}"}) as stub:
        for _ in range(2):
            await slate_declaring(stub, asked, declared)
            async with serving(kind, chain.release, settings=rpc_settings(port=port)):
                await slate_declaring(stub, asked, [])
        await slate_declaring(stub, asked, declared)
